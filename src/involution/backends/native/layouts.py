"""Calls of the kernels as csrc/problem.h lays them out: sizes, steps and addresses packed into bytes."""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct

import torch
from torch import Tensor

from ...geometry import Window
from ..request import Epilogue

DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}


def pointer(tensor: Tensor | None) -> int | None:
    """Return the address of a tensor."""
    return None if tensor is None else tensor.data_ptr()


def epilogue(of: Epilogue) -> bytes:
    """Return the addresses of scale and offset, and whether negative values become zero."""
    return Struct("=2Qq").pack(pointer(of.scale) or 0, pointer(of.offset) or 0, of.relu)


def contraction_of_span(
    dtype: torch.dtype,
    x: Sequence[int],
    x_stride: Sequence[int],
    weight: Sequence[int],
    y: Sequence[int],
    y_stride: Sequence[int],
    window: Window,
) -> bytes:
    """Return a contraction whose field, of ``weight`` (G, K, K, C_hidden), is nowhere in memory."""
    field = (x[0], *weight[:-1], *y[2:])
    return contraction(dtype, x, x_stride, field, (0,) * len(field), y, y_stride, window)


def hidden(size: Sequence[int], stride: Sequence[int]) -> bytes:
    """Return number of channels and steps of a hidden map of this size."""
    return Struct("=q").pack(size[1]) + strides(len(size), stride)


def strides(dims: int, stride: Sequence[int]) -> bytes:
    """Return the steps of a map, zero for the dimensions it lacks."""
    return Struct("=5q").pack(*stride[:2], *(0,) * (5 - dims), *stride[2:])


_PROBLEM = Struct("=40q")


def contraction(
    dtype: torch.dtype,
    x: Sequence[int],
    x_stride: Sequence[int],
    field: Sequence[int],
    field_stride: Sequence[int],
    y: Sequence[int],
    y_stride: Sequence[int],
    window: Window,
) -> bytes:
    """Return a contraction: maps of fewer dimensions get leading sizes of one."""
    dims = len(x) - 2
    groups = field[1]

    def padded(values: Sequence[int], fill: int) -> tuple[int, ...]:
        return (fill,) * (3 - dims) + tuple(values)

    return _PROBLEM.pack(
        DTYPES[dtype],
        x[0],
        groups,
        x[1] // groups,
        *padded(x[2:], 1),
        *padded(y[2:], 1),
        *padded(field[2 : 2 + dims], 1),
        *padded(window.stride, 1),
        *padded(window.padding, 0),
        *padded(window.dilation, 1),
        *x_stride[:2],
        *padded(x_stride[2:], 0),
        *field_stride[:2],
        *padded(field_stride[2 : 2 + dims], 0),
        *padded(field_stride[2 + dims :], 0),
        *y_stride[:2],
        *padded(y_stride[2:], 0),
    )
