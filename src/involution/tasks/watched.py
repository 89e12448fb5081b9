"""Schedules and callbacks that watch a figure of the training: what they watch has to be logged, which is said before the first step."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ..errors import TrainingError

__all__ = ["check_watched", "plateau"]

_BETTER = {"min": "smaller", "max": "larger"}


class _Watched(NamedTuple):
    """What watches which figure, the mode that says which is better, and where an argument of it is given."""

    kind: str
    monitor: str
    mode: str
    place: str


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
    """Refuse what watches a figure that the task does not log, or takes the worse for the better; look after each validation.

    A task says what it logs as ``logged``, names and patterns of them; of losses the smaller one is better, of all else the
    larger one. Of a task that is not of this library nobody knows it.

    Raises:
        TrainingError: a figure is none of the task's, or one of a validation that there is not, or the mode is not its own.
    """
    task: Any = trainer.lightning_module
    is_own = type(task).__module__.startswith("involution.")
    for kind, monitor, mode, place in _watched(trainer):
        if is_own and not any(fnmatchcase(monitor, pattern) for pattern in task.logged):
            raise TrainingError(
                f"{kind} watches {monitor!r}, which the task does not log; name one of {', '.join(task.logged)} with "
                f"{place.format('monitor')}"
            )
        if monitor.startswith("val_") and not trainer.enable_validation:
            raise TrainingError(
                f"{kind} watches {monitor}, and there is no validation; let it watch train_loss with "
                f"{place.format('monitor')}, or validate"
            )
        better = "min" if monitor.endswith("loss") else "max"
        if is_own and mode != better:
            raise TrainingError(
                f"{kind} takes the {_BETTER[mode]} {monitor} for the better one; choose {better} with {place.format('mode')}"
            )
    for config in trainer.lr_scheduler_configs:
        if config.reduce_on_plateau and str(config.monitor).startswith("val_"):
            config.frequency = trainer.check_val_every_n_epoch or 1


def _watched(trainer: Trainer) -> Iterator[_Watched]:
    for config in trainer.lr_scheduler_configs:
        if config.reduce_on_plateau:
            scheduler: Any = config.scheduler
            yield _Watched(type(scheduler).__name__, str(config.monitor), scheduler.mode, "--model.lr_scheduler.{}")
    for callback in getattr(trainer, "callbacks", ()):
        if isinstance(callback, EarlyStopping) and callback.strict:
            yield _Watched(
                type(callback).__name__, str(callback.monitor), callback.mode, "its {} under trainer.callbacks"
            )
