"""Image classification as a LightningModule."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from ..data.description import DataDescription
from ..data.sampling import UNJUDGED
from ..errors import InvolutionWarning, TrainingError, in_one_line
from ..models import saved
from ..models.building import built
from . import sharding
from .checks import check_finite, check_labels, check_number_of_classes, explained_norms
from .following import FollowingTask
from .model_names import ModelName
from .schedules import Shared, configured

# What timm's description of weights says of their name, their classes, their licence and where they came from. A net that was
# trained on from them has a name and classes of its own, and nobody here knows under which licence it is given on.
_OF_FORMER_WEIGHTS = ("tag", "label_names", "label_descriptions", "license", "origin_url")

# Losses that divide by the sum of the weights of the images' classes.
_WEIGHTED = (nn.CrossEntropyLoss, nn.NLLLoss)


def create_model(name: str, num_classes: int, arguments: dict[str, Any]) -> nn.Module:
    """Build a timm model, with RedNet's registered; the path of a folder that ``involution fit`` wrote is the name of its net.

    Raises:
        TrainingError: timm knows no such model, or refuses an argument; or there is no such folder.
        CheckpointError: the folder holds no net of timm's.
    """
    import timm

    import involution.models  # noqa: F401  (registers RedNet)

    if "num_classes" in arguments:
        raise TrainingError("the number of classes is the task's num_classes; leave it out of model_args")
    name = _of_folder(name, bool(arguments.get("pretrained")))
    try:
        return built(name, partial(timm.create_model, name, num_classes=num_classes), **arguments)
    except ValueError as error:
        if "nknown model" in str(error):
            raise TrainingError(
                f"unknown model {name!r}; expected rednet26, 38, 50, 101, 152 or another name of timm.list_models()"
            ) from error
        net, dot, _ = name.partition(".")
        if dot and "Invalid pretrained tag" in str(error):
            known = ", ".join(timm.list_pretrained(f"{net}.*")) or "none"
            raise TrainingError(f"there are no weights {name!r}; of {net} there are {known}") from error
        words = str(error)
        raise TrainingError(words if "cannot be built" in words else f"{name} cannot be built: {words}") from error


def _of_folder(name: str, takes_weights: bool) -> str:
    """Return the name by which timm finds a net in a folder, where a folder is named; any other name as it is."""
    import timm

    if ":" in name or timm.is_model(name):
        return name
    if Path(name).is_dir():
        saved.check_classifier(name)
        if not takes_weights:
            rank_zero_warn(
                f"the training starts from random weights of the net in {name}; from its own with "
                '--model.model_args "{pretrained: true}"',
                category=InvolutionWarning,
            )
        return f"local-dir:{Path(name)}"
    if "/" in name:
        raise TrainingError(
            f"there is no folder {name}; name one that involution fit wrote, which a training has at its end as RUN/model, a "
            "net of timm such as rednet26, or one of the hub as hf-hub:USER/NAME"
        )
    return name


class ClassificationTask(FollowingTask):
    """Train and evaluate any network that maps images to one value per class.

    Logs ``train_loss``, ``train_accuracy``, ``val_loss``, ``val_accuracy``, ``test_loss`` and ``test_accuracy``, each a
    mean over the images of an epoch; training figures are those of the changing network. Where the loss has weights of the
    classes, its mean is the weighted one: the sum of the weighted losses by the sum of the weights of their images.

    Args:
        model: from images ``(B, C, H, W)`` to logits ``(B, num_classes)``; or the name of a timm model, RedNet's
            among them, or the path of a folder that ``involution fit`` wrote.
        num_classes: number of classes.
        model_args: further arguments of ``timm.create_model`` where ``model`` is a name, e.g.
            ``{"pretrained": True}`` or ``{"drop_path_rate": 0.1}``. Data then treat an image as the weights were
            trained, as far as they were not told how.
        channels_last: put weights and images into the channels_last layout, the fast one.
        compile: compile the model with ``torch.compile``.
        loss: from logits and labels ``(B,)`` to a scalar, cross-entropy by default.
        class_weights: a number above zero for each class, in the order of the labels, by which the losses of its images are
            multiplied, e.g. larger ones for classes with few images; for ``torch.nn.CrossEntropyLoss`` and ``NLLLoss``.
        optimizer: from parameters to an optimiser.
        lr_scheduler: from the optimiser to a schedule that is stepped after every epoch (`PolyLR` after every step);
            constant by default.

    Raises:
        TrainingError: the model cannot be built, there are fewer than two classes, or ``class_weights`` do not fit them or
            the loss.
    """

    # What the best checkpoint is chosen by.
    monitor, monitor_mode = "val_accuracy", "max"
    # What a schedule or a callback can watch.
    logged = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")

    def __init__(
        self,
        model: ModelName | nn.Module | str,
        num_classes: int = 1000,
        *,
        model_args: dict[str, Any] | None = None,
        channels_last: bool = False,
        compile: bool = False,
        loss: nn.Module | None = None,
        class_weights: list[float] | None = None,
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        check_number_of_classes(num_classes, self.least_classes)
        self._build: Callable[[], nn.Module] | None = None
        self._is_pretrained = isinstance(model, str) and bool((model_args or {}).get("pretrained"))
        if isinstance(model, str):
            self._build = partial(create_model, model, num_classes, model_args or {})
            model = self._build()
        self.model = model
        self.num_classes, self.channels_last = num_classes, channels_last
        if channels_last:
            self.model.to(memory_format=torch.channels_last)
        if compile:
            self.model.compile()
        self.loss = nn.CrossEntropyLoss() if loss is None else loss
        if class_weights is not None:
            _weigh_classes(self.loss, class_weights, num_classes)
        self.optimizer, self.lr_scheduler = Shared(optimizer), lr_scheduler and Shared(lr_scheduler)
        self.accuracies = nn.ModuleDict(
            {
                f"{stage}_accuracy": MulticlassAccuracy(num_classes, average="micro", ignore_index=UNJUDGED)
                for stage in ("train", "val", "test")
            }
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits ``(B, num_classes)`` of ``images`` ``(B, C, H, W)``."""
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return self.model(images)

    def configure_model(self) -> None:
        """Divide the parameters among the processes where the strategy is FSDP2."""
        if self.device_mesh is not None and not sharding.is_sharded(self.model):
            sharding.shard(self.model, self.device_mesh["data_parallel"])

    def rebuild(self) -> bool:
        """Replace a network that is divided among processes by a new one in this process, for whole weights.

        Returns:
            Whether it could be built anew: it was given by its name.
        """
        if self._build is None:
            return False
        self.model = self._build()
        return True

    def setup(self, stage: str) -> None:
        """Check the data, and let images be seen as the weights were trained.

        Raises:
            TrainingError: see `check_data`.
        """
        data = DataDescription(self.trainer.datamodule)
        self.check_data(data)
        if self._is_pretrained:
            from timm.data import resolve_data_config

            data.see_as(resolve_data_config(model=self.model))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch of images and labels.

        Raises:
            TrainingError: the loss is infinite or no number, a label is none of the model's classes, or a batch norm has a
                single value per channel.
        """
        loss = self._step("train", batch)
        check_finite(loss, self.current_epoch, batch_idx)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Log loss and accuracy of a batch of images and labels; return the loss."""
        return self._step("val", batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log loss and accuracy of a batch of images and labels."""
        self._step("test", batch)

    def predict_step(self, batch: tuple[Tensor, Tensor] | Tensor, batch_idx: int) -> Tensor:
        """Return the probabilities ``(B, num_classes)`` of a batch of images, with labels or without."""
        images = batch if isinstance(batch, Tensor) else batch[0]
        return self(images).softmax(1)

    def configure_optimizers(self) -> Any:
        """Return the optimiser, with its schedule if there is one."""
        return configured(self.optimizer, self.parameters(), self.lr_scheduler)

    def save_model(self, folder: Path) -> None:
        """Write a folder that ``timm.create_model("local-dir:…", pretrained=True)`` and predict read.

        A network that is not timm's is left to the checkpoints.
        """
        net: Any = self.model
        if not hasattr(net, "pretrained_cfg"):
            return
        from timm.models import save_for_hf

        # Where the net has as many classes as before, timm would keep the names of the former ones.
        config = net.pretrained_cfg
        net.pretrained_cfg = {key: value for key, value in config.items() if key not in _OF_FORMER_WEIGHTS}
        data = DataDescription(self.trainer.datamodule)
        save_for_hf(
            net,
            str(folder),
            model_config={"label_names": list(data.class_names)} if data.class_names else None,
            data_config=data.data_config or None,
            safe_serialization=True,
        )

    def _step(self, stage: str, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        expected = getattr(self.model, "in_chans", images.shape[1])
        if images.shape[1] != expected:
            raise TrainingError(
                f"the images have {images.shape[1]} channels and the model takes {expected}; "
                f"build it with model_args={{'in_chans': {images.shape[1]}}}"
            )
        ignored = getattr(self.loss, "ignore_index", None)
        # Before the net, which an accelerator would have to finish before it can say what labels there are.
        check_labels(labels if stage == "train" else labels[_judged(labels)], self.num_classes, ignored)
        classes = _classes(labels, ignored)
        judged = _judged(classes)
        count = len(classes[judged])
        with explained_norms(len(images)):
            logits = self(images)
        # A batch of which other processes judge every image, or the loss passes over every label, weighs nothing.
        loss = self._loss(logits[judged], labels[judged]) if count else (0 * logits).sum()
        accuracy = self.accuracies[f"{stage}_accuracy"]
        accuracy(logits, classes)
        metrics = {f"{stage}_loss": loss, f"{stage}_accuracy": accuracy}
        # Lightning takes the mean of the weights over processes, which of whole numbers it rounds down.
        weight: Any = self._weight(labels[judged])
        self.log_dict(metrics, on_step=False, on_epoch=True, prog_bar=True, sync_dist=True, batch_size=weight)
        return loss

    def _weight(self, labels: Tensor) -> float:
        """Return what the loss of a batch counts in the mean of an epoch: what it was divided by."""
        weights = getattr(self.loss, "weight", None)
        # Of labels that are shares of classes PyTorch divides by the number of images.
        if weights is None or not isinstance(self.loss, _WEIGHTED) or labels.is_floating_point():
            return float(len(labels))
        return weights[labels].double().sum().item()

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        kind = type(self.loss).__name__
        try:
            loss = self.loss(logits, labels)
        except torch.OutOfMemoryError:
            raise
        except (TypeError, ValueError, RuntimeError) as error:
            raise TrainingError(
                f"the loss {kind} cannot be computed of logits {tuple(logits.shape)} and labels {tuple(labels.shape)} "
                f"({labels.dtype}): {in_one_line(error)}; name a loss that takes both"
            ) from error
        if loss.numel() != 1:
            raise TrainingError(
                f"the loss {kind} gives {loss.numel()} values, of shape {tuple(loss.shape)}; name one that gives their mean"
            )
        return loss


def _weigh_classes(loss: nn.Module, weights: Sequence[float], num_classes: int) -> None:
    """Give the loss the weights of the classes.

    Raises:
        TrainingError: it takes none or has its own, or they are not one number above zero for each class.
    """
    kind = type(loss).__name__
    if not isinstance(loss, _WEIGHTED):
        raise TrainingError(
            f"class_weights are for CrossEntropyLoss and NLLLoss, and the loss is {kind}; leave them out, or name one of these"
        )
    if loss.weight is not None:
        raise TrainingError(
            f"the loss {kind} has weights of its own, and class_weights are given too; leave out one of them"
        )
    if len(weights) != num_classes:
        raise TrainingError(
            f"class_weights must be one number for each of the {num_classes} classes, got {len(weights)}; give them in the "
            "order of the labels, which for folders is that of their sorted names"
        )
    wrong = next((weight for weight in weights if not 0 < weight < math.inf), None)
    if wrong is not None:
        raise TrainingError(
            f"class_weights must be finite numbers above zero, got {wrong}; give a rare class a large one"
        )
    # Not kept in checkpoints: they are a setting, and a net is evaluated without them, too.
    loss.register_buffer("weight", torch.tensor(weights, dtype=torch.float32), persistent=False)


def _judged(labels: Tensor) -> Tensor | slice:
    """Return which images of a batch count: those that another process judges, or the loss passes over, do not."""
    judged = labels != UNJUDGED
    return slice(None) if judged.all() else judged


def _classes(labels: Tensor, ignored: int | None) -> Tensor:
    """Return the class that an accuracy compares with: of shares the largest one's; none where the loss passes over it."""
    if labels.is_floating_point():
        return labels.argmax(1)
    return labels if ignored is None else labels.masked_fill(labels == ignored, UNJUDGED)
