"""The checkpoint that an interrupted training leaves: of its last whole step, where one process trains."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from ..data.epochs import EpochLoader
from .watched import watches_training

__all__ = ["InterruptionCheckpoint"]


class Delay(Protocol):
    """What lets signals wait for the end of a step."""

    def hold(self) -> None:
        """Let no signal raise from now on."""

    def check(self) -> None:
        """Raise what came meanwhile; hold where nothing did."""

    def release(self) -> None:
        """As `check`; from now on signals raise at once."""

    @property
    def listen(self) -> Any:
        """What takes SIGTERM back from others, when called."""

    @property
    def is_asked(self) -> bool:
        """Whether a signal came that was not raised."""


class InterruptionCheckpoint(Callback):
    """Leave a checkpoint where Ctrl-C or SIGTERM ends a training, after the step that runs.

    Between two steps of one process the training can be saved as it is. Elsewhere (in validation, where several
    processes train, with data that cannot be gone on with from the middle of an epoch, where a figure of the whole
    epoch is watched) the checkpoint of the last whole epoch stands; in the first epoch, one that was written before it.
    Several processes end before the same step, whichever of them was asked to; Lightning would let them exchange in the
    handler of the signal what the others do not expect there. The first signal breaks nothing off but waits for the
    next of the places below, between two steps or two batches of the validation: an exception in the midst of a queue
    to a thread or a process, of which loaders and what writes figures are made, leaves it locked, and the training
    would hang at its end.

    Args:
        path: of the checkpoint.
        delay: of the signals.
    """

    def __init__(self, path: Path, delay: Delay) -> None:
        self.path, self._start = path, path.with_name(f".{path.stem}-start{path.suffix}")
        self._delay = delay
        self._is_between_steps = False

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Answer SIGTERM, which Lightning took at the training's beginning."""
        self._delay.listen()
        self._delay.hold()

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End here where that was asked for."""
        self._delay.check()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save what the first epoch begins with, and be asked before a batch is drawn: then the last step is whole."""
        self._delay.listen()
        self._delay.hold()
        if _is_resumable(trainer):
            trainer.train_dataloader.before_batch = partial(self._end_between_steps, trainer)
        if trainer.global_step == 0 and not self.path.exists():
            trainer.save_checkpoint(self._start)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove that when an epoch is done; end here where that was asked for in the last one."""
        if trainer.current_epoch > 0:
            self._remove_start(trainer)
        self._end(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """End here where that was asked for and cannot be before a batch is drawn."""
        if not _is_resumable(trainer):
            self._end(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the training here where that was asked for during the last step."""
        self._end(trainer)

    def on_validation_batch_start(self, trainer: Trainer, *_: Any) -> None:
        """End the evaluation here where that was asked for; each process by itself, for one may have fewer batches."""
        self._delay.check()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the training here where that was asked for; what is written next is written whole."""
        self._end(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove what the first epoch began with; what is left to do may be broken off."""
        self._remove_start(trainer)
        self._delay.release()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save, where an interruption is what ends the training."""
        # What was saved before stands where this cannot be.
        with suppress(OSError):
            if self._is_between_steps and _is_resumable(trainer) and _is_within_epoch(trainer):
                trainer.save_checkpoint(self.path)
        is_interruption = isinstance(exception, (KeyboardInterrupt, SystemExit))
        # A disk that refuses this as well has its sentence already.
        with suppress(OSError):
            if is_interruption and trainer.is_global_zero and self._start.exists() and not self.path.exists():
                self._start.replace(self.path)
            self._remove_start(trainer)

    def _remove_start(self, trainer: Trainer) -> None:
        if trainer.is_global_zero:
            self._start.unlink(missing_ok=True)

    def _end_between_steps(self, trainer: Trainer) -> None:
        if trainer.fit_loop.epoch_loop.batch_progress.current.completed % trainer.accumulate_grad_batches:
            return
        self._is_between_steps = True
        self._end(trainer)
        self._is_between_steps = False

    def _end(self, trainer: Trainer) -> None:
        if trainer.world_size == 1:
            self._delay.check()
        elif trainer.strategy.reduce_boolean_decision(self._delay.is_asked, all=False):
            raise SIGTERMException


def _is_resumable(trainer: Trainer) -> bool:
    """Whether the training can be gone on with from the middle of an epoch as if nothing had been."""
    is_one_with_position = isinstance(trainer.train_dataloader, EpochLoader) and trainer.world_size == 1
    return is_one_with_position and not watches_training(trainer)


def _is_within_epoch(trainer: Trainer) -> bool:
    """Whether some batches of the epoch are done and some are not, and no gradients are kept for the next step."""
    done = trainer.fit_loop.epoch_loop.batch_progress.current.completed
    is_within = trainer.training and 0 < done < trainer.num_training_batches
    return is_within and done % trainer.accumulate_grad_batches == 0
