"""The feature pyramid between backbone and heads, with convolutions or involutions, enlarged by copies or by CARAFE."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock

from ..modules import Involution2d
from ..upsampling import CARAFE
from .backbones import Backbone
from .spatial import SpatialLayer, SpatialLayerName, resolve, swap

__all__ = ["PyramidBackbone", "feature_pyramid"]

Upsampling = Literal["nearest", "carafe"]


class _CarafePyramid(FeaturePyramidNetwork):
    """torchvision's feature pyramid with a CARAFE for every enlargement by two."""

    def __init__(self, in_channels: list[int], out_channels: int, extra_blocks: ExtraFPNBlock | None) -> None:
        super().__init__(in_channels, out_channels, extra_blocks)
        self.upsamplers = nn.ModuleList(CARAFE(out_channels, 2) for _ in in_channels[1:])

    def forward(self, x: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the levels of the maps ``x``, finest first, each half as large as the one before, rounded up."""
        names, maps = list(x), list(x.values())
        inner = self.inner_blocks[-1](maps[-1])
        results = [self.layer_blocks[-1](inner)]
        for level in range(len(maps) - 2, -1, -1):
            lateral = self.inner_blocks[level](maps[level])
            inner = lateral + _cropped(self.upsamplers[level](inner), lateral)
            results.insert(0, self.layer_blocks[level](inner))
        if self.extra_blocks is not None:
            results, names = self.extra_blocks(results, maps, names)
        return OrderedDict(zip(names, results, strict=True))


def _cropped(x: Tensor, like: Tensor) -> Tensor:
    """Return the first rows and columns: an odd map has one less than twice the coarser one."""
    height, width = like.shape[2:]
    if torch.compiler.is_exporting():
        # That there are as many is a rule of slices that an exporter with dynamic sizes cannot prove.
        rows, columns = (torch.arange(n, device=x.device) for n in (height, width))
        return x.index_select(2, rows).index_select(3, columns)
    return x[:, :, :height, :width]


_PYRAMIDS = {"nearest": FeaturePyramidNetwork, "carafe": _CarafePyramid}


def feature_pyramid(
    in_channels: Sequence[int],
    out_channels: int = 256,
    *,
    spatial_layer: SpatialLayerName | SpatialLayer = "convolution",
    upsampling: Upsampling = "nearest",
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
        upsampling: how a level is enlarged before the finer one is added: ``"nearest"`` copies every pixel, ``"carafe"``
            is an `involution.upsampling.CARAFE` per level (Wang et al. 2019), whose maps have to be half as large as the
            next finer ones, rounded up.
        extra_blocks: makes coarser levels, such as ``torchvision.ops.feature_pyramid_network.LastLevelMaxPool()``.
        **arguments: of the involutions, see `involution.Involution2d`.

    Returns:
        From a dictionary of maps to the dictionary of levels, each ``(B, out_channels, H, W)`` of its input's size.

    Raises:
        ValueError: ``spatial_layer`` or ``upsampling`` is unknown, or the involution refuses its arguments.

    Example:
        >>> import torch
        >>> from involution.models.necks import feature_pyramid
        >>> neck = feature_pyramid([64, 128], 32, spatial_layer="involution")
        >>> levels = neck({"0": torch.randn(1, 64, 16, 24), "1": torch.randn(1, 128, 8, 12)})
        >>> {name: tuple(level.shape) for name, level in levels.items()}
        {'0': (1, 32, 16, 24), '1': (1, 32, 8, 12)}
    """
    layer = resolve(spatial_layer, partial(Involution2d, **arguments), "neck")
    if upsampling not in _PYRAMIDS:
        raise ValueError(f"unknown upsampling {upsampling!r}; expected one of {', '.join(map(repr, _PYRAMIDS))}")
    pyramid = _PYRAMIDS[upsampling](list(in_channels), out_channels, extra_blocks)
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
