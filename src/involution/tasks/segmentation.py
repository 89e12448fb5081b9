"""Semantic segmentation as a LightningModule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric, SumMetric
from torchmetrics.classification import MulticlassConfusionMatrix

from .. import records
from ..data.description import DataDescription
from ..data.label_maps import IGNORE
from ..errors import CheckpointError, TrainingError
from ..files import write_atomically
from ..models import saved, trained
from ..models.segmentation import SegmentationNet, create
from ..models.segmentation_inference import check_views, segment
from . import segmentation_results as analysis
from .checks import check_finite, check_labels, check_number_of_classes, explained_norms
from .following import FollowingTask
from .model_names import ModelName
from .schedules import Shared, configured

__all__ = ["SegmentationTask"]


class SegmentationTask(FollowingTask):
    """Train and evaluate a net that gives every pixel of an image a class.

    The loss is the cross-entropy summed over the labelled pixels and divided by the number of all pixels of the batch,
    as in the published code: a crop without labels has the loss zero, and processes with different numbers of labelled
    pixels together compute what one would. Logs ``train_loss``, and for validation and test ``val_loss`` (a mean over
    labelled pixels), ``val_miou``, ``val_pixel_accuracy``, ``val_mean_accuracy`` and ``val_iou/<class>``, from 0 to 1.
    ``validate`` and ``test`` also write a record with the confusion matrix and a picture of it into the run's folder.

    Args:
        model: the name of a net, ``"semantic_fpn"`` or ``"upernet"``, or a net with the methods of `SegmentationNet`.
        num_classes: number of classes.
        model_args: arguments of `semantic_fpn` or `upernet` where ``model`` is a name, e.g.
            ``{"backbone": "rednet26", "neck": "involution"}``.
        auxiliary_weight: of the auxiliary head's loss.
        window: height and width of sliding windows in evaluation, see `segment`; whole images by default.
        stride: pixels from one window to the next.
        scales: factors by which an image is resized in evaluation, averaged.
        flip: whether evaluation averages with the flipped image.
        channels_last: put weights and images into the channels_last layout, the fast one.
        compile: compile the model with ``torch.compile``.
        optimizer: from parameters to an optimiser.
        lr_scheduler: from the optimiser to a schedule that is stepped after every optimiser step (`WarmupCosineLR` after
            every epoch); constant by default.

    Raises:
        TrainingError: the net cannot be built, or a number is out of range.
    """

    # What the best checkpoint is chosen by.
    monitor, monitor_mode = "val_miou", "max"
    # What a schedule or a callback can watch.
    logged = ("train_loss", "val_loss", "val_miou", "val_pixel_accuracy", "val_mean_accuracy", "val_iou/*")

    def __init__(
        self,
        model: ModelName | SegmentationNet | str = "semantic_fpn",
        num_classes: int = 19,
        *,
        model_args: dict[str, Any] | None = None,
        auxiliary_weight: float = 0.4,
        window: Sequence[int] | None = None,
        stride: Sequence[int] | None = None,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        channels_last: bool = False,
        compile: bool = False,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        check_number_of_classes(num_classes, self.least_classes)
        self.architecture, self.model_args = model if isinstance(model, str) else None, dict(model_args or {})
        try:
            check_views(window, stride, scales)
            if isinstance(model, str):
                model = create(model, num_classes, **self.model_args)
        except (ValueError, CheckpointError) as error:
            raise TrainingError(str(error)) from error
        self.model = model
        self.num_classes, self.auxiliary_weight, self.channels_last = num_classes, auxiliary_weight, channels_last
        if not 0 <= auxiliary_weight < math.inf:
            raise TrainingError(f"auxiliary_weight must be a number from 0 on, got {auxiliary_weight}")
        self.views: dict[str, Any] = {"window": window, "stride": stride, "scales": tuple(scales), "flip": flip}
        if channels_last:
            self.model.to(memory_format=torch.channels_last)
        if compile:
            self.model.compile()
        self.optimizer, self.lr_scheduler = Shared(optimizer), lr_scheduler and Shared(lr_scheduler)
        stages = ("val", "test")
        self.confusion: Any = nn.ModuleDict(
            {f"{stage}_matrix": MulticlassConfusionMatrix(num_classes, ignore_index=IGNORE) for stage in stages}
        )
        self.losses: Any = nn.ModuleDict({f"{stage}_loss": MeanMetric() for stage in stages})
        self.counts: Any = nn.ModuleDict({f"{stage}_images": SumMetric() for stage in stages})

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits ``(B, num_classes, H, W)`` of ``images`` ``(B, 3, H, W)``."""
        return self.model(self._laid_out(images))

    def setup(self, stage: str) -> None:
        """Check the data, and let images be seen as the weights were trained.

        Raises:
            TrainingError: see `check_data`.
        """
        data = DataDescription(self.trainer.datamodule)
        self.check_data(data)
        data.see_as(trained.seen_by(self.model_args.get("weights")))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch of images ``(B, 3, H, W)`` and classes ``(B, H, W)``.

        Raises:
            TrainingError: the loss is infinite or no number, a label is none of the model's classes, or a batch norm has a
                single value per channel.
        """
        images, labels = batch
        check_labels(labels, self.num_classes, IGNORE)
        with explained_norms(len(images)):
            logits, auxiliary = self.model.with_auxiliary(self._laid_out(images))
        loss = self._loss(logits, labels)
        if auxiliary is not None:
            loss = loss + self.auxiliary_weight * self._loss(auxiliary, labels)
        check_finite(loss, self.current_epoch, batch_idx)
        self.log(
            "train_loss", loss, on_step=False, on_epoch=True, prog_bar=True, sync_dist=True, batch_size=len(labels)
        )
        return loss

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum") / labels.numel()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor | None:
        """Judge whole images ``(B, 3, H, W)`` by classes ``(B, H', W')``, at the size of these.

        Returns:
            The loss, or None where no pixel is labelled.
        """
        return self._judge("val", batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Judge whole images, as in validation."""
        self._judge("test", batch)

    def predict_step(self, batch: tuple[Tensor, Tensor] | Tensor, batch_idx: int) -> Tensor:
        """Return the classes ``(B, H, W)`` of a batch of images, with labels or without."""
        images = batch if isinstance(batch, Tensor) else batch[0]
        return segment(self, images, **self.views).argmax(1)

    def _judge(self, stage: str, batch: tuple[Tensor, Tensor]) -> Tensor | None:
        images, labels = batch
        check_labels(labels, self.num_classes, IGNORE)
        probabilities = segment(self, images, size=labels.shape[1:], **self.views)
        self.confusion[f"{stage}_matrix"].update(probabilities.argmax(1), labels)
        is_labelled = labels != IGNORE
        # An image that another process judges comes without labels.
        self.counts[f"{stage}_images"].update(is_labelled.flatten(1).any(1).sum())
        labelled = is_labelled.sum()
        if not labelled:
            return None
        log_probabilities = probabilities.clamp_min(1e-12).log()
        loss = F.nll_loss(log_probabilities, labels, ignore_index=IGNORE)
        self.losses[f"{stage}_loss"].update(loss, labelled)
        return loss

    def on_validation_epoch_end(self) -> None:
        """Log the figures of the validation images."""
        self._log_figures("val")

    def on_test_epoch_end(self) -> None:
        """Log the figures of the test images."""
        self._log_figures("test")

    def _log_figures(self, stage: str) -> None:
        metric, mean = self.confusion[f"{stage}_matrix"], self.losses[f"{stage}_loss"]
        count = self.counts[f"{stage}_images"]
        matrix = metric.compute().cpu()
        iou = analysis.class_iou(matrix)
        figures = {
            f"{stage}_miou": iou.nanmean(),
            f"{stage}_pixel_accuracy": analysis.pixel_accuracy(matrix),
            f"{stage}_mean_accuracy": analysis.class_accuracy(matrix).nanmean(),
        }
        by_class = {f"{stage}_iou/{name}": value for name, value in zip(self._names(), iou, strict=True)}
        # Every process has the whole matrix: the average is over equal values.
        self.log_dict({f"{stage}_loss": mean.compute(), **self._placed(figures)}, prog_bar=True, sync_dist=True)
        self.log_dict(self._placed(by_class), sync_dist=True)
        images = int(count.compute())
        for used in (metric, mean, count):
            used.reset()
        if self.trainer.state.fn != TrainerFn.FITTING and self.trainer.is_global_zero:
            self._write_record(stage, matrix, images)

    def _placed(self, figures: dict[str, Tensor]) -> dict[str, Tensor]:
        # Where processes exchange them, which may know no float64.
        return {name: value.float().to(self.device) for name, value in figures.items()}

    def _write_record(self, stage: str, matrix: Tensor, images: int) -> None:
        from ..pictures.plots import png

        folder = Path(self.trainer.default_root_dir)
        checkpoint = self.trainer.ckpt_path
        data = DataDescription(self.trainer.datamodule)
        payload = {
            "seed": None,
            "model": self.architecture or type(self.model).__name__,
            "model_args": {key: value for key, value in self.model_args.items() if key != "weights"},
            "checkpoint": None if checkpoint is None else Path(checkpoint).name,
            "views": self.views,
            "image_size": data.data_config.get("image_size"),
            "data": data.source(stage),
            "images": images,
            "results": analysis.summary(matrix, self._names()),
        }
        path = records.write(f"segmentation-{stage}", payload, folder)
        picture = png(analysis.confusion_picture(matrix, self._names()), dpi=110)
        write_atomically(path.with_suffix(".png"), picture)

    def configure_optimizers(self) -> Any:
        """Return the optimiser for what is not frozen, with its schedule if there is one."""
        parameters = [p for p in self.parameters() if p.requires_grad]
        return configured(self.optimizer, parameters, self.lr_scheduler, "step")

    def save_model(self, folder: Path) -> None:
        """Write a folder that predict reads. A net that was not built by name is left to the checkpoints."""
        if self.architecture is None:
            return
        config = DataDescription(self.trainer.datamodule).data_config
        mean, std = (tuple(config.pop(key, default)) for key, default in (("mean", (0, 0, 0)), ("std", (1, 1, 1))))
        arguments = {key: value for key, value in self.model_args.items() if key != "weights"}
        details = {**config, "views": self.views}
        description = saved.Description("segmentation", self.architecture, arguments, self._names(), mean, std, details)
        saved.save(folder, self.model, description)

    def _names(self) -> tuple[str, ...]:
        return DataDescription(self.trainer.datamodule).names_of(self.num_classes)

    def _laid_out(self, images: Tensor) -> Tensor:
        return images.contiguous(memory_format=torch.channels_last) if self.channels_last else images
