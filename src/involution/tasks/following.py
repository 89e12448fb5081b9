"""What goes on from a checkpoint, or judges it, has its classes and sees images as its net was trained to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule

from ..data.description import DataDescription
from ..errors import CheckpointError
from ..models.trained_data import TrainedData

__all__ = ["follow"]


def follow(checkpoint: Mapping[str, Any], task: LightningModule) -> TrainedData:
    """Compare the classes of the data with those of a checkpoint, and let images be seen as its net was trained to.

    What the data were told is left as it is. To be called before the weights are loaded.

    Args:
        checkpoint: as it was read; one without a word of its data changes nothing.
        task: that takes the weights, attached to a trainer or, in ``load_from_checkpoint``, to none.

    Returns:
        What the checkpoint says.

    Raises:
        CheckpointError: the classes have other names or another order, so that every answer would be called wrongly.
    """
    trained = TrainedData.of_checkpoint(checkpoint)
    try:
        trainer = task.trainer
    except RuntimeError:
        # Lightning's word for a task that has no trainer.
        return trained
    data = DataDescription(trainer.datamodule)
    for label, (theirs, ours) in enumerate(zip(trained.class_names, data.class_names, strict=False)):
        if theirs != str(ours):
            raise CheckpointError(
                f"{trainer.ckpt_path} was trained with other classes: label {label} is {theirs!r} there and {str(ours)!r} in "
                "the data; give the classes the names and the order that they had, or train anew"
            )
    data.see_as(trained.seen)
    return trained
