"""The nets of this library in torchvision's registry, by which its reference scripts know models."""

from __future__ import annotations

from typing import Any

import timm
from torch import nn
from torchvision.models import list_models
from torchvision.models._api import register_model

from . import detection

__all__ = ["register", "register_detectors"]

# As torchvision calls them.
_DETECTORS = {"retinanet": "retinanet", "fasterrcnn": "faster_rcnn", "maskrcnn": "mask_rcnn"}
# Stages of a backbone, its stem counted, of which torchvision's detectors train some.
_STAGES = 5


def register(names: list[str]) -> None:
    """Let ``torchvision.models.get_model(name, num_classes=…)`` build nets of timm; names that it has stay its own.

    Args:
        names: of timm.
    """
    for name in sorted({*names} - {*list_models()}):
        register_model(name)(_builder(name))


def register_detectors(backbones: list[str]) -> None:
    """Let ``torchvision.models.get_model("retinanet_rednet50_fpn", num_classes=…)`` build the detectors of this library.

    Args:
        backbones: of timm; each is known with ``retinanet_``, ``fasterrcnn_`` and ``maskrcnn_`` before it.
    """
    for prefix, architecture in _DETECTORS.items():
        for backbone in backbones:
            name = f"{prefix}_{backbone}_fpn"
            if name not in list_models():
                register_model(name)(_detector_builder(name, architecture, backbone))


def _builder(name: str) -> Any:
    def build(*, weights: str | None = None, progress: bool = True, **arguments: Any) -> nn.Module:
        if weights is not None:
            raise ValueError(
                f"torchvision has no weights of {name}, got weights={weights!r}; leave them out, or create the net by "
                f'timm.create_model("{name}.TAG", pretrained=True)'
            )
        return timm.create_model(name, **arguments)

    return build


def _detector_builder(name: str, architecture: str, backbone: str) -> Any:
    def build(
        *,
        weights: str | None = None,
        weights_backbone: str | None = None,
        progress: bool = True,
        num_classes: int = 91,
        trainable_backbone_layers: int | None = None,
        **arguments: Any,
    ) -> nn.Module:
        if weights is not None:
            raise ValueError(
                f"torchvision has no weights of {name}, got weights={weights!r}; leave them out, or name weights of the "
                "backbone alone (weights_backbone), a file or a folder"
            )
        frozen = 0 if trainable_backbone_layers is None else _STAGES - trainable_backbone_layers
        # torchvision counts the background as class 0, and its scripts name the others from 1: one of ours stays unused.
        return detection.create(
            architecture,
            num_classes,
            backbone=backbone,
            weights=weights_backbone,
            frozen_levels=frozen,
            **arguments,
        )

    return build
