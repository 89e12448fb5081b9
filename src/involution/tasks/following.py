"""What goes on from a checkpoint, or judges it, has its classes and sees images as its net was trained to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from lightning.pytorch import LightningModule

from ..data.description import DataDescription
from ..errors import CheckpointError
from ..models.trained_data import TrainedData
from .checks import check_classes, check_finite
from .schedules import end_with_training
from .watched import check_watched

__all__ = ["FollowingTask", "follow"]


class FollowingTask(LightningModule):
    """A task whose checkpoints say what data they are of, and which follows what a checkpoint says.

    Attributes:
        num_classes: number of the model's classes.
        least_classes: fewest of them that can be told apart.
    """

    num_classes: int
    least_classes: ClassVar[int] = 2

    def check_data(self, data: DataDescription) -> None:
        """Compare the classes of the data with those of the model.

        Raises:
            TrainingError: they differ in number, or are too few.
        """
        check_classes(data, self.num_classes, self.least_classes)

    def on_validation_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Stop a training whose net gives no numbers in evaluation, although its loss in training may still be one.

        Running statistics overflow before weights do. ``involution validate`` reports what it finds.

        Args:
            outputs: the loss of the batch of validation images; None of a task that computes none.
            batch: the images.
            batch_idx: of the epoch, from 0.
            dataloader_idx: of several sets of images.

        Raises:
            DivergenceError: the loss is infinite or no number.
        """
        if outputs is not None and self.trainer.state.fn == "fit" and self.trainer.validating:
            check_finite(outputs, self.current_epoch, batch_idx, "validation loss")

    def on_train_start(self) -> None:
        """Look whether all is logged that schedules and callbacks watch, and let schedules end with the training.

        Raises:
            TrainingError: a figure is not logged, or a schedule ends before the training.
        """
        check_watched(self.trainer)
        end_with_training(self.trainer)

    def images_seen(self, data: DataDescription) -> Mapping[str, Any]:
        """Return how images are seen, by the names of timm's configuration: as the data say, unless the net does so itself."""
        return data.data_config

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the names of the classes and how images are seen."""
        data = DataDescription(self.trainer.datamodule)
        checkpoint |= TrainedData.of_module(data.class_names, self.images_seen(data)).entries()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let images be seen as those that the weights were trained on.

        Raises:
            CheckpointError: the data have other classes.
        """
        follow(checkpoint, self)


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
