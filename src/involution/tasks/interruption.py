"""The checkpoint that an interrupted training leaves: of its last whole step, where one process trains."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from ..data.epochs import EpochLoader

__all__ = ["InterruptionCheckpoint"]


class InterruptionCheckpoint(Callback):
    """Leave a checkpoint where Ctrl-C or SIGTERM ends a training, after the step that runs.

    Between two steps of one process the training can be saved as it is. Elsewhere (in validation, where several
    processes train, where gradients are being accumulated, with data that cannot be gone on with from the middle of an
    epoch) the checkpoint of the last whole epoch stands; in the first epoch, one that was written before it.

    Args:
        path: of the checkpoint.
        hold: called before a step: no signal shall raise until ``release``.
        release: called after it; raises what came meanwhile.
    """

    def __init__(self, path: Path, hold: Callable[[], None], release: Callable[[], None]) -> None:
        self.path, self._start = path, path.with_name(f".{path.stem}-start{path.suffix}")
        self._hold, self._release = hold, release
        self._is_between_steps = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save what the first epoch begins with, and be asked before a batch is drawn: then the last step is whole."""
        if _is_resumable(trainer):
            trainer.train_dataloader.before_batch = partial(self._end_between_steps, trainer)
        if trainer.global_step == 0 and not self.path.exists():
            trainer.save_checkpoint(self._start)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove that when an epoch is done."""
        if trainer.current_epoch > 0:
            self.on_train_end(trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Begin a step that has to be finished."""
        if _is_resumable(trainer):
            self._hold()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the training here where that was asked for during the last step."""
        self._release()

    on_train_epoch_end = on_validation_start

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove what the first epoch began with."""
        if trainer.is_global_zero:
            self._start.unlink(missing_ok=True)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save, where an interruption is what ends the training."""
        # What was saved before stands where this cannot be.
        with suppress(OSError):
            # Lightning raises this one after a step.
            is_whole = self._is_between_steps or isinstance(exception, SIGTERMException)
            if is_whole and _is_resumable(trainer) and _is_within_epoch(trainer):
                trainer.save_checkpoint(self.path)
        is_interruption = isinstance(exception, (KeyboardInterrupt, SystemExit))
        # A disk that refuses this as well has its sentence already.
        with suppress(OSError):
            if is_interruption and trainer.is_global_zero and self._start.exists() and not self.path.exists():
                self._start.replace(self.path)
            self.on_train_end(trainer, pl_module)

    def _end_between_steps(self, trainer: Trainer) -> None:
        if trainer.fit_loop.epoch_loop.batch_progress.current.completed % trainer.accumulate_grad_batches:
            return
        self._is_between_steps = True
        self._release()
        self._is_between_steps = False


def _is_resumable(trainer: Trainer) -> bool:
    """Whether the training can be gone on with from the middle of an epoch as if nothing had been."""
    return isinstance(trainer.train_dataloader, EpochLoader) and trainer.world_size == 1


def _is_within_epoch(trainer: Trainer) -> bool:
    """Whether some batches of the epoch are done and some are not, and no gradients are kept for the next step."""
    done = trainer.fit_loop.epoch_loop.batch_progress.current.completed
    is_within = trainer.training and 0 < done < trainer.num_training_batches
    return is_within and done % trainer.accumulate_grad_batches == 0
