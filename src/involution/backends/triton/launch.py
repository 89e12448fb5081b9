"""From the shapes and strides of a call to the kernel that serves it, its grid and its arguments."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...geometry import Window
from . import strips, taps

# Threads per warp: AMD's data-centre GPUs run 64 in step.
LANES = 64 if torch.version.hip else 32
# Offsets are 32-bit up to this many elements, with room for the pixels by which the last tile hangs over.
NARROW = 2**30


class Tile(NamedTuple):
    """What one program computes.

    Attributes:
        pixels: pixels, or strips of pixels.
        channels: channels of a group.
        warps: warps that share the work.
    """

    pixels: int
    channels: int
    warps: int


class Launch(NamedTuple):
    """A kernel and everything it is called with but its three tensors.

    Attributes:
        kernel: the Triton kernel.
        programs: how many of them.
        arguments: what follows the map of the input, the field and the map of the output, in order.
        options: of the compiler.
    """

    kernel: Any
    programs: int
    arguments: tuple[int | bool, ...]
    options: dict[str, Any]

    def run(self, x: Tensor, field: Tensor, y: Tensor) -> None:
        """Launch on the current stream of the current device."""
        self.kernel[(self.programs,)](x, field, y, *self.arguments, **self.options)


class Row(NamedTuple):
    """A row of the launch table.

    Attributes:
        threads: threads per program.
        loads: loads of 16 bytes that fill a thread's share of a tile.
        most_pixels: groups of few channels take no more pixels (or strips) than this.
    """

    threads: int
    loads: int = 1
    most_pixels: int = 512


# (kernel, whether it takes strips). The kernel gradient hands every sum over channels from one thread to another:
# inside a warp that needs no barrier.
_TABLE = {
    ("forward", False): Row(128),
    ("forward", True): Row(128, most_pixels=128),
    ("input_gradient", False): Row(128),
    ("input_gradient", True): Row(128, most_pixels=128),
    ("kernel_gradient", False): Row(32, most_pixels=128),
    ("kernel_gradient", True): Row(32, most_pixels=128),
}
# Below this number of programs a large GPU has multiprocessors without work: a program gets the share of one warp.
_FEW_PROGRAMS = 512
_MOST_CHANNELS = 32
# A longer row of taps, unrolled over strips, does not fit into the registers.
_LONGEST_STRIP_ROW = 9
# Strips of the kernel gradient hold all channels of a group.
_MOST_STRIP_CHANNELS = 64


def tile(kernel: str, strip: bool, group_channels: int, itemsize: int, work: int, lanes: int) -> Tile:
    """Return what one program computes, from the launch table.

    Args:
        kernel: ``"forward"``, ``"input_gradient"`` or ``"kernel_gradient"``.
        strip: whether strips of four pixels are numbered.
        group_channels: C / G.
        itemsize: bytes of a value.
        work: pixels or strips of all groups.
        lanes: threads per warp.
    """
    row = _TABLE[kernel, strip]
    whole = kernel == "kernel_gradient" and strip
    channels = min(power_of_two(group_channels), _MOST_STRIP_CHANNELS if whole else _MOST_CHANNELS)

    def pixels(threads: int) -> int:
        return min(row.most_pixels, max(1, row.loads * (16 // itemsize) * threads // channels))

    threads = max(lanes, row.threads)
    if work < _FEW_PROGRAMS * pixels(threads):
        threads = lanes
    return Tile(pixels(threads), channels, threads // lanes)


def power_of_two(n: int) -> int:
    """Return the smallest power of two that is at least ``n``."""
    return 1 << (n - 1).bit_length()


def options(warps: int) -> dict[str, Any]:
    """Return the compiler's options: a product and its sum are one instruction, whatever Triton's default."""
    return {"num_warps": warps, "enable_fp_fusion": True}


def plan(kernel: str, x: Tensor, field: Tensor, y: Tensor, window: Window, lanes: int = LANES) -> Launch:
    """Return how ``kernel`` is launched on these tensors; only their shapes and strides are looked at."""
    return _plan(
        kernel, x.element_size(), lanes, x.shape, x.stride(), field.shape, field.stride(), y.shape, y.stride(), window
    )


@lru_cache(maxsize=4096)
def _plan(
    kernel: str,
    itemsize: int,
    lanes: int,
    x: torch.Size,
    x_stride: Sequence[int],
    field: torch.Size,
    field_stride: Sequence[int],
    y: torch.Size,
    y_stride: Sequence[int],
    window: Window,
) -> Launch:
    dims = len(x) - 2

    def three(values: Sequence[int], fill: int) -> tuple[int, ...]:
        return (fill,) * (3 - dims) + tuple(values)

    groups, group_channels = field[1], x[1] // field[1]
    size, out_size = three(x[2:], 1), three(y[2:], 1)
    taps_per_dim = three(field[2 : 2 + dims], 1)
    stride, padding, dilation = three(window.stride, 1), three(window.padding, 0), three(window.dilation, 1)
    strip = serves_strips(kernel, group_channels, taps_per_dim, stride, dilation)
    counted = size if kernel == "input_gradient" else out_size
    if strip:
        counted = (*counted[:2], -(-counted[2] // strips.STRIP))
    pixels = x[0] * prod(counted)
    block = tile(kernel, strip, group_channels, itemsize, pixels * groups, lanes)
    blocks = 1 if kernel == "kernel_gradient" else -(-group_channels // block.channels)
    # Windows, and in the input gradient the search for them, reach outside the map.
    reach = [p + d * (k - 1) for p, d, k in zip(padding, dilation, taps_per_dim, strict=True)][3 - dims :]
    wide = (
        max(
            _extent(x, x_stride, (0, 0, *reach)),
            _extent(y, y_stride, (0, 0, *reach)),
            _extent(field, field_stride, (0, 0, *(0,) * dims, *reach)),
        )
        > NARROW
    )
    volume = size[0] > 1 or out_size[0] > 1 or taps_per_dim[0] > 1
    rows = taps_per_dim[1]
    if kernel == "input_gradient" and dilation[1] == 1:
        # Only every s-th row of taps can reach a pixel.
        rows = -(-rows // stride[1])
    arguments = (
        pixels,
        groups,
        rows,
        *size,
        *out_size,
        *x_stride[:2],
        *three(x_stride[2:], 0),
        *field_stride[:2],
        *three(field_stride[2 : 2 + dims], 0),
        *three(field_stride[2 + dims :], 0),
        *y_stride[:2],
        *three(y_stride[2:], 0),
        group_channels,
        *taps_per_dim,
        *stride,
        *padding,
        *dilation,
        volume,
        wide,
        block.pixels,
        block.channels,
    )
    module = strips if strip else taps
    return Launch(
        getattr(module, kernel), -(-pixels // block.pixels) * groups * blocks, arguments, options(block.warps)
    )


def serves_strips(
    kernel: str, group_channels: int, kernel_size: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> bool:
    """Whether the register-reusing kernels serve this geometry: neighbouring pixels share what they read."""
    if not 3 <= kernel_size[-1] <= _LONGEST_STRIP_ROW or stride[-1] != 1 or dilation[-1] != 1:
        return False
    if kernel == "input_gradient":
        return all(s == 1 for s in stride)
    return kernel == "forward" or group_channels <= _MOST_STRIP_CHANNELS


def _extent(shape: Sequence[int], strides: Sequence[int], reach: Sequence[int]) -> int:
    """Return the largest offset in a tensor whose indices are exceeded by ``reach`` in both directions."""
    return sum((n - 1 + 2 * r) * s for n, s, r in zip(shape, strides, reach, strict=True))
