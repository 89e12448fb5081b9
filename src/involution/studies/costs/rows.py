"""The rows of the cost tables: which networks, built how, beside which published figures.

A table joins by one entry in `TABLES`. Its rows are made when they are asked for, so that a table of detectors may
import what builds detectors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from .detectors import create_detector, dense_and_regions
from .published import (
    ABLATIONS,
    AXIAL_RESNET_26S,
    CARAFE,
    CITYSCAPES,
    COCO,
    LR_NET,
    REDNET,
    RELEASED_TOP1,
    RESNET,
    SAN,
    STAND_ALONE,
    Published,
)

__all__ = ["TABLES", "Row", "Table"]


def create_timm_model(name: str, **options: Any) -> nn.Module:
    """Build a network by its name in timm, where ours are registered."""
    import timm

    import involution.models  # noqa: F401  (registers them)

    return timm.create_model(name, **options)


def create_segmentation_net(name: str, **options: Any) -> nn.Module:
    """Build a segmentation net with the 19 classes of Cityscapes."""
    from ...models.segmentation import create

    return create(name, 19, **options)


@dataclass(frozen=True)
class Row:
    """One network of a table.

    Attributes:
        name: what the table calls it, unique in its table.
        model: first argument of ``create``.
        options: its further arguments, in values that JSON can hold.
        published: the figures to compare with.
        note: in words, what a reader has to know to compare: always where a count is off by more than 0.5 % for
            another reason than the rounding of the published figure (which is found and said by itself).
        input_size: size of one input, ``(C, H, W)``.
        create: builds the network; called under ``torch.device("meta")``.
        run: as in `count`; for networks that want their input in another form.
        trainable_only: whether the published parameters leave out those that do not require a gradient.
    """

    name: str
    model: str
    options: Mapping[str, Any]
    published: Published
    note: str = ""
    input_size: tuple[int, ...] = (3, 224, 224)
    create: Callable[..., nn.Module] = create_timm_model
    run: Callable[[nn.Module, Tensor], Any] | None = None
    trainable_only: bool = False


@dataclass(frozen=True)
class Table:
    """A group of rows with a heading and what is to be known about all of them."""

    title: str
    caption: str
    rows: Callable[[], Iterable[Row]]


def _imagenet() -> Iterable[Row]:
    control = {"stem": "plain", "spatial_layer": "convolution"}
    notes = {101: "published FLOPs were rounded twice: 7.849 to 7.85 to 7.9"}
    for depth, published in REDNET.items():
        model = f"rednet{depth}"
        yield Row(f"RedNet-{depth}, stem K=7", model, {"stem_kernel_size": 7}, published)
        yield Row(
            f"RedNet-{depth}, stem K=3",
            model,
            {"stem_kernel_size": 3},
            Published(published.params_m, None, {"top-1": RELEASED_TOP1[depth]}),
            "stem of the released weights; the published FLOPs fit K=7",
        )
        yield Row(f"ResNet-{depth}", model, control, RESNET[depth], notes.get(depth, ""))


def _ablation() -> Iterable[Row]:
    varied: dict[str, dict[str, Any]] = {
        **{f"K={k}": {"kernel_size": k} for k in (3, 5, 7, 9)},
        **{f"C/G={n}": {"group_channels": n} for n in (1, 4, 16)},
        "C/G=C": {"groups": 1},
        "φ=W": {"kernel_generator": "linear"},
        **{f"r={r}": {"reduction": r} for r in (1, 4, 16)},
    }
    notes = {"K=5": "unexplained: 2.44 does not round to 2.5, while the FLOPs of the other eleven rows round to theirs"}
    for name, options in varied.items():
        yield Row(f"RedNet-50, {name}", "rednet50", {"stem": "plain", **options}, ABLATIONS[name], notes.get(name, ""))


# Parameters of bottlenecks around the layer, by hand, for every width from 64 to 160 and every number of weights w² a
# layer may hold besides.
_LR_NET = (
    "not reproduced: the layer on ResNet's widths. Of all widths and value projections tried, widths of 100, 200, 400 and "
    "800 with one w×w matrix a layer come nearest: 14.59, 23.35 and 40.74 million, with (2, 2, 2, 2) blocks at depth 26"
)


def _relatives() -> Iterable[Row]:
    rule = "unexplained: neither rule gives the published FLOPs"
    notes = {26: rule, 38: "14.173 million parameters do not round to the published 14.1", 50: rule}
    for depth, published in STAND_ALONE.items():
        yield Row(f"Stand-alone ResNet-{depth}", f"sasa_resnet{depth}", {}, published, notes[depth])
    for (form, depth), figures in SAN.items():
        yield Row(f"SAN-{depth}, {form}", f"san{depth}_{form}", {}, figures)
    yield Row("Axial-ResNet-26-S", "axial_resnet26s", {}, AXIAL_RESNET_26S)
    for depth, published in LR_NET.items():
        yield Row(f"LR-Net-{depth}", f"lrnet{depth}", {}, published, _LR_NET)


def _coco() -> Iterable[Row]:
    titles = {"retinanet": "RetinaNet", "faster_rcnn": "Faster R-CNN", "mask_rcnn": "Mask R-CNN"}
    stems = {"resnet50": "ResNet-50", "rednet50": "RedNet-50"}
    for detector, published in COCO.items():
        for (backbone, neck, head), figures in published.items():
            parts = [f"{layer} {part}" for part, layer in (("neck", neck), ("head", head)) if layer == "involution"]
            notes = []
            # By what the published FLOPs fit; the parameters of the stem are frozen and not counted.
            kernel_size = 7 if neck == "involution" else 3
            if backbone == "rednet50":
                notes.append(f"the published FLOPs fit a stem with K={kernel_size}")
            if (detector, neck) == ("retinanet", "involution"):
                notes.append("published parameters were rounded twice: 26.246 to 26.25 to 26.3")
            whole = detector != "mask_rcnn" or head == "involution"
            if not whole:
                notes.append(
                    "without deconvolution and logits of the mask head (6.81 G), which the published FLOPs leave out "
                    "here and not in the row with the involution head"
                )
            yield Row(
                ", ".join((titles[detector], stems[backbone], *parts)),
                detector,
                {
                    "backbone": backbone,
                    "neck": neck,
                    "head": head,
                    "backbone_args": {"stem_kernel_size": kernel_size} if backbone == "rednet50" else {},
                },
                figures,
                "; ".join(notes),
                (3, 800, 1280),
                create_detector,
                partial(dense_and_regions, mask_predictor=whole),
                trainable_only=True,
            )


def _carafe() -> Iterable[Row]:
    unpublished = Published(None, None, {})
    for name, options, published in (
        ("Faster R-CNN, ResNet-50, CARAFE", {"backbone": "resnet50"}, CARAFE),
        (
            "Faster R-CNN, RedNet-50, involution neck, CARAFE",
            {"backbone": "rednet50", "neck": "involution", "backbone_args": {"stem_kernel_size": 7}},
            unpublished,
        ),
    ):
        yield Row(
            name,
            "faster_rcnn",
            {**options, "neck_upsampling": "carafe"},
            published,
            input_size=(3, 800, 1280),
            create=create_detector,
            run=dense_and_regions,
            trainable_only=True,
        )


def _cityscapes() -> Iterable[Row]:
    titles = {"semantic_fpn": "Semantic FPN", "upernet": "UPerNet"}
    backbones: dict[str, dict[str, Any]] = {
        "ResNet-50": {"spatial_layer": "convolution", "stem": "deep"},
        "RedNet-50": {"stem_kernel_size": 7},
    }
    for (net, backbone, neck), published in CITYSCAPES.items():
        options: dict[str, Any] = {"backbone": "rednet50", "backbone_args": backbones[backbone]}
        if net == "semantic_fpn":
            options["neck"] = neck
        yield Row(
            f"{titles[net]}, {backbone}, {neck} neck",
            net,
            options,
            published,
            input_size=(3, 1024, 2048),
            create=create_segmentation_net,
        )


TABLES = {
    "imagenet": Table(
        "ImageNet classification, 224×224",
        "Published costs: README of the authors' repository, for ResNet digitised from its figures. Without the "
        "classifier's 2 million multiply-adds the counts of all five RedNets with stem K=7 round to the published "
        "figures, which suggests that those leave it out.",
        _imagenet,
    ),
    "ablation": Table(
        "Ablations of RedNet-50, 224×224",
        "Published costs: the paper. All rows have ResNet's plain stem, one 7×7 convolution.",
        _ablation,
    ),
    "relatives": Table(
        "Nets of local self-attention, 224×224",
        "Published costs: the nets' papers, for Axial-ResNet the README of its authors' PyTorch code. The stand-alone nets "
        "have a convolution stem. The paper's rule and the one of SAN's authors agree but for the windows of patchwise "
        "SAN, which are correlations with ones here. LR-Net's published costs are not reproduced, see its note, nor are those "
        "of the larger Axial-ResNets, which have no rows: what is public about both does not suffice.",
        _relatives,
    ),
    "coco": Table(
        "Detection and instance segmentation on COCO, 1280×800",
        "Published costs and accuracy (val2017, 1× schedule): README of the authors' repository. Parameters leave out "
        "the frozen stem and first stage. The box head is counted on 1,000 regions, the mask head on 100. "
        "torchvision's box and mask predictors have an output for the background that the authors' lack: 0.004 M.",
        _coco,
    ),
    "carafe": Table(
        "Detectors whose feature pyramid is enlarged by CARAFE, 1280×800",
        "Counted as the detectors above, of which they differ in `neck_upsampling` alone; three CARAFEs have 0.222 million "
        "parameters. Published accuracy (val2017, 1× schedule): mmdetection; it prints no costs.",
        _carafe,
    ),
    "cityscapes": Table(
        "Cityscapes segmentation, 2048×1024",
        "Published costs: README of the authors' repository. RedNet has the 7×7 stem involution, the ResNet rows fit a "
        "deep stem (ResNet-50-C). Parameters include UPerNet's auxiliary head, which evaluation does not run.",
        _cityscapes,
    ),
}
