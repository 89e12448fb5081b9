"""The nets of this library in torchvision's registry, by which its reference scripts know models."""

from __future__ import annotations

from typing import Any

import timm
from torch import nn
from torchvision.models import list_models
from torchvision.models._api import register_model

__all__ = ["register"]


def register(names: list[str]) -> None:
    """Let ``torchvision.models.get_model(name, num_classes=…)`` build nets of timm; names that it has stay its own.

    Args:
        names: of timm.
    """
    for name in sorted({*names} - {*list_models()}):
        register_model(name)(_builder(name))


def _builder(name: str) -> Any:
    def build(*, weights: str | None = None, progress: bool = True, **arguments: Any) -> nn.Module:
        if weights is not None:
            raise ValueError(
                f"torchvision has no weights of {name}, got weights={weights!r}; leave them out, or create the net by "
                f'timm.create_model("{name}.TAG", pretrained=True)'
            )
        return timm.create_model(name, **arguments)

    return build
