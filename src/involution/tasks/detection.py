"""Object detection and instance segmentation as a LightningModule."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from .. import records
from ..data.description import DataDescription
from ..errors import CheckpointError, TrainingError
from ..models import saved
from ..models.building import check_proportions
from ..models.detection import MaskRCNN, create
from .checks import check_finite, check_labels, check_number_of_classes, warn_of_long_warmup
from .following import FollowingTask, follow
from .model_names import ModelName
from .schedules import Shared, configured, warmed_up

__all__ = ["DetectionTask", "average_precision"]

Batch = tuple[list[Tensor], list[dict[str, Tensor]]]

# Names of torchmetrics, which are the field's; recall at few detections and values per class are left to `test`'s user.
_KEPT = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large", "mar_100")
# What a detector normalises images by, and what it is called of data.
_NORMALISATION = {"image_mean": "mean", "image_std": "std"}

# Precisions of Lightning in which the net, and the images and boxes with it, are rounded to 16 bits.
_ROUNDED = ("bf16-true", "16-true")


def average_precision(masks: bool) -> Any:
    """Return COCO's metric, for boxes or for boxes and masks.

    Raises:
        ImportError: torchmetrics or faster-coco-eval is missing.
    """
    try:
        import faster_coco_eval  # noqa: F401
        from torchmetrics.detection import MeanAveragePrecision
    except ImportError as error:
        raise ImportError(
            f'average precision needs faster-coco-eval ({error}); install it with: pip install "involution[detection]"'
        ) from error
    metric = MeanAveragePrecision(
        iou_type=("bbox", "segm") if masks else "bbox",
        backend="faster_coco_eval",
        # torchmetrics' own are float32: where a recall is just a threshold, pycocotools decides otherwise.
        iou_thresholds=np.linspace(0.5, 0.95, 10).tolist(),
        rec_thresholds=np.linspace(0, 1, 101).tolist(),
        # torchmetrics gathers lists of equal lengths only; see `_gather`.
        sync_on_compute=False,
    )
    metric.warn_on_many_detections = False
    return metric


class DetectionTask(FollowingTask):
    """Train and evaluate a detector of torchvision's form, by the losses that it returns and COCO's average precision.

    Logs ``train_loss``, the parts of which it is the sum (``train_classifier_loss``, …), and ``val_map``,
    ``val_map_50``, ``val_map_75``, ``val_map_small``, ``val_map_medium``, ``val_map_large`` and ``val_mar_100`` from 0
    to 1, with ``val_mask_map``, … where the net predicts masks, and ``test_…`` likewise; −1 stands where there are no
    objects to judge by. ``validate`` and ``test`` also write them as a record, ``detection-val.json`` or
    ``detection-test.json``, into the folder of the run.

    Args:
        model: ``"retinanet"``, ``"faster_rcnn"`` or ``"mask_rcnn"``, or any detector that takes images and targets as
            torchvision's do, with labels from 0.
        num_classes: number of classes, the background not counted.
        model_args: further arguments of `involution.models.detection`'s function of that name, e.g.
            ``{"backbone": "rednet50", "neck": "involution"}``.
        channels_last: put the weights, and with them all maps, into the channels_last layout, the fast one.
        compile: compile backbone and neck with ``torch.compile``.
        warmup_iterations: steps over which the learning rate rises linearly to that of the schedule.
        warmup_factor: share of the rate at the first of these steps.
        optimizer: from parameters to an optimiser.
        lr_scheduler: from the optimiser to a schedule that is stepped after every epoch (`PolyLR` after every step);
            constant by default.

    Raises:
        TrainingError: the detector cannot be built.
    """

    # One kind of object is told from the background.
    least_classes = 1
    # What the best checkpoint is chosen by.
    monitor, monitor_mode = "val_map", "max"
    # What a schedule or a callback can watch.
    logged = ("train_loss", "train_*_loss", *(f"val_{name}" for name in _KEPT), "val_mask_*")

    def __init__(
        self,
        model: ModelName | nn.Module | str = "faster_rcnn",
        num_classes: int = 80,
        *,
        model_args: dict[str, Any] | None = None,
        channels_last: bool = False,
        compile: bool = False,
        warmup_iterations: int = 0,
        warmup_factor: float = 0.001,
        optimizer: OptimizerCallable = torch.optim.SGD,
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        check_number_of_classes(num_classes, self.least_classes)
        self.architecture = model if isinstance(model, str) else None
        self.model_args = dict(model_args or {})
        net: Any = model
        if isinstance(model, str):
            try:
                net = create(model, num_classes, **self.model_args)
            except (ValueError, CheckpointError) as error:
                raise TrainingError(str(error)) from error
        self.model = net
        self.num_classes = num_classes
        if channels_last:
            net.to(memory_format=torch.channels_last)
        if compile:
            net.backbone.compile()  # in place: the names of the weights stay
        if warmup_iterations < 0 or not 0 < warmup_factor <= 1:
            raise TrainingError(
                "warmup_iterations must not be negative and warmup_factor lie between 0 and 1, "
                f"got {warmup_iterations} and {warmup_factor}"
            )
        self.warmup_iterations, self.warmup_factor = warmup_iterations, warmup_factor
        self.optimizer, self.lr_scheduler = Shared(optimizer), lr_scheduler and Shared(lr_scheduler)
        # Of the checkpoint that was loaded last, for the record.
        self.loaded_epochs: int | None = None
        self.predicts_masks = isinstance(net, MaskRCNN)
        self.metrics = nn.ModuleDict({stage: average_precision(self.predicts_masks) for stage in ("val", "test")})

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        """Return the objects of each image ``(3, H, W)``, whose values are from 0 to 1."""
        return self.model(images)

    def check_data(self, data: DataDescription) -> None:
        """Compare the data with the model.

        Raises:
            TrainingError: the data have another number of classes, or lack the masks that the model learns.
        """
        super().check_data(data)
        if self.predicts_masks and data.lacks_masks:
            raise TrainingError("the model predicts masks and the data hold none; read them with --data.masks true")

    def setup(self, stage: str) -> None:
        """Check the precision, the data and the sizes of their images.

        Raises:
            TrainingError: the precision rounds boxes to 16 bits, or see `check_data`.
            DataError: nothing is left of an image when the detector has resized it.
        """
        if self.trainer.precision in _ROUNDED:
            raise TrainingError(
                f"a detector does not compute in {self.trainer.precision}, which rounds the boxes of the data, too, and for "
                "which torchvision has no suppression of overlapping boxes; use --trainer.precision bf16-mixed"
            )
        data = DataDescription(self.trainer.datamodule)
        self.check_data(data)
        check_proportions(self.model, data.sizes())

    def images_seen(self, data: DataDescription) -> Mapping[str, Any]:
        """Return how the detector normalises images; nothing of a user's, which does so by itself, if at all."""
        if self.architecture is None:
            return {}
        return {key: getattr(self.model.transform, name) for name, key in _NORMALISATION.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep of a checkpoint how many epochs it was trained, and normalise images as its detector did unless told how.

        Raises:
            CheckpointError: the data have other classes.
        """
        epoch = checkpoint.get("epoch")
        self.loaded_epochs = None if epoch is None else epoch + 1
        seen = follow(checkpoint, self).seen
        if self.architecture is not None:
            for name, key in _NORMALISATION.items():
                if self.model_args.get(name) is None and key in seen:
                    setattr(self.model.transform, name, seen[key])

    def on_train_start(self) -> None:
        """Look whether all is logged that is watched, say where the warm-up is too long, and let schedules end in time.

        Raises:
            TrainingError: a figure is not logged, or a schedule ends before the training.
        """
        super().on_train_start()
        warn_of_long_warmup(
            self.warmup_iterations, self.trainer.estimated_stepping_batches, "--model.warmup_iterations"
        )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the sum of the losses of a batch of images and targets.

        Raises:
            TrainingError: it is infinite or no number, or a label is none of the model's classes.
        """
        images, targets = batch
        self._check(targets)
        losses = self.model(images, targets)
        loss = torch.stack(list(losses.values())).sum()
        check_finite(loss, self.current_epoch, batch_idx)
        parts = {f"train_{name.removeprefix('loss_')}_loss": value for name, value in losses.items()}
        self.log(
            "train_loss", loss, on_step=False, on_epoch=True, prog_bar=True, sync_dist=True, batch_size=len(images)
        )
        self.log_dict(parts, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(images))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Compare what the model finds in a batch of images with the targets."""
        self._update("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Compare what the model finds in a batch of images with the targets."""
        self._update("test", batch)

    def predict_step(self, batch: Batch, batch_idx: int) -> list[dict[str, Tensor]]:
        """Return what the model finds in a batch of images."""
        return self(batch[0])

    def on_validation_epoch_end(self) -> None:
        """Log the average precision over the validation images."""
        self._log("val")

    def on_test_epoch_end(self) -> None:
        """Log the average precision over the test images."""
        self._log("test")

    def configure_optimizers(self) -> Any:
        """Return the optimiser of the weights that train, with its schedule if there is one."""
        parameters = [p for p in self.parameters() if p.requires_grad]
        return configured(self.optimizer, parameters, self.lr_scheduler)

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        """Take a step, with a lower rate during the warm-up."""
        with warmed_up(optimizer, self.global_step, self.warmup_iterations, self.warmup_factor):
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)

    def save_model(self, folder: Path) -> None:
        """Write a folder that predict reads; a detector that was not built by its name is left to the checkpoints."""
        if self.architecture is None:
            return
        data = DataDescription(self.trainer.datamodule)
        mean, std = (tuple(values) for values in (self.model.transform.image_mean, self.model.transform.image_std))
        # The weights to start from are in the saved ones; how they saw images has to be said.
        arguments = {name: value for name, value in self.model_args.items() if name != "weights"}
        arguments |= {"image_mean": list(mean), "image_std": list(std)}
        saved.save(
            folder,
            self.model,
            saved.Description(
                task="detection",
                architecture=self.architecture,
                arguments=arguments,
                classes=data.names_of(self.num_classes),
                mean=mean,
                std=std,
                details={"category_ids": list(data.ids_of(self.num_classes))},
            ),
        )

    def _check(self, targets: list[dict[str, Tensor]]) -> None:
        if targets:
            check_labels(torch.cat([target["labels"] for target in targets]), self.num_classes)

    def _update(self, stage: str, batch: Batch) -> None:
        images, targets = batch
        self._check(targets)
        found = self.model(images)
        if self.predicts_masks:
            found = [{**objects, "masks": objects["masks"][:, 0] > 0.5} for objects in found]
            targets = [{**target, "masks": target["masks"].bool()} for target in targets]
        metric: Any = self.metrics[stage]
        metric.update(found, targets)

    def _log(self, stage: str) -> None:
        metric: Any = self.metrics[stage]
        if self.trainer.world_size > 1:
            _gather(metric)
        values = metric.compute()
        # Of every image there is one entry, also where it has no objects.
        images = len(metric.groundtruth_labels)
        metric.reset()
        kinds = {"bbox_": "", "segm_": "mask_"} if self.predicts_masks else {"": ""}
        results = {
            f"{ours}{name}": values[f"{theirs}{name}"].item() for theirs, ours in kinds.items() for name in _KEPT
        }
        for name, value in results.items():
            # Every process has computed the same value.
            self.log(f"{stage}_{name}", value, prog_bar=name == "map")
        if self.trainer.state.fn in ("validate", "test") and self.trainer.is_global_zero:
            self._write_record(stage, images, results)

    def _write_record(self, stage: str, images: int, results: dict[str, float]) -> None:
        checkpoint = self.trainer.ckpt_path
        payload = {
            "seed": None,
            "model": self.architecture or type(self.model).__name__,
            "model_args": {name: value for name, value in self.model_args.items() if name != "weights"},
            "checkpoint": None if checkpoint is None else Path(checkpoint).name,
            "epochs": None if checkpoint is None else self.loaded_epochs,
            "params_m": sum(p.numel() for p in self.model.parameters()) / 1e6,
            "images": images,
            "results": results,
        }
        records.write(f"detection-{stage}", payload, Path(self.trainer.default_root_dir))


def _gather(metric: Any) -> None:
    """Give every process the images of all, in the order of the data, of which they had each n-th."""
    for name, state in metric.metric_state.items():
        share = [value.cpu() if isinstance(value, Tensor) else value for value in state]
        shares: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(shares, share)
        missing = object()
        values = [v for v in chain.from_iterable(zip_longest(*shares, fillvalue=missing)) if v is not missing]
        setattr(metric, name, [value.to(metric.device) if isinstance(value, Tensor) else value for value in values])
