"""How maps and kernel fields lie in memory: channels_last or not, for any number of spatial dimensions."""

from __future__ import annotations

from collections.abc import Sequence

import torch


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
    if not channels_last:
        return like.new_empty(tuple(size))
    return _empty_in_order(like, size, (0, *range(2, len(size)), 1))


def empty_field(like: torch.Tensor, size: Sequence[int], channels_last: bool) -> torch.Tensor:
    """Allocate a (B, G, K..., H'...) kernel field; in channels_last order a pixel's G·K·K weights lie together."""
    if not channels_last:
        return like.new_empty(tuple(size))
    dims = (len(size) - 2) // 2
    return _empty_in_order(like, size, (0, *range(2 + dims, len(size)), *range(1, 2 + dims)))


def _empty_in_order(like: torch.Tensor, size: Sequence[int], order: Sequence[int]) -> torch.Tensor:
    """Allocate a tensor whose dimensions lie in memory in this order, the outermost first."""
    strides, extent = [0] * len(size), 1
    for dim in reversed(order):
        strides[dim] = extent
        extent = extent * size[dim]
    # Not a permuted tensor: autograd forbids in-place operations on what an operator returns as a view.
    return like.new_empty_strided(tuple(size), strides)


def pixels_first(field: torch.Tensor) -> torch.Tensor:
    """Return a view ``(B, H'..., G, K...)`` of a kernel field ``(B, G, K..., H'...)``."""
    dims = (field.ndim - 2) // 2
    return field.permute(0, *range(2 + dims, 2 + 2 * dims), *range(1, 2 + dims))


def taps_first(pixels: torch.Tensor) -> torch.Tensor:
    """Return a view ``(B, G, K..., H'...)`` of what `pixels_first` gives."""
    dims = (pixels.ndim - 2) // 2
    return pixels.permute(0, *range(1 + dims, 2 + 2 * dims), *range(1, 1 + dims))


def is_field_channels_last(kernel: torch.Tensor) -> bool:
    """Whether the G·K·K weights of one pixel of ``kernel`` (B, G, K..., H'...) lie together in memory."""
    dims = (kernel.ndim - 2) // 2
    extent = 1
    for dim in (*range(1 + dims, 0, -1), *range(kernel.ndim - 1, 1 + dims, -1)):
        if kernel.stride(dim) < extent or (dim == 1 + dims and kernel.stride(dim) != 1):
            return False
        extent = kernel.stride(dim) * kernel.shape[dim]
    return True
