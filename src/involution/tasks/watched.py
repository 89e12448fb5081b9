"""Schedules and callbacks that watch a figure of the training: what they watch has to be logged, which is said before the first step."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ..errors import TrainingError

__all__ = ["check_watched", "plateau"]


def plateau(scheduler: Any) -> dict[str, Any]:
    """Return what Lightning has to be told of a schedule that waits for a plateau, beside the schedule; nothing of others.

    Raises:
        TrainingError: it does not say which figure it watches.
    """
    if not isinstance(scheduler, ReduceLROnPlateau):
        return {}
    monitor = getattr(scheduler, "monitor", None)
    if monitor is None:
        raise TrainingError(
            "the lr_scheduler ReduceLROnPlateau does not say which figure it watches; name "
            "lightning.pytorch.cli.ReduceLROnPlateau with --model.lr_scheduler.monitor, such as train_loss"
        )
    # Figures are those of epochs.
    return {"monitor": monitor, "interval": "epoch"}


def check_watched(trainer: Trainer) -> None:
    """Refuse what watches a figure that the task does not log, and let what watches validations be asked after each.

    A task says what it logs as ``logged``, names and patterns of them. Of one that is not of this library nobody knows it.

    Raises:
        TrainingError: a figure is none of the task's, or one of a validation that there is not.
    """
    task: Any = trainer.lightning_module
    is_own = type(task).__module__.startswith("involution.")
    for watcher, flag, monitor in _watched(trainer):
        if is_own and not any(fnmatchcase(monitor, pattern) for pattern in task.logged):
            raise TrainingError(
                f"{watcher} watches {monitor!r}, which the task does not log; name one of {', '.join(task.logged)} with {flag}"
            )
        if monitor.startswith("val_") and not trainer.enable_validation:
            raise TrainingError(
                f"{watcher} watches {monitor}, and there is no validation; let it watch train_loss with {flag}, or validate"
            )
    for config in trainer.lr_scheduler_configs:
        if config.reduce_on_plateau and str(config.monitor).startswith("val_"):
            config.frequency = trainer.check_val_every_n_epoch or 1


def _watched(trainer: Trainer) -> Iterator[tuple[str, str, str]]:
    """Yield who watches, the flag that says what, and what."""
    for config in trainer.lr_scheduler_configs:
        if config.reduce_on_plateau:
            yield type(config.scheduler).__name__, "--model.lr_scheduler.monitor", str(config.monitor)
    for callback in getattr(trainer, "callbacks", ()):
        if isinstance(callback, EarlyStopping) and callback.strict:
            yield type(callback).__name__, "its monitor under trainer.callbacks", str(callback.monitor)
