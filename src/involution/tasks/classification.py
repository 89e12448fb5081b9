"""Image classification as a LightningModule."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy


class ClassificationTask(LightningModule):
    """Train and evaluate any network that maps images to one value per class.

    Logs ``train_loss``, ``train_accuracy``, ``val_loss``, ``val_accuracy``, ``test_loss`` and ``test_accuracy``, each a
    mean over the images of an epoch; training figures are those of the changing network.

    Args:
        model: from images ``(B, C, H, W)`` to logits ``(B, num_classes)``.
        num_classes: number of classes.
        loss: from logits and labels ``(B,)`` to a scalar, cross-entropy by default.
        optimizer: from parameters to an optimiser.
        lr_scheduler: from the optimiser to a schedule that is stepped after every epoch; constant by default.
    """

    def __init__(
        self,
        model: nn.Module,
        num_classes: int = 1000,
        *,
        loss: nn.Module | None = None,
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.loss = nn.CrossEntropyLoss() if loss is None else loss
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.accuracies = nn.ModuleDict(
            {
                f"{stage}_accuracy": MulticlassAccuracy(num_classes, average="micro")
                for stage in ("train", "val", "test")
            }
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits ``(B, num_classes)`` of ``images`` ``(B, C, H, W)``."""
        return self.model(images)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch of images and labels."""
        return self._step("train", batch)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log loss and accuracy of a batch of images and labels."""
        self._step("val", batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log loss and accuracy of a batch of images and labels."""
        self._step("test", batch)

    def predict_step(self, batch: tuple[Tensor, Tensor] | Tensor, batch_idx: int) -> Tensor:
        """Return the probabilities ``(B, num_classes)`` of a batch of images, with labels or without."""
        images = batch if isinstance(batch, Tensor) else batch[0]
        return self(images).softmax(1)

    def configure_optimizers(self) -> Any:
        """Return the optimiser, with its schedule if there is one."""
        optimizer = self.optimizer(self.parameters())
        if self.lr_scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": self.lr_scheduler(optimizer)}

    def _step(self, stage: str, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        logits = self(images)
        loss = self.loss(logits, labels)
        accuracy = self.accuracies[f"{stage}_accuracy"]
        accuracy(logits, labels)
        metrics = {f"{stage}_loss": loss, f"{stage}_accuracy": accuracy}
        self.log_dict(metrics, on_step=False, on_epoch=True, batch_size=len(labels))
        return loss
