"""What a φ that looks at neighbourhoods is made of: products and differences over a window, and a softmax inside it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import handle_torch_function, has_torch_function

from .. import functional
from ..geometry import Window
from ..memory_layout import is_field_channels_last, pixels_first, taps_first

__all__ = [
    "continued",
    "coordinates",
    "correlate",
    "differences",
    "fill_outside",
    "neighbourhoods",
    "offsets",
    "softmax_inside",
    "softmax_over_taps",
    "to_output_grid",
]

# The smallest map that so many pixels can be taken from.
_LEAST: dict[str, Callable[[int], int]] = {
    "reflect": lambda p: p + 1,
    "replicate": lambda p: 1,
    "circular": lambda p: p,
}
_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def correlate(query: Tensor, key: Tensor, window: Window, groups: int) -> Tensor:
    """Return `involution.correlation2d` of ``query`` and ``key``, in as many dimensions as ``window`` has."""
    dims = len(window.kernel_size)
    correlation = (functional.correlation1d, functional.correlation2d, functional.correlation3d)[dims - 1]
    kernel_size, stride, padding, dilation = window
    return correlation(query, key, kernel_size, groups=groups, stride=stride, padding=padding, dilation=dilation)


def neighbourhoods(x: Tensor, grid: Tensor, window: Window) -> Tensor:
    """Return the window around every pixel, ``(B, C, K, K, H', W')``: the correlation of ``x`` with ones.

    Args:
        x: ``(B, C, H, W)``.
        grid: any map of the size of the result, ``(B, C, H', W')``.
        window: where the neighbours lie; those outside the map are zero.
    """
    return correlate(torch.ones_like(grid), x, window, x.shape[1])


def differences(query: Tensor, key: Tensor, window: Window) -> Tensor:
    """Return ``query`` minus each ``key`` of its window: ``(B, C, H', W')``, ``(B, C, H, W)`` to ``(B, C, K, K, H', W')``."""
    dims = len(window.kernel_size)
    return query[(slice(None), slice(None), *[None] * dims)] - neighbourhoods(key, query, window)


def coordinates(x: Tensor) -> Tensor:
    """Return where the pixels of ``x`` lie, ``(1, 2, H, W)`` in [−1, 1], the last axis first."""
    if has_torch_function((x,)):
        return handle_torch_function(coordinates, (x,), x)
    # linspace takes no size that an exporter leaves open.
    axes = [torch.arange(n, dtype=x.dtype, device=x.device) * (2 / max(n - 1, 1)) - 1 for n in x.shape[2:]]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1])[None]


def offsets(like: Tensor, window: Window) -> Tensor:
    """Return how far each tap lies from the middle of the window, ``(K, K, 2)``, with dtype and device of ``like``."""
    if has_torch_function((like,)):
        return handle_torch_function(offsets, (like,), like, window)
    axes = [
        (torch.arange(k, dtype=like.dtype, device=like.device) - (k - 1) / 2) * d
        for k, d in zip(window.kernel_size, window.dilation, strict=True)
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)


def continued(x: Tensor, window: Window, mode: str) -> tuple[Tensor, Window]:
    """Return ``x`` continued by ``window.padding`` pixels on every side, and the window over it, which has no padding then.

    Args:
        x: ``(B, C, H, W)``.
        window: whose padding it is.
        mode: ``"reflect"``, ``"replicate"`` or ``"circular"``, as of ``nn.Conv2d``; with ``"zeros"`` both stay as they are.

    Raises:
        ValueError: the map is too small to take so many pixels from.
    """
    if mode == "zeros":
        return x, window
    return _padded(x, window, mode), window._replace(padding=(0,) * len(window.padding))


def _padded(x: Tensor, window: Window, mode: str) -> Tensor:
    if has_torch_function((x,)):
        return handle_torch_function(_padded, (x,), x, window, mode)
    least = tuple(_LEAST[mode](p) for p in window.padding)
    if any(n < smallest for n, smallest in zip(x.shape[2:], least, strict=True)):
        raise ValueError(
            f"padding_mode={mode!r} by {window.padding} pixels needs a map of at least {least}, got {tuple(x.shape[2:])}; "
            "use larger images"
        )
    return F.pad(x, [p for p in reversed(window.padding) for _ in range(2)], mode=mode)


def fill_outside(field: Tensor, x: Tensor, window: Window, value: float) -> Tensor:
    """Return the field with ``value`` at every tap whose neighbour lies outside the map ``x``."""
    if has_torch_function((field, x)):
        return handle_torch_function(fill_outside, (field, x), field, x, window, value)
    dims = len(window.kernel_size)
    inside = torch.ones((), dtype=torch.bool, device=x.device)
    for axis in range(dims):
        taps = torch.arange(window.kernel_size[axis], device=x.device)
        taps = taps * window.dilation[axis] - window.padding[axis]
        pixels = torch.arange(field.shape[2 + dims + axis], device=x.device) * window.stride[axis]
        position = taps[:, None] + pixels
        shape = [1] * (2 * dims)
        shape[axis], shape[dims + axis] = position.shape
        inside = inside & ((position >= 0) & (position < x.shape[2 + axis])).view(shape)
    if is_field_channels_last(field):
        # torch.where lays its result out as its first argument.
        inside = taps_first(pixels_first(inside[None, None]).contiguous())
    return torch.where(inside, field, value)


def softmax_inside(field: Tensor, x: Tensor, window: Window) -> Tensor:
    """Normalise a field over the taps whose neighbour lies inside the map ``x``.

    Args:
        field: ``(B, G, K, K, H', W')``.
        x: the map ``(B, C, H, W)`` that the kernels are for; its size alone is looked at.
        window: where the neighbours lie.
    """
    if has_torch_function((field, x)):
        return handle_torch_function(softmax_inside, (field, x), field, x, window)
    # The smallest finite number instead of -inf: a window wholly outside then stays finite, and meets only zeros.
    return softmax_over_taps(fill_outside(field, x, window, torch.finfo(field.dtype).min), window)


def softmax_over_taps(field: Tensor, window: Window) -> Tensor:
    """Normalise a field over all its taps; it lies in memory as before."""
    if has_torch_function((field,)):
        return handle_torch_function(softmax_over_taps, (field,), field, window)
    dims = len(window.kernel_size)
    if is_field_channels_last(field) and not torch.compiler.is_exporting():
        # The taps as the last dimension, as they lie: PyTorch copies what it normalises along another one.
        return taps_first(pixels_first(field).flatten(-dims).softmax(-1).unflatten(-1, window.kernel_size))
    normalised: Tensor = field.flatten(2, 1 + dims).softmax(2).unflatten(2, window.kernel_size)
    return normalised


def to_output_grid(x: Tensor, window: Window, padding_mode: str = "zeros") -> Tensor:
    """Average-pool ``x`` so that one pixel remains per window of the involution.

    The paper pools with window and stride s. Here the map is first cropped (or continued) to the windows' centres where
    ``padding`` is not ``d·(K − 1)/2``, and a last window that hangs over the border averages what it covers, so that
    the result fits the output grid for every size; on sizes divisible by s it is the paper's definition.

    Args:
        x: ``(B, C, H, W)``.
        window: of the involution whose output grid is meant.
        padding_mode: what lies around the map, where windows have their centres outside of it; as of the involution.
    """
    if has_torch_function((x,)):
        return handle_torch_function(to_output_grid, (x,), x, window, padding_mode)
    if len(window.stride) == 3 and x.device.type == "cpu" and x.dtype in (torch.float16, torch.bfloat16):
        # PyTorch pools no volumes of these on a CPU.
        return to_output_grid(x.float(), window, padding_mode).to(x.dtype)
    if any(2 * p > d * (k - 1) for k, p, d in zip(window.kernel_size, window.padding, window.dilation, strict=True)):
        x, window = continued(x, window, padding_mode)
    stride, crops = window.stride, []
    for k, p, d in zip(window.kernel_size, window.padding, window.dilation, strict=True):
        margin = d * (k - 1) - 2 * p
        crops.append((-(margin // 2), margin // 2 - margin))
    if any(map(any, crops)):
        # A map on which no window fits is refused here already, in the words of the operator: nothing would be left.
        window.output_size(x.shape[2:])
        if torch.compiler.is_exporting() and any(s > 1 for s in stride):
            x = _with_zeros_joined(x, crops)
        else:
            x = F.pad(x, [amount for pair in reversed(crops) for amount in pair])
    if all(s == 1 for s in stride):
        return x
    pool = _POOL[len(stride)]
    if not torch.compiler.is_exporting() and all(n >= s for n, s in zip(x.shape[2:], stride, strict=True)):
        return pool(x, stride, stride, ceil_mode=True, count_include_pad=False)
    # The same without ceil_mode, whose size rule an exporter with dynamic sizes cannot prove, and which refuses maps
    # smaller than a window: sums of a map continued with zeros, over the share of each window inside the map.
    hang = [amount for s in reversed(stride) for amount in (0, s - 1)]
    inside = F.pad(x.new_ones((1, 1, *x.shape[2:])), hang)
    return pool(F.pad(x, hang), stride, stride) / pool(inside, stride, stride)


def _with_zeros_joined(x: Tensor, crops: list[tuple[int, int]]) -> Tensor:
    """Return what ``F.pad`` makes of a map, the zeros as pixels that are joined to it.

    ONNX Runtime moves a padding into the pooling behind it, and then refuses one as large as the window.
    """
    x = F.pad(x, [min(amount, 0) for pair in reversed(crops) for amount in pair])
    for axis, (before, after) in enumerate(crops, 2):
        zeros = torch.zeros_like(x.narrow(axis, 0, 1))
        x = torch.cat([zeros] * before + [x] + [zeros] * after, axis)
    return x
