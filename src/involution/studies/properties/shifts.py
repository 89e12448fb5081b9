"""Does a classifier say the same of an image that is moved by some pixels?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["DIRECTIONS", "PADDINGS", "accuracy", "consistency", "shifted"]

Padding = Literal["reflect", "constant"]
PADDINGS: tuple[Padding, ...] = ("reflect", "constant")
DIRECTIONS = ((0, 1), (0, -1), (1, 0), (-1, 0))


def shifted(images: Tensor, down: int, right: int, padding: Padding) -> Tensor:
    """Return images moved by whole pixels; what comes in at the border is their reflection, or zero.

    Args:
        images: ``(B, C, H, W)``, normalised, so that zero is the mean of the data.
        down: pixels, negative for up.
        right: pixels, negative for left.
        padding: ``"reflect"`` or ``"constant"``.
    """
    height, width = images.shape[2:]
    margin = max(abs(down), abs(right))
    padded = F.pad(images, [margin] * 4, mode=padding)
    top, left = margin - down, margin - right
    return padded[..., top : top + height, left : left + width]


@torch.inference_mode()
def consistency(
    net: nn.Module, images: Tensor, pixels: Sequence[int], padding: Padding, batch_size: int = 500
) -> dict[int, float]:
    """Return the share of images, percent, that get the same class moved as unmoved, by the pixels they are moved by.

    Args:
        net: a classifier in evaluation mode.
        images: ``(B, C, H, W)``, normalised.
        pixels: how far images are moved, in each of `DIRECTIONS`, over which the share is averaged.
        padding: see `shifted`.
        batch_size: images at a time.
    """
    same = dict.fromkeys(pixels, 0)
    for chunk in images.split(batch_size):
        still = net(chunk).argmax(1)
        for far in pixels:
            for down, right in DIRECTIONS:
                moved = net(shifted(chunk, far * down, far * right, padding)).argmax(1)
                same[far] += int((moved == still).sum())
    return {far: 100 * hits / (len(DIRECTIONS) * len(images)) for far, hits in same.items()}


@torch.inference_mode()
def accuracy(net: nn.Module, images: Any, batch_size: int = 500) -> float:
    """Return the share, percent, of images that get their class.

    Args:
        net: a classifier, in the mode that it is judged in.
        images: a data set whose ``__getitems__`` returns images and labels as tensors, such as
            `involution.data.small_images.TensorImages`.
        batch_size: images at a time.
    """
    hits = 0
    for start in range(0, len(images), batch_size):
        chunk, labels = images.__getitems__(range(start, min(start + batch_size, len(images))))
        hits += int((net(chunk).argmax(1) == labels).sum())
    return 100 * hits / len(images)
