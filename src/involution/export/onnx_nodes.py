"""Involution's operators as nodes of ONNX's own operators, by the exporter's tracing of functions in ONNX Script.

Every function here runs while `torch.onnx.export` translates a program: it receives the values of the graph and returns
the value it adds. Numbers of a window are known then; sizes of maps need not be.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod
from typing import Any

from onnxscript import opset18 as op

from ..geometry import Window

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
    dims = len(stride)
    groups, *kernel_size = map(int, kernel.shape[1 : 2 + dims])
    window = Window(tuple(kernel_size), tuple(stride), tuple(padding), tuple(dilation))
    return contract(input, kernel, input.shape[1], groups, window)


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
    window = Window(tuple(kernel_size), tuple(stride), tuple(padding), tuple(dilation))
    field = op.Conv(hidden, weight, bias)
    field = reshape(field, [0, groups, *kernel_size], sizes(hidden))
    output = contract(value, field, value.shape[1], groups, window)
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
    """Translate ``involution::kernel_gradient``, the correlation of attention."""
    window = Window(tuple(kernel_size), tuple(stride), tuple(padding), tuple(dilation))
    channels = input.shape[1] // groups
    query = reshape(grad_output, [0, groups, channels, 1], sizes(grad_output))
    rows = [
        op.ReduceSum(op.Mul(query, row), [2], keepdims=0) for row in neighbours(input, input.shape[1], groups, window)
    ]
    field = rows[0] if len(rows) == 1 else op.Concat(*rows, axis=2)
    return reshape(field, [0, groups, *kernel_size], sizes(grad_output))


def contract(input: Any, kernel: Any, channels: int, groups: int, window: Window) -> Any:
    """Return the involution of ``input`` ``(B, C, H, W)`` with the field ``(B, G, K_h, K_w, H', W')``.

    The pixels of K neighbouring columns are put together once, those of a row are a slice of that: 2K slices instead
    of K². The sum over columns comes last, over all rows at once.
    """
    dims = len(window.kernel_size)
    rows = prod(window.kernel_size[:-1])
    grid = op.Shape(kernel, start=2 + dims)
    kernel = reshape(kernel, [0, groups, rows, window.kernel_size[-1]], grid)
    kernels = [kernel] if rows == 1 else op.Split(kernel, axis=2, num_outputs=rows)
    total = None
    for row, weights in zip(neighbours(input, channels, groups, window), kernels, strict=True):
        term = op.Mul(row, weights)
        total = term if total is None else op.Add(total, term)
    return reshape(op.ReduceSum(total, [3], keepdims=0), [0, channels], grid)


def neighbours(input: Any, channels: int, groups: int, window: Window) -> list[Any]:
    """Return for each row of taps the pixels that it reads, ``(B, G, C/G, K_w, H', W')``, of ``(B, C, H, W)``."""
    dims = len(window.kernel_size)
    pads = [0, 0, *window.padding]
    padded = op.Pad(input, [*pads, *pads]) if any(pads) else input
    padded = reshape(padded, [0, groups, channels // groups, 1], sizes(padded))
    columns = shifts(padded, [3 + dims], Window(*(numbers[-1:] for numbers in window)))
    columns = columns[0] if len(columns) == 1 else op.Concat(*columns, axis=3)
    return shifts(columns, range(4, 3 + dims), Window(*(numbers[:-1] for numbers in window)))


def shifts(padded: Any, axes: Sequence[int], window: Window) -> list[Any]:
    """Return for each tap along ``axes`` the pixels of the padded map that it reads.

    The last pixel is counted from the end of the map, so no size is computed in the graph.
    """
    found = []
    for tap in product(*map(range, window.kernel_size)):
        starts = [t * d for t, d in zip(tap, window.dilation, strict=True)]
        reaches = [d * (k - 1) for k, d in zip(window.kernel_size, window.dilation, strict=True)]
        ends = [start - reach or _END for start, reach in zip(starts, reaches, strict=True)]
        whole = not any(starts) and not any(reaches) and all(s == 1 for s in window.stride)
        found.append(padded if whole else op.Slice(padded, starts, ends, list(axes), list(window.stride)))
    return found


def sizes(value: Any) -> Any:
    """Return the spatial sizes of a map ``(B, C, H, W)``."""
    return op.Shape(value, start=2)


def reshape(value: Any, leading: Sequence[int], spatial: Any) -> Any:
    """Return ``value`` with the sizes ``leading``, where 0 keeps the batch, and those of a map."""
    return op.Reshape(value, op.Concat(op.Constant(value_ints=list(leading)), spatial, axis=0))
