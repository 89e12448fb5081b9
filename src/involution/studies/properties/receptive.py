"""The effective receptive field of a net: how far from a pixel of its last map an image has a say in it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

__all__ = ["calibrated", "field", "radius", "share_within"]


def field(net: Any, images: Tensor, stage: int) -> Tensor:
    """Return how strongly every pixel of an image acts on the middle of a map (Luo et al. 2016).

    It is the mean over images of the absolute gradient, summed over the image's channels, of the sum of all channels of the
    map's middle pixel, and sums up to one.

    Args:
        net: of timm, with ``forward_intermediates``; in the mode in which its batch norms are meant.
        images: ``(B, C, H, W)``.
        stage: index of the map among those of ``forward_intermediates``: of a ResNet 0 is the stem, 1 to 4 the stages.

    Returns:
        float32 ``(H, W)``.
    """
    inputs = images.clone().requires_grad_(True)
    (maps,) = net.forward_intermediates(inputs, indices=[stage], intermediates_only=True)
    height, width = maps.shape[2:]
    (gradient,) = torch.autograd.grad(maps[:, :, height // 2, width // 2].sum(), inputs)
    strength = gradient.abs().sum(1).mean(0)
    return strength / strength.sum()


def radius(strength: Tensor) -> float:
    """Return the root of the mean squared distance, in pixels, of a field from its centre of gravity.

    Args:
        strength: ``(H, W)``, sums up to one, see `field`.
    """
    rows, columns = (torch.arange(side, dtype=strength.dtype) for side in strength.shape)
    row, column = (strength.sum(1) * rows).sum(), (strength.sum(0) * columns).sum()
    squares = (rows[:, None] - row) ** 2 + (columns[None, :] - column) ** 2
    return float((strength * squares).sum().sqrt())


def share_within(strength: Tensor, share: float) -> int:
    """Return the side, in pixels, of the smallest square around the centre of gravity that holds ``share`` of a field.

    Args:
        strength: ``(H, W)``, sums up to one, see `field`.
        share: from 0 to 1.
    """
    rows, columns = (torch.arange(side, dtype=strength.dtype) for side in strength.shape)
    row, column = int((strength.sum(1) * rows).sum().round()), int((strength.sum(0) * columns).sum().round())
    for half in range(max(strength.shape)):
        square = strength[max(0, row - half) : row + half + 1, max(0, column - half) : column + half + 1]
        if float(square.sum()) >= share:
            return 2 * half + 1
    return 2 * max(strength.shape) + 1


def calibrated(net: nn.Module, images: Tensor) -> nn.Module:
    """Give the batch norms of random weights the statistics of these images, and put the net into evaluation mode.

    In training mode every pixel acts on every other by the statistics of the batch, and the field would be the whole image.

    Args:
        net: left in evaluation mode, its running statistics replaced.
        images: ``(B, C, H, W)``.
    """
    update_bn([images], net)
    return net.eval()
