"""Figures that others published, as they printed them, and where they stand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

__all__ = [
    "ABLATIONS",
    "AXIAL_RESNET_26S",
    "CARAFE",
    "CITYSCAPES",
    "COCO",
    "ENVELOPE",
    "LR_NET",
    "REDNET",
    "RELEASED_TOP1",
    "RESNET",
    "SAN",
    "STAND_ALONE",
    "Family",
    "Published",
    "rounding_interval",
]


@dataclass(frozen=True)
class Published:
    """Cost and accuracy of one network as printed: the number of decimals says how each was rounded.

    Attributes:
        params_m: parameters in millions; None where none were published.
        flops_g: "FLOPs" in 10⁹ (multiply-adds); None where none were published for this very network.
        accuracy: percent, by the name of the metric.
    """

    params_m: Decimal | None
    flops_g: Decimal | None
    accuracy: Mapping[str, Decimal]


@dataclass(frozen=True)
class Family:
    """One curve of the envelope figures.

    Attributes:
        points: its networks from small to large.
        names: what to write at the points, if anything.
        digitised: whether the figures had to be read off a drawing.
    """

    points: tuple[Published, ...]
    names: tuple[str, ...] = ()
    digitised: bool = True


def rounding_interval(figure: Decimal) -> tuple[Decimal, Decimal]:
    """Return the least and the greatest number that ``figure`` stands for: half a unit of its last digit away."""
    half = Decimal(5).scaleb(int(figure.as_tuple().exponent) - 1)
    return figure - half, figure + half


def _top1(printed: str) -> Published:
    """Read ``"params FLOPs top-1"``."""
    params_m, flops_g, top1 = map(Decimal, printed.split())
    return Published(params_m, flops_g, {"top-1": top1})


# By depth. Costs: README of https://github.com/d-li14/involution. Accuracy: the paper.
REDNET = {
    26: _top1("9.23 1.73 75.9"),
    38: _top1("12.39 2.22 77.6"),
    50: _top1("15.54 2.71 78.4"),
    101: _top1("25.65 4.74 79.1"),
    152: _top1("33.99 6.79 79.3"),
}

# By depth, of the weights released in the same README.
RELEASED_TOP1 = {
    26: Decimal("75.96"),
    38: Decimal("77.48"),
    50: Decimal("78.35"),
    101: Decimal("78.92"),
    152: Decimal("79.12"),
}

# By depth. Digitised from the two figures in the same README, whose savings in percent confirm the costs.
RESNET = {
    26: _top1("13.7 2.4 73.6"),
    38: _top1("19.6 3.2 76.0"),
    50: _top1("25.6 4.1 76.8"),
    101: _top1("44.6 7.9 78.5"),
    152: _top1("60.2 11.6 79.3"),
}

# By depth, convolution stem: table 1 of "Stand-Alone Self-Attention in Vision Models".
STAND_ALONE = {26: _top1("10.3 2.3 75.8"), 38: _top1("14.1 2.8 77.1"), 50: _top1("18.0 3.5 77.4")}

# By form and depth: "Exploring Self-attention for Image Recognition".
SAN = {
    ("pairwise", 10): _top1("10.5 2.2 75.5"),
    ("pairwise", 15): _top1("14.1 3.0 77.1"),
    ("pairwise", 19): _top1("17.6 3.8 77.4"),
    ("patchwise", 10): _top1("11.8 1.9 77.1"),
    ("patchwise", 15): _top1("16.2 2.6 78.2"),
    ("patchwise", 19): _top1("20.5 3.3 78.5"),
}

# By depth, digitised from the two figures in the README of https://github.com/d-li14/involution.
LR_NET = {26: _top1("14.7 2.6 75.7"), 50: _top1("23.3 4.3 77.3"), 101: _top1("42.0 8.0 78.5")}

# Faster R-CNN with ResNet-50 and CARAFE in the pyramid: configs/carafe/README.md of https://github.com/open-mmlab/mmdetection.
CARAFE = Published(None, None, {"box AP": Decimal("38.6")})

# README of https://github.com/csrhddlam/axial-deeplab.
AXIAL_RESNET_26S = Published(Decimal("5.9"), None, {})

# The paper's ablations of RedNet-50, by what was varied.
ABLATIONS = {
    "K=3": _top1("14.7 2.4 76.9"),
    "K=5": _top1("15.1 2.5 77.4"),
    "K=7": _top1("15.5 2.6 77.7"),
    "K=9": _top1("16.2 2.7 77.8"),
    "C/G=1": _top1("30.2 5.0 77.9"),
    "C/G=4": _top1("18.5 3.0 77.7"),
    "C/G=16": _top1("15.5 2.6 77.7"),
    "C/G=C": _top1("14.6 2.4 76.5"),
    "φ=W": _top1("18.1 3.0 77.8"),
    "r=1": _top1("19.4 3.2 77.8"),
    "r=4": _top1("15.5 2.6 77.7"),
    "r=16": _top1("14.6 2.4 77.4"),
}


def _coco(printed: str) -> Published:
    """Read ``"params FLOPs box-AP"`` or ``"params FLOPs box-AP mask-AP"``."""
    params_m, flops_g, *aps = map(Decimal, printed.split())
    return Published(params_m, flops_g, dict(zip(("box AP", "mask AP"), aps, strict=False)))


# COCO val2017 after the 1× schedule, in the same README, by detector and by backbone, neck and head. The parameters
# leave out the frozen stem and first stage.
COCO = {
    "retinanet": {
        ("resnet50", "convolution", "convolution"): _coco("37.7 239.3 36.6"),
        ("rednet50", "convolution", "convolution"): _coco("27.8 210.1 38.2"),
        ("rednet50", "involution", "convolution"): _coco("26.3 199.9 38.2"),
    },
    "faster_rcnn": {
        ("resnet50", "convolution", "convolution"): _coco("41.5 207.1 37.7"),
        ("rednet50", "convolution", "convolution"): _coco("31.6 177.9 39.5"),
        ("rednet50", "involution", "convolution"): _coco("29.5 135.0 40.2"),
        ("rednet50", "involution", "involution"): _coco("29.0 91.5 39.2"),
    },
    "mask_rcnn": {
        ("resnet50", "convolution", "convolution"): _coco("44.2 253.3 38.4 35.1"),
        ("rednet50", "convolution", "convolution"): _coco("34.2 224.2 39.9 35.7"),
        ("rednet50", "involution", "convolution"): _coco("32.2 181.3 40.8 36.4"),
        ("rednet50", "involution", "involution"): _coco("29.5 104.6 39.6 35.1"),
    },
}

# Semantic segmentation of Cityscapes val, by net, backbone and neck: README of the same repository; multiply-adds of an
# image of 2048×1024.
CITYSCAPES = {
    key: Published(Decimal(params_m), Decimal(flops_g), {"mIoU": Decimal(miou)})
    for key, (params_m, flops_g, miou) in {
        ("semantic_fpn", "ResNet-50", "convolution"): ("28.5", "362.8", "74.5"),
        ("semantic_fpn", "RedNet-50", "convolution"): ("18.5", "293.9", "78.0"),
        ("semantic_fpn", "RedNet-50", "involution"): ("16.4", "205.2", "79.1"),
        ("upernet", "ResNet-50", "convolution"): ("66.4", "1893.8", "78.2"),
        ("upernet", "RedNet-50", "convolution"): ("56.4", "1825.6", "80.6"),
    }.items()
}

# The curves of the README's two figures.
ENVELOPE = {
    "RedNet": Family(tuple(REDNET.values()), tuple(map(str, REDNET)), digitised=False),
    "ResNet": Family(tuple(RESNET.values()), tuple(map(str, RESNET))),
    "LR-Net": Family(tuple(LR_NET.values())),
    "Stand-Alone": Family((_top1("10.3 2.4 74.8"), _top1("14.1 3.0 76.9"), _top1("18.0 3.6 77.6"))),
    "Stand-Alone (conv stem)": Family((_top1("10.3 2.3 75.8"), _top1("14.1 2.4 77.1"), _top1("18.0 3.5 77.4"))),
    "SAN pairwise": Family((_top1("10.5 2.2 75.5"), _top1("14.1 3.0 77.1"), _top1("17.6 3.8 77.4"))),
    "SAN patchwise": Family((_top1("11.8 1.9 77.1"), _top1("16.2 2.6 78.2"), _top1("20.5 3.3 78.5"))),
    "Axial": Family((_top1("12.5 3.3 78.1"), _top1("26.5 6.8 79.2"), _top1("45.8 11.6 79.3"))),
    "Axial (conv stem)": Family(
        (_top1("7.4 1.8 76.4"), _top1("12.4 2.8 77.5"), _top1("26.4 5.7 78.6"), _top1("45.6 9.6 79.0"))
    ),
}
