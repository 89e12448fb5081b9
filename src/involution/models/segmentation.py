"""Semantic segmentation nets of the paper: Semantic FPN and UPerNet over any backbone of timm."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .backbones import Backbone
from .building import built
from .necks import Upsampling, feature_pyramid
from .spatial import SpatialLayer, SpatialLayerName

__all__ = ["SegmentationNet", "SemanticFPNHead", "create", "semantic_fpn", "upernet"]

Norm = Literal["batch", "group"]


class SegmentationNet(nn.Module):
    """A backbone, what turns its maps into logits, and in training an auxiliary head.

    Args:
        backbone: from images to maps, finest first.
        decoder: from the list of maps to logits ``(B, num_classes, h, w)`` of any size.
        auxiliary: likewise; it serves the loss alone.
    """

    def __init__(self, backbone: Backbone, decoder: nn.Module, auxiliary: nn.Module | None = None) -> None:
        super().__init__()
        self.backbone, self.decoder, self.auxiliary = backbone, decoder, auxiliary

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits ``(B, num_classes, H, W)`` of ``images`` ``(B, 3, H, W)``, of any size."""
        return _resized(self.decoder(self.backbone(images)), images.shape[2:])

    def with_auxiliary(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the logits and those of the auxiliary head (None without one), both of the size of ``images``."""
        maps = self.backbone(images)
        auxiliary = None if self.auxiliary is None else _resized(self.auxiliary(maps), images.shape[2:])
        return _resized(self.decoder(maps), images.shape[2:]), auxiliary


class SemanticFPNHead(nn.Module):
    """The head of Semantic FPN (Kirillov et al. 2019): the levels of a pyramid, brought to the finest one and summed.

    A level of 2ⁿ times the finest stride passes n blocks (one at least) of 3×3 convolution, norm, ReLU and bilinear
    enlargement by two; a 1×1 convolution turns the sum into logits.

    Args:
        in_channels: of every level.
        channels: of the blocks.
        num_classes: number of logits per pixel.
        strides: of the levels, finest first.
        norm: ``"batch"``, or ``"group"`` for 32 groups, or as many as 32 and ``channels`` both divide into.
        dropout: probability of dropping a channel of the sum.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        num_classes: int,
        strides: Sequence[int],
        *,
        norm: Norm = "batch",
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList()
        for stride in strides:
            doublings = round(math.log2(stride / strides[0]))
            layers: list[nn.Module] = []
            for i in range(max(1, doublings)):
                conv = nn.Conv2d(in_channels if i == 0 else channels, channels, 3, padding=1, bias=False)
                nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
                layers += [conv, _norm(norm, channels), nn.ReLU(inplace=True)]
                if doublings:
                    layers.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
            self.branches.append(nn.Sequential(*layers))
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        _init_classifier(self.classifier)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Return logits of the size of the first of ``levels`` ``(B, in_channels, h, w)``."""
        total = self.branches[0](levels[0])
        for branch, level in zip(list(self.branches)[1:], levels[1:], strict=True):
            total = total + _resized(branch(level), total.shape[2:])
        return self.classifier(self.dropout(total))


class _PyramidDecoder(nn.Module):
    """A feature pyramid and a head on its levels."""

    def __init__(self, pyramid: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.pyramid, self.head = pyramid, head

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        levels = self.pyramid({str(i): level for i, level in enumerate(maps)})
        return self.head(list(levels.values()))


def semantic_fpn(
    num_classes: int,
    backbone: str = "rednet50",
    *,
    neck: SpatialLayerName | SpatialLayer = "convolution",
    neck_upsampling: Upsampling = "nearest",
    neck_channels: int = 256,
    head_channels: int = 128,
    norm: Norm = "batch",
    dropout: float = 0.1,
    weights: str | Path | None = None,
    backbone_args: Mapping[str, Any] | None = None,
    neck_args: Mapping[str, Any] | None = None,
) -> SegmentationNet:
    """Build Semantic FPN: a backbone, a feature pyramid and `SemanticFPNHead`.

    Args:
        num_classes: number of classes.
        backbone: name of a timm network whose levels have the strides 4, 8, 16 and 32.
        neck: the pyramid's output layers: ``"convolution"`` (3×3), ``"involution"`` (7×7), or see `feature_pyramid`.
        neck_upsampling: how the pyramid enlarges its levels, ``"nearest"`` or ``"carafe"``, see `feature_pyramid`.
        neck_channels: of the pyramid's levels.
        head_channels: of the head.
        norm: of the head: ``"batch"`` (the paper's, synchronised by ``trainer.sync_batchnorm``) or ``"group"``.
        dropout: probability of dropping a channel before the classifier.
        weights: what the backbone starts from, see `Backbone`.
        backbone_args: further arguments of `Backbone`, e.g. ``{"stem_kernel_size": 7}`` or ``{"frozen_levels": 1}``.
        neck_args: of the neck's involutions, e.g. ``{"kernel_size": 5}``.

    Raises:
        ValueError: a name or number is unknown or out of range.
        involution.models.checkpoints.CheckpointError: the weights do not fit.

    Example:
        >>> import torch
        >>> from involution.models.segmentation import semantic_fpn
        >>> net = semantic_fpn(11, "rednet26", neck="involution").eval()
        >>> net(torch.randn(1, 3, 65, 97)).shape
        torch.Size([1, 11, 65, 97])
    """
    body = Backbone(backbone, weights=weights, **(backbone_args or {}))
    pyramid = feature_pyramid(
        body.channels, neck_channels, spatial_layer=neck, upsampling=neck_upsampling, **(neck_args or {})
    )
    head = SemanticFPNHead(neck_channels, head_channels, num_classes, body.strides, norm=norm, dropout=dropout)
    return SegmentationNet(body, _PyramidDecoder(pyramid, head))


def upernet(
    num_classes: int,
    backbone: str = "rednet50",
    *,
    head_channels: int = 512,
    pool_scales: Sequence[int] = (1, 2, 3, 6),
    auxiliary_channels: int = 256,
    dropout: float = 0.1,
    weights: str | Path | None = None,
    backbone_args: Mapping[str, Any] | None = None,
) -> SegmentationNet:
    """Build UPerNet (Xiao et al. 2018) with its auxiliary head on stage 3; the heads are those of transformers.

    Args:
        num_classes: number of classes.
        backbone: name of a timm network whose levels have the strides 4, 8, 16 and 32.
        head_channels: of the head.
        pool_scales: sides of the maps that the pyramid pooling module pools to.
        auxiliary_channels: of the auxiliary head; 0 for none.
        dropout: probability of dropping a channel before a classifier.
        weights: what the backbone starts from, see `Backbone`.
        backbone_args: further arguments of `Backbone`, e.g. ``{"stem_kernel_size": 7}``.

    Raises:
        ImportError: transformers is missing.
        ValueError: a name or number is unknown or out of range.
        involution.models.checkpoints.CheckpointError: the weights do not fit.
    """
    try:
        from transformers import UperNetConfig
        from transformers.models.upernet.modeling_upernet import UperNetFCNHead, UperNetHead
    except ImportError as error:
        raise ImportError(
            f'upernet needs transformers ({error}); install it with: pip install "involution[train]"'
        ) from error
    body = Backbone(backbone, weights=weights, **(backbone_args or {}))
    config = UperNetConfig(
        hidden_size=head_channels,
        pool_scales=list(pool_scales),
        num_labels=num_classes,
        use_auxiliary_head=bool(auxiliary_channels),
        auxiliary_channels=auxiliary_channels or head_channels,
        auxiliary_in_channels=body.channels[2],
    )
    heads: list[Any] = [UperNetHead(config, body.channels)]
    if auxiliary_channels:
        heads.append(UperNetFCNHead(config, body.channels))
    for head in heads:
        for module in head.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        _init_classifier(head.classifier)
        # The published configuration drops channels there, transformers' heads do not.
        head.classifier = nn.Sequential(nn.Dropout2d(dropout), head.classifier)
    return SegmentationNet(body, *heads)


_ARCHITECTURES: dict[str, Callable[..., SegmentationNet]] = {"semantic_fpn": semantic_fpn, "upernet": upernet}


def create(architecture: str, num_classes: int, **arguments: Any) -> SegmentationNet:
    """Build a segmentation net by name.

    Args:
        architecture: ``"semantic_fpn"`` or ``"upernet"``.
        num_classes: number of classes of pixels.
        **arguments: of the function of that name.

    Raises:
        ValueError: the name is unknown, or the net refuses an argument.
    """
    if architecture not in _ARCHITECTURES:
        raise ValueError(
            f"unknown segmentation net {architecture!r}; expected one of {', '.join(map(repr, _ARCHITECTURES))}"
        )
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    return built(architecture, _ARCHITECTURES[architecture], num_classes, **arguments)


def _resized(logits: Tensor, size: torch.Size) -> Tensor:
    if logits.shape[2:] == size:
        return logits
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)


def _norm(name: str, channels: int) -> nn.Module:
    if name == "batch":
        return nn.BatchNorm2d(channels)
    if name == "group":
        return nn.GroupNorm(math.gcd(32, channels), channels)
    raise ValueError(f"unknown norm {name!r}; expected 'batch' or 'group'")


def _init_classifier(classifier: nn.Conv2d) -> None:
    nn.init.normal_(classifier.weight, std=0.01)
    if classifier.bias is not None:
        nn.init.zeros_(classifier.bias)
