"""The feature pyramid between backbone and heads, with convolutions or involutions."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock

from ..modules import Involution2d
from .backbones import Backbone
from .spatial import SpatialLayer, SpatialLayerName, resolve, swap

__all__ = ["PyramidBackbone", "feature_pyramid"]


def feature_pyramid(
    in_channels: Sequence[int],
    out_channels: int = 256,
    *,
    spatial_layer: SpatialLayerName | SpatialLayer = "convolution",
    extra_blocks: ExtraFPNBlock | None = None,
    **arguments: Any,
) -> FeaturePyramidNetwork:
    """Build torchvision's feature pyramid (Lin et al. 2017), whose 3×3 output convolutions may be involutions.

    As in the paper's detectors, an involution of 7×7 with C / G = 16 and r = 4 stands in the place of each output
    convolution, with neither norm nor activation after it; lateral 1×1 convolutions and extra levels stay.

    Args:
        in_channels: channels of the maps of the backbone, from the finest to the coarsest.
        out_channels: of every level of the pyramid.
        spatial_layer: what computes the outputs: ``"convolution"`` (3×3), ``"involution"``, or a callable
            ``(in_channels, out_channels, *, stride, dilation, device, dtype) -> Module``.
        extra_blocks: makes coarser levels, such as ``torchvision.ops.feature_pyramid_network.LastLevelMaxPool()``.
        **arguments: of the involutions, see `involution.Involution2d`.

    Returns:
        From a dictionary of maps to the dictionary of levels, each ``(B, out_channels, H, W)`` of its input's size.

    Raises:
        ValueError: ``spatial_layer`` is unknown, or the involution refuses its arguments.

    Example:
        >>> import torch
        >>> from involution.models.necks import feature_pyramid
        >>> neck = feature_pyramid([64, 128], 32, spatial_layer="involution")
        >>> levels = neck({"0": torch.randn(1, 64, 16, 24), "1": torch.randn(1, 128, 8, 12)})
        >>> {name: tuple(level.shape) for name, level in levels.items()}
        {'0': (1, 32, 16, 24), '1': (1, 32, 8, 12)}
    """
    layer = resolve(spatial_layer, partial(Involution2d, **arguments), "neck")
    pyramid = FeaturePyramidNetwork(list(in_channels), out_channels, extra_blocks)
    swap(pyramid.layer_blocks, layer)
    return pyramid


class PyramidBackbone(nn.Module):
    """A backbone and its feature pyramid, in the form that torchvision's detectors take.

    Args:
        body: returns maps, finest first.
        fpn: takes them as a dictionary.
        out_channels: of the pyramid's levels.
    """

    def __init__(self, body: Backbone, fpn: FeaturePyramidNetwork, out_channels: int) -> None:
        super().__init__()
        self.body, self.fpn, self.out_channels = body, fpn, out_channels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the levels of ``images`` ``(B, 3, H, W)`` by name: ``"0"``, ``"1"``, …, finest first."""
        return self.fpn(OrderedDict((str(i), level) for i, level in enumerate(self.body(images))))
