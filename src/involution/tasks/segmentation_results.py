"""Figures of a segmentation from its confusion matrix: intersection over union, accuracies, and a picture of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["class_accuracy", "class_iou", "confusion_picture", "pixel_accuracy", "summary"]


def class_iou(confusion: Tensor) -> Tensor:
    r"""Return the intersection over union :math:`n_{cc} / (\sum_j n_{cj} + \sum_i n_{ic} - n_{cc})` of every class.

    Args:
        confusion: ``(C, C)``, pixels by class (row) and prediction (column).

    Returns:
        float64 ``(C,)``, NaN for a class that neither occurs nor is predicted: it says nothing and counts in no mean.
    """
    n = confusion.double()
    hits = n.diagonal()
    return hits / (n.sum(0) + n.sum(1) - hits)


def class_accuracy(confusion: Tensor) -> Tensor:
    """Return the share of each class's pixels that were recognised, float64 ``(C,)``, NaN for a class without any."""
    n = confusion.double()
    return n.diagonal() / n.sum(1)


def pixel_accuracy(confusion: Tensor) -> Tensor:
    """Return the share of all labelled pixels that were recognised, a float64 scalar, NaN without any."""
    n = confusion.double()
    return n.diagonal().sum() / n.sum()


def summary(confusion: Tensor, names: Sequence[str]) -> dict[str, Any]:
    """Return all figures as a record holds them.

    Args:
        confusion: ``(C, C)``, see `class_iou`.
        names: of the classes.

    Returns:
        ``miou_percent``, ``pixel_accuracy_percent``, ``mean_accuracy_percent``, ``iou_percent`` and
        ``pixel_share_percent`` by class, ``classes`` and ``confusion_matrix`` (pixels).
    """
    iou = class_iou(confusion)
    share = confusion.double().sum(1) / confusion.sum()
    return {
        "miou_percent": 100 * iou.nanmean().item(),
        "pixel_accuracy_percent": 100 * pixel_accuracy(confusion).item(),
        "mean_accuracy_percent": 100 * class_accuracy(confusion).nanmean().item(),
        "iou_percent": dict(zip(names, (100 * iou).tolist(), strict=True)),
        "pixel_share_percent": dict(zip(names, (100 * share).tolist(), strict=True)),
        "classes": list(names),
        "confusion_matrix": confusion.tolist(),
    }


def confusion_picture(confusion: Tensor, names: Sequence[str]) -> Any:
    """Draw the confusion matrix, each row in percent of the pixels of its class; return the matplotlib figure."""
    from matplotlib.figure import Figure

    shares = (100 * confusion.double() / confusion.sum(1, keepdim=True)).nan_to_num()
    side = 1.9 + 0.42 * len(names)
    # Laid out when it is drawn, where what matplotlib says of missing letters is heard.
    figure = Figure(figsize=(side + 0.6, side), layout="tight")
    axes = figure.subplots()
    axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=100)
    # A dollar in a name begins no formula.
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8, parse_math=False)
    axes.set_yticks(range(len(names)), names, fontsize=8, parse_math=False)
    axes.set_xlabel("predicted", fontsize=9)
    axes.set_ylabel("labelled", fontsize=9)
    axes.set_title(f"% of each class's pixels; mIoU {100 * class_iou(confusion).nanmean().item():.1f} %", fontsize=9)
    for i, j in torch.nonzero(shares.round() > 0).tolist():
        dark = shares[i, j] > 50
        axes.text(j, i, f"{shares[i, j]:.0f}", ha="center", va="center", fontsize=7, color="white" if dark else "black")
    return figure
