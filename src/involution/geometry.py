"""The sliding-window arithmetic every part of the library shares, and the sentences it refuses with."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import Any

import torch

IntOrTuple = int | Sequence[int]
Padding = int | Sequence[int] | str


def describe(tensor: torch.Tensor) -> str:
    """Return shape, dtype and device of ``tensor`` as error messages print them."""
    return f"shape {tuple(tensor.shape)}, {str(tensor.dtype).removeprefix('torch.')}, {tensor.device}"


def _is_int(value: Any) -> bool:
    return isinstance(value, (int, torch.SymInt)) and not isinstance(value, bool)


def to_tuple(value: IntOrTuple, dims: int, name: str, minimum: int = 1) -> tuple[int, ...]:
    """Spread an int, or check a sequence of ``dims`` ints, each at least ``minimum``.

    Raises:
        TypeError: ``value`` is neither an int nor a sequence of ints.
        ValueError: it has another length than ``dims`` or an element below ``minimum``.
    """
    values: Any = (value,) * dims if _is_int(value) else value
    if not isinstance(values, Sequence) or isinstance(values, str) or not all(map(_is_int, values)):
        raise TypeError(f"{name} must be an int or a tuple of {dims} ints, got {value!r}")
    if len(values) != dims:
        raise ValueError(f"{name} must be an int or a tuple of {dims} ints, got {value!r} of length {len(values)}")
    if any(v < minimum for v in values):
        raise ValueError(f"{name} must be at least {minimum}, got {value!r}")
    return tuple(values)


def resolve_padding(padding: Padding, kernel_size: Sequence[int], dilation: Sequence[int]) -> tuple[int, ...]:
    """Turn ``"same"``, ``"valid"``, an int or a tuple into zero padding per dimension.

    ``"same"`` is ``d·(K − 1) / 2`` on either side, for which the output has ``⌈H / s⌉`` pixels.

    Raises:
        TypeError: ``padding`` is neither a known word, an int nor a sequence of ints.
        ValueError: an unknown word, an even kernel with ``"same"``, a wrong length or a negative number.
    """
    if not isinstance(padding, str):
        return to_tuple(padding, len(kernel_size), "padding", minimum=0)
    if padding == "valid":
        return (0,) * len(kernel_size)
    if padding != "same":
        raise ValueError(f"padding must be an int, a tuple, 'same' or 'valid', got {padding!r}")
    if any(k % 2 == 0 for k in kernel_size):
        raise ValueError(
            f"padding='same' needs an odd kernel size, got {tuple(kernel_size)}; "
            "use an odd kernel size or give the padding as a number"
        )
    return tuple(d * (k - 1) // 2 for k, d in zip(kernel_size, dilation, strict=True))


def output_size(
    size: Sequence[int],
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[int, ...]:
    """Return ``⌊(H + 2p − d·(K − 1) − 1) / s⌋ + 1`` per dimension.

    Raises:
        ValueError: a dimension of ``size`` is zero, or the window does not fit into the padded map.
    """
    if any(n < 1 for n in size):
        raise ValueError(f"every spatial size must be at least 1, got {tuple(size)}")
    spans = [d * (k - 1) + 1 for k, d in zip(kernel_size, dilation, strict=True)]
    if any(n + 2 * p < span for n, p, span in zip(size, padding, spans, strict=True)):
        raise ValueError(
            f"a window of {tuple(spans)} pixels (kernel {tuple(kernel_size)}, dilation {tuple(dilation)}) does not fit "
            f"into a map of {tuple(size)} with padding {tuple(padding)}; use a larger map, more padding or a smaller kernel"
        )
    return tuple((n + 2 * p - span) // s + 1 for n, p, s, span in zip(size, padding, stride, spans, strict=True))


@lru_cache(maxsize=4096)
def check_contraction(
    x: tuple[int, ...],
    field: tuple[int, ...],
    y: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
) -> None:
    """Refuse sizes that are not those of one involution; the operators stand behind checks with more words.

    Args:
        x: ``(B, C, H, W)``.
        field: ``(B, G, K, K, H', W')``.
        y: ``(B, C, H', W')``.
        stride: pixels between two windows.
        padding: zeros around the map.
        dilation: pixels between two taps.

    Raises:
        ValueError: the sizes contradict each other.
    """
    dims = len(x) - 2
    kernel_size = tuple(field[2 : 2 + dims])
    fits = (
        dims > 0
        and (len(field), len(y)) == (2 * dims + 2, dims + 2)
        and all(len(numbers) == dims for numbers in (stride, padding, dilation))
        and min(*kernel_size, *stride, *dilation, field[1]) > 0
        and min(padding) >= 0
        and (x[0], x[1]) == (y[0], y[1])
        and x[0] == field[0]
        and x[1] % field[1] == 0
        and tuple(field[2 + dims :]) == tuple(y[2:])
    )
    if not fits or output_size(x[2:], kernel_size, stride, padding, dilation) != tuple(y[2:]):
        raise ValueError(
            f"a map {tuple(x)}, a kernel field {tuple(field)} and a result {tuple(y)} with stride {tuple(stride)}, "
            f"padding {tuple(padding)} and dilation {tuple(dilation)} are not those of an involution"
        )


@lru_cache(maxsize=4096)
def check_span(
    value: tuple[int, ...],
    hidden: tuple[int, ...],
    weight: tuple[int, ...],
    bias: tuple[int, ...] | None,
    field: tuple[int, ...],
) -> None:
    """Refuse sizes with which ``weight · hidden + bias`` is no kernel field.

    Args:
        value: ``(B, C, H, W)``.
        hidden: ``(B, C_hidden, H', W')``.
        weight: ``(G·K·K, C_hidden, ...)`` in any arrangement that begins so.
        bias: ``(G·K·K,)`` or None.
        field: ``(B, G, K, K, H', W')``.

    Raises:
        ValueError: the sizes contradict each other.
    """
    dims = len(value) - 2
    channels = prod(field[1 : 2 + dims])
    if (
        len(hidden) != dims + 2
        or prod(weight) != channels * hidden[1]
        or (bias is not None and tuple(bias) != (channels,))
        or hidden[0] != value[0]
    ):
        raise ValueError(
            f"a weight {tuple(weight)}, a bias {None if bias is None else tuple(bias)} and a hidden map {tuple(hidden)} "
            f"make no kernel field {tuple(field)} for a map {tuple(value)}"
        )


def is_channels_last(tensor: torch.Tensor) -> bool:
    """Whether the channels (dimension 1) of ``tensor`` (B, C, ...) lie together in memory, pixel after pixel.

    Unlike ``Tensor.is_contiguous(memory_format=…)`` it knows any number of spatial dimensions and accepts maps that
    were cropped from a larger channels_last map.
    """
    if tensor.ndim < 3:
        return False
    strides, sizes = tensor.stride(), tensor.shape
    if strides[1] != 1:
        return False
    extent = sizes[1]
    for dim in range(tensor.ndim - 1, 1, -1):
        if strides[dim] < extent:
            return False
        extent = strides[dim] * sizes[dim]
    return True


def empty_map(like: torch.Tensor, size: Sequence[int], channels_last: bool) -> torch.Tensor:
    """Allocate a (B, C, ...) map with dtype and device of ``like``, in NCHW or channels_last order."""
    batch, channels, *spatial = size
    if not channels_last:
        return like.new_empty((batch, channels, *spatial))
    strides = [channels]
    for n in reversed(spatial[1:]):
        strides.insert(0, strides[0] * n)
    # Not a permuted map: autograd forbids in-place activations on what an operator returns as a view.
    return like.new_empty_strided((batch, channels, *spatial), (strides[0] * spatial[0], 1, *strides))


def empty_field(like: torch.Tensor, size: Sequence[int], channels_last: bool) -> torch.Tensor:
    """Allocate a (B, G, K..., H'...) kernel field; in channels_last order a pixel's G·K·K weights lie together."""
    dims = (len(size) - 2) // 2
    if not channels_last:
        return like.new_empty(tuple(size))
    batch, taps, spatial = size[0], size[1 : 2 + dims], size[2 + dims :]
    field = like.new_empty((batch, *spatial, *taps))
    return field.permute(0, *range(1 + dims, 2 + 2 * dims), *range(1, 1 + dims))


def is_field_channels_last(kernel: torch.Tensor) -> bool:
    """Whether the G·K·K weights of one pixel of ``kernel`` (B, G, K..., H'...) lie together in memory."""
    dims = (kernel.ndim - 2) // 2
    extent = 1
    for dim in (*range(1 + dims, 0, -1), *range(kernel.ndim - 1, 1 + dims, -1)):
        if kernel.stride(dim) < extent or (dim == 1 + dims and kernel.stride(dim) != 1):
            return False
        extent = kernel.stride(dim) * kernel.shape[dim]
    return True
