"""Involution's operators as nodes of ONNX's own operators, by the exporter's tracing of functions in ONNX Script.

Every function here runs while `torch.onnx.export` translates a program: it receives the values of the graph and returns
the value it adds. The numbers of a window are known then; sizes of maps need not be, and are values of one number.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod
from typing import Any

import onnx_ir
from onnxscript import opset18 as op

from ..geometry import Window

# How many pixels of a row make one matrix product. Seven divides the rows of nets for images of 224 pixels.
_TILE = 7

_ZERO = onnx_ir.tensor([0], dtype=onnx_ir.DataType.INT64)

# What a slice reads as "to the end".
_END = 2**63 - 1


def forward(
    input: Any,
    kernel: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    backend: str,
) -> Any:
    """Translate ``involution::forward``."""
    groups, *kernel_size = (int(n) for n in kernel.shape[1 : 2 + len(stride)])
    window = Window.of(kernel_size, stride, padding, dilation)
    return contract(input, kernel, spatial(kernel, len(stride), 2 + len(stride)), int(input.shape[1]), groups, window)


def forward_of_span(
    value: Any,
    hidden: Any,
    weight: Any,
    bias: Any,
    groups: int,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    backend: str,
    scale: Any = None,
    offset: Any = None,
    relu: bool = False,
) -> Any:
    """Translate ``involution::forward_of_span``."""
    window = Window.of(kernel_size, stride, padding, dilation)
    output = contract(
        value, op.Conv(hidden, weight, bias), spatial(hidden, len(kernel_size)), int(value.shape[1]), groups, window
    )
    ones = [1] * len(kernel_size)
    if scale is not None:
        output = op.Mul(output, op.Reshape(scale, [-1, *ones]))
    if offset is not None:
        output = op.Add(output, op.Reshape(offset, [-1, *ones]))
    return op.Relu(output) if relu else output


def kernel_gradient(
    grad_output: Any,
    input: Any,
    groups: int,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    backend: str,
) -> Any:
    """Translate ``involution::kernel_gradient``, the correlation of attention: products with slices, summed."""
    window = Window.of(kernel_size, stride, padding, dilation)
    channels, grid = int(input.shape[1]), spatial(grad_output, len(kernel_size))
    query = reshape(grad_output, 0, groups, channels // groups, 1, *grid)
    rows = neighbours(input, channels, groups, window)
    sums = [op.ReduceSum(op.Mul(query, row), [2], keepdims=0) for row in rows]
    return reshape(sums[0] if len(sums) == 1 else op.Concat(*sums, axis=2), 0, groups, *kernel_size, *grid)


def contract(input: Any, kernel: Any, grid: Sequence[Any], channels: int, groups: int, window: Window) -> Any:
    """Return the involution of ``input`` ``(B, C, H, W)`` with a field that holds ``(B, G, K_h, K_w, H', W')``.

    `_TILE` neighbouring pixels of a row make one matrix product: of a band matrix, in row j the kernel of pixel j moved
    right by j strides, with the C/G values of every pixel that any of them reads.

    Args:
        input: the map.
        kernel: the field, of any shape with these numbers in this order.
        grid: sizes of the output.
        channels: C.
        groups: G.
        window: of the involution.
    """
    *outer, taps = window.kernel_size
    # Pixels of a row of the map that a band spans, and one more than any kernel reaches: see `_bands`.
    width = window.stride[-1] * _TILE + window.dilation[-1] * (taps - 1) + 1
    length = prod(outer) * width - window.stride[-1]
    tiles = op.Div(op.Add(grid[-1], [_TILE - 1]), [_TILE])
    whole = [*grid[:-1], op.Mul(tiles, [_TILE])]
    lines = times(*grid[:-1], tiles)
    bands = _bands(reshape(kernel, 0, groups, prod(outer), taps, *grid), grid, whole, lines, groups, width, window)
    input = padded(input, window)
    sizes = spatial(input, len(grid))
    pixels = op.Transpose(reshape(input, 0, groups, channels // groups, times(*sizes)), perm=[0, 1, 3, 2])
    read = op.Slice(
        reshape(_positions(sizes, grid, tiles, width, window), lines, prod(outer) * width), [0], [length], [1]
    )
    output = op.MatMul(bands, op.Gather(pixels, read, axis=2))
    output = op.Transpose(reshape(output, 0, groups, times(*whole), channels // groups), perm=[0, 1, 3, 2])
    return op.Slice(reshape(output, 0, channels, *whole), [0], grid[-1], [1 + len(grid)])


def _bands(
    kernel: Any, grid: Sequence[Any], whole: Sequence[Any], lines: Any, groups: int, width: int, window: Window
) -> Any:
    """Return the band matrices ``(B, G, lines, _TILE, pixels)`` of a field ``(B, G, rows of taps, K_w, H', W')``.

    Rows of the field, with zeros between and behind the taps, are written one after the other and read again as rows
    that are shorter by one stride: each begins one stride further left in the numbers, so they lie further right in it.
    """
    stride, dilation, dims = window.stride[-1], window.dilation[-1], len(grid)
    rows, taps = prod(window.kernel_size[:-1]), window.kernel_size[-1]
    if dilation > 1:
        kernel = op.Pad(reshape(kernel, 0, groups, rows, taps, 1, *grid), ends(5 + dims, {4: dilation - 1}))
        kernel = reshape(kernel, 0, groups, rows, taps * dilation, *grid)
    behind = ends(4 + dims, {3: width - taps * dilation})[:-1]
    kernel = op.Pad(kernel, op.Concat(op.Constant(value_ints=behind), op.Sub(whole[-1], grid[-1]), axis=0))
    kernel = op.Transpose(reshape(kernel, 0, groups, rows * width, times(*whole)), perm=[0, 1, 3, 2])
    kernel = reshape(kernel, 0, groups, lines, _TILE * rows * width)
    length = rows * width - stride
    return reshape(op.Slice(kernel, [0], [_TILE * length], [3]), 0, groups, lines, _TILE, length)


def _positions(sizes: Sequence[Any], grid: Sequence[Any], tiles: Any, width: int, window: Window) -> Any:
    """Return where in the flat padded map the pixels lie that every tile reads, ``(H', tiles, K_h, width)``."""
    dims = len(grid)
    counts = zip(sizes, [*grid[:-1], tiles], [*window.kernel_size[:-1], width], strict=True)
    total = None
    for axis, (size, count, taps) in enumerate(counts):
        step = window.stride[axis] * (_TILE if axis == dims - 1 else 1)
        spacing = 1 if axis == dims - 1 else window.dilation[axis]
        first = op.Mul(op.Range(0, op.Squeeze(count, [0]), 1), op.Constant(value_int=step))
        first = op.Unsqueeze(first, [a for a in range(2 * dims) if a != axis])
        tap = op.Constant(value_ints=[t * spacing for t in range(taps)])
        position = op.Add(first, op.Unsqueeze(tap, [a for a in range(2 * dims) if a != dims + axis]))
        if axis == dims - 1:
            # Of a tile over the border, nobody reads what lies there.
            position = op.Min(position, op.Sub(size, [1]))
            # A zero that the exporter leaves as it is: it would write every table of positions into the file, 2 MB of a
            # RedNet-50, where runtimes make them when they load it.
            position = op.Add(position, op.ConstantOfShape([1], value=_ZERO))
        total = position if total is None else op.Add(op.Mul(total, size), position)
    return total


def neighbours(input: Any, channels: int, groups: int, window: Window) -> list[Any]:
    """Return for each row of taps the pixels that it reads, ``(B, G, C/G, K_w, H', W')``, of ``(B, C, H, W)``."""
    dims = len(window.kernel_size)
    input = padded(input, window)
    input = reshape(input, 0, groups, channels // groups, 1, *spatial(input, dims))
    columns = shifts(input, [3 + dims], Window(*(numbers[-1:] for numbers in window)))
    row = columns[0] if len(columns) == 1 else op.Concat(*columns, axis=3)
    return shifts(row, range(4, 3 + dims), Window(*(numbers[:-1] for numbers in window)))


def shifts(input: Any, axes: Sequence[int], window: Window) -> list[Any]:
    """Return for each tap along ``axes`` the pixels of the padded map that it reads.

    The last pixel is counted from the end of the map, so no size is computed in the graph.
    """
    found = []
    for tap in product(*map(range, window.kernel_size)):
        starts = [t * d for t, d in zip(tap, window.dilation, strict=True)]
        reaches = [d * (k - 1) for k, d in zip(window.kernel_size, window.dilation, strict=True)]
        stops = [start - reach or _END for start, reach in zip(starts, reaches, strict=True)]
        whole = not any(reaches) and all(s == 1 for s in window.stride)
        found.append(input if whole else op.Slice(input, starts, stops, list(axes), list(window.stride)))
    return found


def padded(input: Any, window: Window) -> Any:
    """Return a map with the window's zeros around it."""
    pads = [0, 0, *window.padding]
    return op.Pad(input, [*pads, *pads]) if any(pads) else input


def spatial(value: Any, dims: int, start: int = 2) -> list[Any]:
    """Return ``dims`` sizes of a map, from the dimension ``start`` on."""
    return [op.Shape(value, start=axis, end=axis + 1) for axis in range(start, start + dims)]


def times(*sizes: Any) -> Any:
    """Return the product of sizes."""
    total = sizes[0]
    for size in sizes[1:]:
        total = op.Mul(total, size)
    return total


def ends(rank: int, zeros: dict[int, int]) -> list[int]:
    """Return the pads of a tensor that has zeros behind it, so many for each of the named dimensions."""
    return [0] * rank + [zeros.get(axis, 0) for axis in range(rank)]


def reshape(value: Any, *sizes: Any) -> Any:
    """Return ``value`` in a shape of numbers and sizes; 0 keeps the batch."""
    parts = [op.Constant(value_ints=[size]) if isinstance(size, int) else size for size in sizes]
    return op.Reshape(value, op.Concat(*parts, axis=0))
