"""Detectors and instance segmentation: torchvision's, around any backbone of timm, with involutions where one wants them.

Every net takes a list of images ``(3, H, W)`` with values from 0 to 1, of any sizes, and resizes, normalises and pads
them itself. In training it also takes their targets and returns the losses by name; in evaluation it returns for each
image ``boxes`` ``(N, 4)`` as x1, y1, x2, y2 in pixels of that image, ``labels`` ``(N,)``, ``scores`` ``(N,)`` and, of
Mask R-CNN, ``masks`` ``(N, 1, H, W)`` as probabilities. Labels count from 0; the background is no class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any, Literal

import torchvision.models.detection as tv
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, LastLevelMaxPool, LastLevelP6P7

from ..modules import Involution2d
from . import trained
from .backbones import Backbone
from .building import built, check_options, refuse_numbers
from .detection_parts import Anchors, PlainL1, at_least_the_image, in_float32
from .necks import PyramidBackbone, Upsampling, feature_pyramid
from .spatial import SpatialLayer, SpatialLayerName, resolve, swap

__all__ = ["ARCHITECTURES", "FasterRCNN", "MaskRCNN", "RetinaNet", "create", "faster_rcnn", "mask_rcnn", "retinanet"]

# Parts of torchvision's detectors that the functions here make, and the argument that says how.
_MADE_BY = {
    "anchor_generator": "anchor_sizes",
    "rpn_anchor_generator": "anchor_sizes",
    "rpn_head": "head",
    "box_roi_pool": "roi_sampling_ratio",
    "box_head": "box_channels",
    "box_predictor": "box_channels",
    "mask_roi_pool": "roi_sampling_ratio",
    "mask_head": "head",
    "mask_predictor": "neck_channels",
}

Target = dict[str, Tensor]
Spatial = SpatialLayerName | SpatialLayer


class RetinaNet(tv.RetinaNet):
    """torchvision's RetinaNet (Lin et al. 2017), which counts labels from 0 and takes the L1 loss for boxes already."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.head.register_forward_hook(in_float32)


class _TwoStages:
    """What both two-stage detectors have in common; comes before torchvision's class."""

    training: bool
    rpn: Any
    roi_heads: Any

    def __init__(self, *args: Any, box_loss: Literal["l1", "smooth_l1"] = "l1", **kwargs: Any) -> None:
        if box_loss not in ("l1", "smooth_l1"):
            raise ValueError(f"unknown box_loss {box_loss!r}; expected 'l1' or 'smooth_l1'")
        super().__init__(*args, **kwargs)
        self.box_loss = box_loss
        self.rpn.register_forward_hook(at_least_the_image)
        for last in (self.rpn.head, self.roi_heads.box_predictor, self.roi_heads.mask_predictor):
            if last is not None:
                last.register_forward_hook(in_float32)

    def forward(self, images: list[Tensor], targets: list[Target] | None = None) -> Any:
        """Return the losses by name in training, the objects of each image in evaluation."""
        forward: Callable[..., Any] = super().forward  # type: ignore[misc]
        # torchvision's label 0 is the background.
        if targets is not None:
            targets = [{**target, "labels": target["labels"] + 1} for target in targets]
        if self.training:
            if self.box_loss == "smooth_l1":
                return forward(images, targets)
            with PlainL1():
                return forward(images, targets)
        return [{**found, "labels": found["labels"] - 1} for found in forward(images)]


class FasterRCNN(_TwoStages, tv.FasterRCNN):
    """torchvision's Faster R-CNN (Ren et al. 2015), with labels that count from 0.

    Args:
        *args: of torchvision's class.
        box_loss: of both stages: ``"l1"``, as in the paper's configurations, or torchvision's ``"smooth_l1"``.
        **kwargs: of torchvision's class.
    """


class MaskRCNN(_TwoStages, tv.MaskRCNN):
    """torchvision's Mask R-CNN (He et al. 2017); arguments as in `FasterRCNN`."""


def retinanet(
    num_classes: int = 80,
    backbone: str = "rednet50",
    *,
    neck: Spatial = "convolution",
    neck_upsampling: Upsampling = "nearest",
    head: Spatial = "convolution",
    weights: str | Path | None = None,
    frozen_levels: int = 0,
    norm_eval: bool = False,
    backbone_args: Mapping[str, Any] | None = None,
    spatial_args: Mapping[str, Any] | None = None,
    neck_channels: int = 256,
    anchor_sizes: Sequence[int] = (32, 64, 128, 256, 512),
    out_indices: Sequence[int] = (2, 3, 4),
    **options: Any,
) -> RetinaNet:
    """Build a RetinaNet (Lin et al. 2017): one stage, focal loss, levels P3 to P7.

    Args:
        num_classes: number of classes, the background not counted.
        backbone: name of a timm network.
        neck: what computes the outputs of the feature pyramid: ``"convolution"``, ``"involution"``, or a callable, see
            `involution.models.necks.feature_pyramid`.
        neck_upsampling: how the pyramid enlarges its levels, ``"nearest"`` or ``"carafe"``, likewise.
        head: likewise for the two towers of the head (the paper's rows leave them convolutions).
        weights: of the backbone, to start from, see `involution.models.backbones.Backbone`; where they say how images
            were normalised, ``image_mean`` and ``image_std`` are theirs unless given.
        frozen_levels: of the backbone, likewise; 2 for the published recipes.
        norm_eval: of the backbone, likewise; true for the published recipes.
        backbone_args: further arguments of the backbone in timm, e.g. ``{"stem_kernel_size": 7}``.
        spatial_args: of the involutions in neck and head, see `involution.Involution2d`.
        neck_channels: of the pyramid and the head.
        anchor_sizes: side of the smallest anchor of each level in pixels; each has two more, ∛2 and ∛4 times as large,
            all in three shapes.
        out_indices: feature levels of the backbone that enter the pyramid, which adds two coarser ones.
        **options: of ``torchvision.models.detection.RetinaNet`` but for its parts, which are made here: ``min_size`` (a
            list for multi-scale training), ``max_size``, ``image_mean``, ``score_thresh``, …

    Raises:
        ValueError: a part is unknown or refuses its arguments.

    Example:
        >>> import torch
        >>> from involution.models.detection import retinanet
        >>> net = retinanet(3, "rednet26", neck="involution", min_size=64, max_size=96).eval()
        >>> sorted(net([torch.rand(3, 60, 80)])[0])
        ['boxes', 'labels', 'scores']
    """
    refuse_numbers(1, neck_channels=neck_channels)
    body = _backbone(backbone, out_indices, weights, frozen_levels, norm_eval, backbone_args)
    coarser = LastLevelP6P7(body.channels[-1], neck_channels)
    sizes = tuple((s, int(s * 2 ** (1 / 3)), int(s * 2 ** (2 / 3))) for s in anchor_sizes)
    anchors = _anchors(sizes, len(body.channels) + 2)
    tower = RetinaNetHead(neck_channels, anchors.num_anchors_per_location()[0], num_classes)
    layer = _layer(head, spatial_args)
    swap(tower.classification_head.conv, layer)
    swap(tower.regression_head.conv, layer)
    pyramid = _pyramid(body, neck_channels, neck, neck_upsampling, coarser, spatial_args)
    options = _normalised(_known(options, tv.RetinaNet), weights)
    return RetinaNet(pyramid, num_classes, anchor_generator=anchors, head=tower, **options)


def faster_rcnn(num_classes: int = 80, backbone: str = "rednet50", **arguments: Any) -> FasterRCNN:
    """Build a Faster R-CNN (Ren et al. 2015) on a feature pyramid: a region proposal network and a box head.

    Args:
        num_classes: number of classes, the background not counted.
        backbone: name of a timm network.
        **arguments: those of `mask_rcnn`; ``head`` is the 3×3 convolution of the region proposal network, the box
            head stays two fully connected layers.

    Raises:
        ValueError: a part is unknown or refuses its arguments.

    Example:
        >>> import torch
        >>> from involution.models.detection import faster_rcnn
        >>> net = faster_rcnn(3, "rednet26", head="involution", min_size=64, max_size=96).eval()
        >>> sorted(net([torch.rand(3, 60, 80)])[0])
        ['boxes', 'labels', 'scores']
    """
    return _rcnn(FasterRCNN, num_classes, backbone, **arguments)


def mask_rcnn(num_classes: int = 80, backbone: str = "rednet50", **arguments: Any) -> MaskRCNN:
    """Build a Mask R-CNN (He et al. 2017): a Faster R-CNN that also predicts a mask for every object.

    Args:
        num_classes: number of classes, the background not counted.
        backbone: name of a timm network.
        **arguments: ``neck``, ``neck_upsampling``, ``weights``, ``frozen_levels``, ``norm_eval``, ``backbone_args``,
            ``spatial_args`` and ``neck_channels`` as in `retinanet`; ``head``: what stands for the 3×3 convolutions of the
            region proposal network and of the mask head; ``anchor_sizes``: side of the anchors of each of the five levels
            in pixels;
            ``out_indices``: feature levels of the backbone, to which a coarser one is added; ``box_channels``: width of
            the box head, 1,024; ``roi_sampling_ratio``: samples per bin and axis of RoIAlign, 2, or 0 for as many as
            the box has pixels; ``box_loss``: ``"l1"`` (the published one) or ``"smooth_l1"``; and those of
            ``torchvision.models.detection.MaskRCNN`` but for its parts, which are made here: ``min_size`` (a list for
            multi-scale training), ``max_size``, ``box_score_thresh``, …

    Raises:
        ValueError: a part is unknown or refuses its arguments.

    Example:
        >>> import torch
        >>> from involution.models.detection import mask_rcnn
        >>> sizes = {"min_size": 64, "max_size": 96, "box_detections_per_img": 10}
        >>> net = mask_rcnn(3, "rednet26", neck="involution", head="involution", **sizes).eval()
        >>> sorted(net([torch.rand(3, 60, 80)])[0])
        ['boxes', 'labels', 'masks', 'scores']
    """
    return _rcnn(MaskRCNN, num_classes, backbone, **arguments)


def _rcnn(
    cls: Any,
    num_classes: int,
    backbone: str,
    *,
    neck: Spatial = "convolution",
    neck_upsampling: Upsampling = "nearest",
    head: Spatial = "convolution",
    weights: str | Path | None = None,
    frozen_levels: int = 0,
    norm_eval: bool = False,
    backbone_args: Mapping[str, Any] | None = None,
    spatial_args: Mapping[str, Any] | None = None,
    neck_channels: int = 256,
    box_channels: int = 1024,
    roi_sampling_ratio: int = 2,
    anchor_sizes: Sequence[int] = (32, 64, 128, 256, 512),
    out_indices: Sequence[int] = (1, 2, 3, 4),
    **options: Any,
) -> Any:
    # What torchvision's classes do not know.
    ours = {name: options.pop(name) for name in ("box_loss",) if name in options}
    options = _normalised(_known(options, tv.MaskRCNN if cls is MaskRCNN else tv.FasterRCNN), weights)
    refuse_numbers(1, neck_channels=neck_channels, box_channels=box_channels)
    refuse_numbers(0, roi_sampling_ratio=roi_sampling_ratio)
    body = _backbone(backbone, out_indices, weights, frozen_levels, norm_eval, backbone_args)
    layer = _layer(head, spatial_args)
    anchors = _anchors(tuple((size,) for size in anchor_sizes), len(body.channels) + 1)
    proposals = RPNHead(neck_channels, anchors.num_anchors_per_location()[0])
    swap(proposals.conv, layer)
    # torchvision's maps are "0", "1", …; the added level makes proposals only.
    align = partial(MultiScaleRoIAlign, [str(i) for i in range(len(body.channels))], sampling_ratio=roi_sampling_ratio)
    if cls is MaskRCNN:
        masks = MaskRCNNHeads(neck_channels, (neck_channels,) * 4, 1)
        swap(masks, layer)
        options |= {
            "mask_roi_pool": align(output_size=14),
            "mask_head": masks,
            "mask_predictor": MaskRCNNPredictor(neck_channels, neck_channels, num_classes + 1),
        }
    return cls(
        _pyramid(body, neck_channels, neck, neck_upsampling, LastLevelMaxPool(), spatial_args),
        rpn_anchor_generator=anchors,
        rpn_head=proposals,
        box_roi_pool=align(output_size=7),
        box_head=TwoMLPHead(neck_channels * 7 * 7, box_channels),
        box_predictor=FastRCNNPredictor(box_channels, num_classes + 1),
        **ours,
        **options,
    )


def _backbone(
    name: str,
    out_indices: Sequence[int],
    weights: str | Path | None,
    frozen_levels: int,
    norm_eval: bool,
    arguments: Mapping[str, Any] | None,
) -> Backbone:
    return Backbone(
        name,
        out_indices=out_indices,
        weights=weights,
        frozen_levels=frozen_levels,
        norm_eval=norm_eval,
        **(arguments or {}),
    )


def _layer(spatial_layer: Spatial, arguments: Mapping[str, Any] | None) -> SpatialLayer | None:
    return resolve(spatial_layer, partial(Involution2d, **(arguments or {})), "head")


def _pyramid(
    body: Backbone,
    channels: int,
    neck: Spatial,
    upsampling: Upsampling,
    coarser: ExtraFPNBlock,
    arguments: Mapping[str, Any] | None,
) -> PyramidBackbone:
    fpn = feature_pyramid(
        body.channels,
        channels,
        spatial_layer=neck,
        upsampling=upsampling,
        extra_blocks=coarser,
        **(arguments or {}),
    )
    return PyramidBackbone(body, fpn, channels)


def _known(options: Mapping[str, Any], cls: Any) -> dict[str, Any]:
    """Return ``options``; torchvision's classes would swallow a misspelt one, and parts that are made here anyway."""
    taken = {*signature(cls).parameters, *signature(GeneralizedRCNNTransform).parameters}
    made = sorted(options.keys() & taken & _MADE_BY.keys())
    if made:
        raise ValueError(
            f"{made[0]} is made here, by {_MADE_BY[made[0]]}; give that instead, or replace the part in the net"
        )
    known = taken - _MADE_BY.keys() - {"backbone", "num_classes", "kwargs"}
    unknown = sorted(options.keys() - known)
    if "channels" in unknown:
        raise ValueError(
            "channels are those of a backbone's stages (backbone_args); name those of the feature pyramid neck_channels"
        )
    if unknown:
        raise ValueError(
            f"unknown argument {unknown[0]!r}; torchvision's {cls.__name__} takes {', '.join(sorted(known))}"
        )
    check_options(options, GeneralizedRCNNTransform, cls)
    return dict(options)


def _normalised(options: dict[str, Any], weights: str | Path | None) -> dict[str, Any]:
    """Return ``options`` with mean and standard deviation of the weights where it names none."""
    seen = trained.seen_by(weights)
    return {**{f"image_{key}": seen[key] for key in ("mean", "std") if key in seen}, **options}


def _anchors(sizes: tuple[tuple[int, ...], ...], levels: int) -> AnchorGenerator:
    if len(sizes) != levels:
        raise ValueError(f"anchor_sizes needs one value for each of the {levels} levels, got {len(sizes)}")
    refuse_numbers(1, **{f"anchor_sizes[{i}]": size for i, (size, *_) in enumerate(sizes)})
    return Anchors(sizes, ((0.5, 1.0, 2.0),) * levels)


ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "retinanet": retinanet,
    "faster_rcnn": faster_rcnn,
    "mask_rcnn": mask_rcnn,
}


def create(architecture: str, num_classes: int, **arguments: Any) -> nn.Module:
    """Build a detector by its name in `ARCHITECTURES`.

    Args:
        architecture: ``"retinanet"``, ``"faster_rcnn"``, …
        num_classes: number of classes of objects, without the background.
        **arguments: of the function of that name.

    Raises:
        ValueError: the name or an argument is unknown.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"unknown detector {architecture!r}; expected one of {', '.join(ARCHITECTURES)}")
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    return built(architecture, ARCHITECTURES[architecture], num_classes, **arguments)
