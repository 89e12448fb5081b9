"""What would make a training worthless, refused before or while it happens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from ..data.description import DataDescription
from ..errors import DivergenceError, InvolutionWarning, TrainingError, listed
from ..models.saved import MOST_CLASSES
from ..schema import shown

__all__ = [
    "check_classes",
    "check_finite",
    "check_labels",
    "check_number_of_classes",
    "explained_norms",
    "warn_of_long_warmup",
]


def check_number_of_classes(num_classes: int, least: int) -> None:
    """Refuse a number of classes that no net of the task can have, or none that is saved.

    Raises:
        TrainingError: it is below ``least``, or beyond what a saved net may have.
    """
    if num_classes < least:
        raise TrainingError(f"num_classes must be at least {least}, got {num_classes}")
    if num_classes > MOST_CLASSES:
        raise TrainingError(f"num_classes must be at most {MOST_CLASSES:,}, got {shown(num_classes)}")


def check_classes(data: DataDescription, num_classes: int, least: int) -> None:
    """Compare the classes of the data, where they are known, with those of the model.

    Args:
        data: what they say of themselves.
        num_classes: of the model.
        least: number of classes of the task, 1 or 2.

    Raises:
        TrainingError: they differ in number, or are fewer than ``least``.
    """
    names = data.class_names
    if names and len(names) < least:
        raise TrainingError(
            f"the data have one class, {names[0]}, of which nothing can be learnt; add another, such as one of all else"
        )
    if names and len(names) != num_classes:
        raise TrainingError(
            f"the data have {len(names)} class{'es' if len(names) > 1 else ''} ({listed(names)}) and the model "
            f"{num_classes}; set num_classes to {len(names)}"
        )


def check_labels(labels: Tensor, num_classes: int, ignored: int | None = None) -> None:
    """Refuse labels that are none of the model's classes, which a loss takes for an index.

    Args:
        labels: of a batch; of shares of classes (floating point) the shape alone is looked at.
        num_classes: of the model.
        ignored: the label that the loss passes over, if any.

    Raises:
        TrainingError: a label is below 0, or not below ``num_classes``, or shares are not those of so many classes.
    """
    if labels.is_floating_point():
        if labels.ndim != 2 or labels.shape[1] != num_classes:
            raise TrainingError(
                f"labels in floating point are shares of the {num_classes} classes, of shape (B, {num_classes}), and the data "
                f"have {tuple(labels.shape)}; give those, or whole numbers"
            )
        return
    wrong = labels[(labels < 0) | (labels >= num_classes)]
    wrong = wrong if ignored is None else wrong[wrong != ignored]
    if len(wrong):
        raise TrainingError(
            f"the data have the label {wrong[0].item()}, and the model's {num_classes} classes the labels 0 to "
            f"{num_classes - 1}; correct the label, or set num_classes to the number of classes"
        )


def check_finite(loss: Tensor, epoch: int, batch: int, name: str = "loss") -> None:
    """Stop a training that diverged.

    On an accelerator it looks at every fiftieth batch only: to look is to wait for it.

    Args:
        loss: of the batch.
        epoch: from 0.
        batch: of the epoch, from 0.
        name: what the message calls the loss.

    Raises:
        DivergenceError: the loss is infinite or no number.
    """
    if (loss.device.type == "cpu" or batch % 50 == 0) and not torch.isfinite(loss):
        raise DivergenceError(
            f"the {name} is {loss.item()} in epoch {epoch}, batch {batch}: the training diverged; "
            "lower the learning rate, lengthen the warm-up or clip the gradients, and go on from the last checkpoint"
        )


@contextmanager
def explained_norms(images: int) -> Iterator[None]:
    """Say in a sentence what a batch norm inside says of a batch that leaves it one value per channel.

    Args:
        images: of the batch.

    Raises:
        TrainingError: it does.
    """
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise TrainingError(
            f"a batch of {images} leaves a batch norm with one value per channel; train with more images in a batch, or with "
            "larger crops"
        ) from error


def warn_of_long_warmup(warmup: int, length: float, flag: str, unit: str = "steps") -> None:
    """Say that a warm-up outlasts its training, so that the rate asked for is never reached.

    No refusal: a small data set has few steps, and a training to try something few epochs.

    Args:
        warmup: how long it is.
        length: of the training.
        flag: which sets the warm-up.
        unit: what both are counted in.
    """
    if warmup > length:
        rank_zero_warn(
            f"the warm-up of {warmup} {unit} is longer than the training of {length:.0f}, which never has the whole rate; "
            f"lower {flag}, or train for longer",
            category=InvolutionWarning,
        )
