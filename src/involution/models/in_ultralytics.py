"""Involution in the configurations of Ultralytics' YOLO, whose package is under AGPL-3.0 and no part of this library."""

from __future__ import annotations

from torch import Tensor, nn

from ..errors import MissingPackageError
from ..modules import Involution2d

__all__ = ["InvolutionBlock", "register"]


class InvolutionBlock(nn.Module):
    """RedNet's bottleneck with YOLO's activation, of as many channels as come: ``x + W2 · σ(involution(σ(W1 · x)))``.

    Args:
        channels: of input and output. A configuration says them as they are: Ultralytics scales the widths of its own
            modules alone, so a configuration with this block has no ``scales``.
        kernel_size: K of the involution.
        group_channels: C / G of the involution.
        expansion: share of the channels that the involution sees.

    Shape:
        ``(B, C, H, W)`` to the same.

    Example:
        >>> import torch
        >>> from involution.models.in_ultralytics import InvolutionBlock
        >>> InvolutionBlock(64)(torch.randn(1, 64, 9, 9)).shape
        torch.Size([1, 64, 9, 9])
    """

    def __init__(self, channels: int, kernel_size: int = 7, group_channels: int = 16, expansion: float = 0.5) -> None:
        super().__init__()
        hidden = max(1, round(channels * expansion))
        self.reduce = _normed(nn.Conv2d(channels, hidden, 1, bias=False), hidden)
        self.involution = _normed(Involution2d(hidden, kernel_size=kernel_size, group_channels=group_channels), hidden)
        self.expand = nn.Sequential(nn.Conv2d(hidden, channels, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` ``(B, C, H, W)`` with what the block adds."""
        return x + self.expand(self.involution(self.reduce(x)))


def _normed(layer: nn.Module, channels: int) -> nn.Sequential:
    return nn.Sequential(layer, nn.BatchNorm2d(channels), nn.SiLU())


def register() -> None:
    """Let Ultralytics' configurations name ``InvolutionBlock`` (``[-1, 1, InvolutionBlock, [128]]``).

    Call it, in every process, before a model is built from a configuration, which training on from a checkpoint does too.

    Raises:
        MissingPackageError: ultralytics is missing.
    """
    try:
        from ultralytics.nn import tasks
    except ImportError as error:
        raise MissingPackageError(
            "ultralytics is missing; install it with: pip install ultralytics (its licence is AGPL-3.0)",
            name=error.name,
        ) from error
    # Where its parser looks names up.
    tasks.InvolutionBlock = InvolutionBlock
