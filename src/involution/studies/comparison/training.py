"""Train one net of the comparison: the recipes, and a training that can be interrupted at any moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from lightning.pytorch import Trainer
from torch import nn

from ...data.small_images import Scaling, SmallImages
from ...tasks.callbacks import EpochSeed, History, Row, RunProgressBar, Snapshot
from ...tasks.classification import ClassificationTask
from ..fitting import fit, quiet

__all__ = ["RECIPES", "Recipe", "train"]


@dataclass(frozen=True)
class Recipe:
    """How both nets for a data set are trained: with Adam, on cross-entropy.

    Attributes:
        epochs: passes over the training images.
        batch_size: images of a step.
        scaling: of the pixels, see `involution.data.SmallImages`.
        learning_rate: Adam's step size, at the start.
        epsilon: Adam's epsilon.
        label_smoothing: share of the target that is spread over all classes.
        cosine: whether the step size falls to zero along a cosine, stepped after every epoch; constant otherwise.
        threads: CPU threads, all by default.
    """

    epochs: int
    batch_size: int
    scaling: Scaling
    learning_rate: float = 1e-3
    epsilon: float = 1e-7
    label_smoothing: float = 0.0
    cosine: bool = False
    threads: int | None = None


_FAIR = partial(Recipe, scaling="standard", learning_rate=5e-3, epsilon=1e-8, label_smoothing=0.1, cosine=True)
RECIPES = {
    # The report's: 10 epochs in its notebook. The digits are not in it; they are few, so there are more epochs, and so
    # small that sharing them among threads costs more than it gives.
    ("digits", "published"): Recipe(epochs=30, batch_size=32, scaling="unit", threads=1),
    ("mnist", "published"): Recipe(epochs=10, batch_size=128, scaling="unit"),
    ("fashion_mnist", "published"): Recipe(epochs=10, batch_size=128, scaling="unit"),
    ("cifar10", "published"): Recipe(epochs=10, batch_size=256, scaling="raw"),
    ("digits", "fair"): _FAIR(epochs=30, batch_size=32, threads=1),
    ("mnist", "fair"): _FAIR(epochs=10, batch_size=128),
    ("fashion_mnist", "fair"): _FAIR(epochs=10, batch_size=128),
    ("cifar10", "fair"): _FAIR(epochs=10, batch_size=128),
}


def train(
    net: nn.Module,
    data: SmallImages,
    recipe: Recipe,
    *,
    num_classes: int,
    seed: int,
    device: torch.device,
    checkpoint: Path,
    title: str,
    on_epoch: Callable[[list[Row]], None] | None = None,
) -> list[Row]:
    """Train ``net`` in place and evaluate it on the test images after every epoch.

    On a CPU the same seed gives the same numbers, interrupted or not.

    Args:
        net: the network.
        data: its images, left as they are.
        recipe: how.
        num_classes: outputs of the network.
        seed: of dropout and of the order of the images, whatever was trained before.
        device: where it trains.
        checkpoint: a file that holds the state after the last whole epoch; where it exists, training goes on from it.
        title: stands before the progress bar.
        on_epoch: called with the history after every epoch.

    Returns:
        The history, see `involution.tasks.callbacks.History`.

    Raises:
        KeyboardInterrupt: Ctrl-C; what the checkpoint holds is kept.
        SystemExit: the process was asked to end by SIGTERM; likewise.
    """
    optimizer = partial(torch.optim.Adam, lr=recipe.learning_rate, eps=recipe.epsilon)
    schedule = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=recipe.epochs) if recipe.cosine else None
    loss = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    # Both operators are faster in the channels_last layout.
    task = ClassificationTask(
        net, num_classes, loss=loss, optimizer=optimizer, lr_scheduler=schedule, channels_last=True
    )
    history = History(on_epoch)
    # The same images, but no state of another training.
    data = copy(data)
    data.seed = seed
    with quiet(), _threads(recipe.threads):
        trainer = Trainer(
            accelerator="gpu" if device.type == "cuda" else device.type,
            devices=[device.index or 0] if device.type == "cuda" else 1,
            max_epochs=recipe.epochs,
            callbacks=[EpochSeed(seed), history, Snapshot(checkpoint), RunProgressBar(title)],
            logger=False,
            num_sanity_val_steps=0,
            enable_model_summary=False,
            log_every_n_steps=1,
        )
        fit(trainer, task, data, ckpt_path=checkpoint if checkpoint.exists() else None, weights_only=True)
    return history.rows


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
