"""The one argument that decides what stands in the place of a spatial convolution: in backbone, neck and heads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from torch import nn

__all__ = ["SpatialLayer", "SpatialLayerName", "in_place_of", "resolve", "swap"]

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
