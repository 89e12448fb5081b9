"""The one argument that decides what stands in the place of a spatial convolution: in backbone, neck and heads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from torch import nn

__all__ = ["SpatialLayer", "SpatialLayerName", "depthwise", "in_place_of", "resolve", "swap"]

SpatialLayer = Callable[..., nn.Module]
SpatialLayerName = Literal["involution", "convolution"]


def resolve(
    spatial_layer: SpatialLayerName | SpatialLayer, involution: SpatialLayer, what: str = "spatial_layer"
) -> SpatialLayer | None:
    """Return what makes the layers, or None where the convolutions stay.

    Args:
        spatial_layer: ``"involution"``, ``"convolution"``, or a callable
            ``(in_channels, out_channels, *, stride, dilation, device, dtype) -> Module``.
        involution: what ``"involution"`` stands for.
        what: name of the argument, for the refusal.

    Raises:
        ValueError: ``spatial_layer`` is none of these.
    """
    if spatial_layer == "involution":
        return involution
    if spatial_layer == "convolution":
        return None
    if callable(spatial_layer):
        return spatial_layer
    raise ValueError(
        f"unknown {what} {spatial_layer!r}; expected 'involution', 'convolution' or a callable that "
        "makes a layer from (in_channels, out_channels, stride=, dilation=, device=, dtype=)"
    )


def depthwise(kernel_size: int) -> SpatialLayer:
    """Return what makes depthwise convolutions of odd ``kernel_size`` K, padded by K // 2, without bias.

    Raises:
        ValueError: K is even or below 1.
    """
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(
            f"a depthwise convolution needs an odd kernel size to keep the size of maps, got {kernel_size}"
        )

    def layer(in_channels: int, out_channels: int, *, stride: Any, dilation: Any, **where: Any) -> nn.Module:
        rows, columns = dilation if isinstance(dilation, tuple) else (dilation, dilation)
        padding = (rows * (kernel_size // 2), columns * (kernel_size // 2))
        return nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups=in_channels, bias=False, **where
        )

    return layer


def in_place_of(convolution: Any, layer: SpatialLayer) -> nn.Module:
    """Make ``layer`` in the place of ``convolution``: same channels, stride, dilation, device and dtype."""
    return layer(
        convolution.in_channels,
        convolution.out_channels,
        stride=convolution.stride,
        dilation=convolution.dilation,
        device=convolution.weight.device,
        dtype=convolution.weight.dtype,
    )


def swap(module: nn.Module, layer: SpatialLayer | None) -> None:
    """Put ``layer`` in the place of every spatial convolution inside ``module``, however deep; None changes nothing."""
    if layer is None:
        return
    for name, child in module.named_children():
        if type(child) is nn.Conv2d and child.kernel_size != (1, 1):
            setattr(module, name, in_place_of(child, layer))
        else:
            swap(child, layer)
