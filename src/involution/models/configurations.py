"""What timm wants to know of a net beside its weights."""

from __future__ import annotations

from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

__all__ = ["imagenet_config"]


def imagenet_config(**entries: Any) -> dict[str, Any]:
    """Return timm's configuration of an untrained net for ImageNet, with ``entries`` added or in place of its own."""
    return {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 0.875,
        "interpolation": "bilinear",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "conv1",
        "classifier": "fc",
        **entries,
    }
