"""Calls of the kernels as csrc/problem.h lays them out: sizes, steps and addresses packed into bytes."""

from __future__ import annotations

from functools import lru_cache
from struct import Struct
from typing import Any

import torch
from torch import Tensor

from ...geometry import output_size
from ..request import Window

DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}


def norm(x: Tensor, relu: bool, epsilon: float, momentum: float) -> bytes:
    """Return a batch norm of a map ``(B, C, ...)``."""
    channels = x.shape[1]
    return Struct("=4q2d").pack(DTYPES[x.dtype], x.numel() // channels, channels, relu, epsilon, momentum)


def pointers(*tensors: Tensor | None) -> bytes:
    """Return the addresses of tensors, zero for None."""
    return Struct(f"={len(tensors)}Q").pack(*(0 if t is None else t.data_ptr() for t in tensors))


def pointer(tensor: Tensor | None) -> int | None:
    """Return the address of a tensor."""
    return None if tensor is None else tensor.data_ptr()


_LAST = Struct("=5Qdq")


def last(
    channels: int,
    bias: Tensor | None = None,
    mean: Tensor | None = None,
    variance: Tensor | None = None,
    weight: Tensor | None = None,
    offset: Tensor | None = None,
    epsilon: float = 0.0,
    relu: bool = False,
) -> bytes:
    """Return what happens to a result before it is written; `involution.inference.Last` says what the arguments are.

    Raises:
        ValueError: they are for another number of channels, not contiguous, or half of a norm.
    """
    addresses = []
    for vector in (bias, mean, variance, weight, offset):
        if vector is None:
            addresses.append(0)
            continue
        if vector.numel() != channels or not vector.is_contiguous():
            raise ValueError(
                f"norm or bias must have {channels} channels that follow each other in memory, got shape "
                f"{tuple(vector.shape)} with strides {vector.stride()}"
            )
        addresses.append(vector.data_ptr())
    if (mean is None) != (variance is None):
        raise ValueError("a norm in evaluation has a mean and a variance, got one of them")
    return _LAST.pack(*addresses, epsilon, relu)


@lru_cache(maxsize=4096)
def pointwise(
    dtype: torch.dtype, x: Any, x_stride: Any, weight: Any, y: Any, y_stride: Any, beside: Any, stride: Any
) -> bytes:
    """Return a 1×1 convolution.

    Raises:
        ValueError: the sizes are not those of a 1×1 convolution.
    """
    ones = (1,) * (len(x) - 2)
    size = None
    if weight[1:2] == x[1:2] and weight[2:] in ((), ones) and len(stride) == len(ones) <= 3 and min(stride) > 0:
        size = (x[0], weight[0], *output_size(x[2:], ones, stride, (0,) * len(ones), ones))
    if size != y or (beside is not None and beside[0] != y):
        raise ValueError(
            f"a map {tuple(x)} and a weight {tuple(weight)} with stride {stride} do not give a map {tuple(y)} by a 1×1 "
            f"convolution{'' if beside is None else f', or a residual {tuple(beside[0])} cannot be added to it'}"
        )
    residual_stride = None if beside is None else beside[1]
    missing = 5 - len(x)

    def steps(strides: Any) -> tuple[int, ...]:
        return (*strides[:2], *(0,) * missing, *strides[2:])

    return Struct("=25q").pack(
        DTYPES[dtype],
        x[0],
        x[1],
        y[1],
        *(1,) * missing,
        *y[2:],
        *(1,) * missing,
        *stride,
        *steps(x_stride),
        *steps(y_stride),
        *((0,) * 5 if residual_stride is None else steps(residual_stride)),
    )


@lru_cache(maxsize=4096)
def fused(dtype: torch.dtype, x: Any, x_stride: Any, weight: Any, y: Any, y_stride: Any, window: Window) -> bytes:
    """Return a contraction whose field, of ``weight`` (G, K, K, C_hidden), is nowhere in memory."""
    field = (x[0], *weight[:-1], *y[2:])
    return contraction(dtype, x, x_stride, field, (0,) * len(field), y, y_stride, window)


@lru_cache(maxsize=4096)
def hidden(size: Any, stride: Any) -> bytes:
    """Return number of channels and steps of a hidden map of this size."""
    return Struct("=q").pack(size[1]) + strides(len(size), stride)


@lru_cache(maxsize=4096)
def strides(dims: int, stride: Any) -> bytes:
    """Return the steps of a map, zero for the dimensions it lacks."""
    return Struct("=5q").pack(*stride[:2], *(0,) * (5 - dims), *stride[2:])


_PROBLEM = Struct("=40q")


@lru_cache(maxsize=4096)
def contraction(
    dtype: torch.dtype, x: Any, x_stride: Any, field: Any, field_stride: Any, y: Any, y_stride: Any, window: Window
) -> bytes:
    """Return a contraction: maps of fewer dimensions get leading sizes of one."""
    dims = len(x) - 2
    groups = field[1]

    def padded(values: Any, fill: int) -> tuple[int, ...]:
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
