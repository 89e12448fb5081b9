"""Schedules and callbacks that watch a figure of the training: what they watch has to be logged, which is said before the first step."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ..errors import TrainingError

__all__ = ["PlateauSteps", "check_watched", "plateau", "watches_training"]

_BETTER = {"min": "smaller", "max": "larger"}
# An interval that Lightning knows no moment of.
_NEVER = "never"


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


def watches_training(trainer: Trainer) -> bool:
    """Whether something watches a figure of the training's epochs: of one that began in another process nobody has it whole."""
    return any(not watched.monitor.startswith("val_") for watched in _watched(trainer))


class PlateauSteps(Callback):
    """Step the schedules that wait for a plateau before the last checkpoint of an epoch is written, and in every epoch.

    Lightning does so after it, and not in an epoch that began in another process: every interruption would lose a step. It
    still does where a figure is logged later than this callback looks.
    """

    def __init__(self) -> None:
        # By name, those of validations: of one before an interruption the trainer that goes on knows nothing.
        self._figures: dict[str, float] = {}
        self._last_epoch = -1

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep what the schedules watch."""
        for config in _waiting(trainer):
            if str(config.monitor).startswith("val_") and config.monitor in trainer.callback_metrics:
                self._figures[config.monitor] = float(trainer.callback_metrics[config.monitor])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Step where the epoch is whole; Lightning may end one once more that a checkpoint knows as ended."""
        if not trainer.is_last_batch or trainer.current_epoch <= self._last_epoch:
            return
        self._last_epoch = trainer.current_epoch
        for config in _waiting(trainer):
            figure = trainer.callback_metrics.get(config.monitor, self._figures.get(config.monitor))
            config.interval = "epoch" if figure is None else _NEVER
            if figure is not None and (trainer.current_epoch + 1) % config.frequency == 0:
                pl_module.lr_scheduler_step(config.scheduler, float(figure))

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"figures": self._figures, "last_epoch": self._last_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._figures, self._last_epoch = dict(state_dict["figures"]), state_dict["last_epoch"]


def _waiting(trainer: Trainer) -> list[Any]:
    """Return what Lightning is told of the schedules that wait for a plateau of epochs."""
    return [c for c in trainer.lr_scheduler_configs if c.reduce_on_plateau and c.interval in ("epoch", _NEVER)]


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
