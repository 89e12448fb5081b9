"""Batch norms of PyTorch, torchvision and timm as what they are in evaluation: a scale and an offset per channel."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["Affine", "affine", "is_batch_norm", "obstacle"]

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
# Of packages this library does not need: whoever holds one of their norms has imported them.
_FOREIGN = (
    ("torchvision.ops", "FrozenBatchNorm2d"),
    ("timm.layers", "FrozenBatchNormAct2d"),
    ("timm.layers", "BatchNormAct2d"),
)


class Affine(NamedTuple):
    """``act(scale · x + offset)`` per channel, and whether scale and offset come from weights that train."""

    scale: Tensor
    offset: Tensor
    scale_trains: bool
    offset_trains: bool
    act: nn.Module


def is_batch_norm(module: nn.Module) -> bool:
    """Whether ``module`` is a batch norm, with running statistics or frozen, or of a class derived from one."""
    return isinstance(module, _classes())


def obstacle(norm: Any) -> str | None:
    """Return why the batch norm ``norm`` is no fixed scale and offset, as a clause about it, or None if it is one."""
    if type(norm) not in _classes():
        return f"its class {type(norm).__name__} may do more than a batch norm"
    if isinstance(norm, _NORMS):
        if norm.training:
            return "it is in training mode"
        if not norm.track_running_stats or norm.running_mean is None:
            return "it has no running statistics and takes those of each batch"
    if type(getattr(norm, "drop", None)) not in (type(None), nn.Identity):
        return f"it drops values by a {type(norm.drop).__name__}"
    return None


def affine(norm: Any, dtype: torch.dtype) -> Affine:
    """Return what ``norm`` (which has no `obstacle`) does to each channel, computed in ``dtype``."""
    scale = torch.rsqrt(norm.running_var.detach().to(dtype) + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight.detach().to(dtype)
    offset = -norm.running_mean.detach().to(dtype) * scale
    if norm.bias is not None:
        offset = offset + norm.bias.detach().to(dtype)
    return Affine(scale, offset, _trains(norm.weight), _trains(norm.bias), getattr(norm, "act", None) or nn.Identity())


def _trains(vector: Tensor | None) -> bool:
    return vector is not None and vector.requires_grad


def _classes() -> tuple[type, ...]:
    imported = [getattr(sys.modules.get(package), name, None) for package, name in _FOREIGN]
    return (*_NORMS, *(cls for cls in imported if cls is not None))
