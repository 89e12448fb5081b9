"""Lightning callbacks: reproducible epochs, a last validation, a history that survives interruption, snapshots, a bar."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, Checkpoint, ProgressBar
from tqdm import tqdm

from ..data.sampling import epoch_seed
from ..files import replaced_files

Row = dict[str, float | int]


class EpochSeed(Callback):
    """Make what is random in an epoch (dropout, augmentation) depend on seed, epoch and process alone.

    A training that goes on after an interruption then ends at the same weights as one that was not interrupted.

    Args:
        seed: of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Seed PyTorch's, NumPy's and Python's generators."""
        seed = epoch_seed(self.seed, trainer.current_epoch, trainer.global_rank)
        seed_everything(seed, workers=True, verbose=False)


class LastValidation(Callback):
    """Validate after the last step of a training, also where it ends between two validations.

    Lightning validates after every n-th epoch (``check_val_every_n_epoch``), or every so many steps; the rest of a training
    that is no multiple, or ends within an epoch (``max_steps``, or a ``Timer`` that stands before this callback), it judges
    by nothing. What is stopped when an epoch has ended, as `EarlyStopping` may do, is judged where Lightning does so.
    """

    def __init__(self) -> None:
        self._interval: int | None = None
        self._ends_within_epoch = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember how often the training is validated; begin the next epoch where a checkpoint is of the end of one."""
        self._interval = trainer.check_val_every_n_epoch
        if trainer.fit_loop.restarted_on_epoch_end:
            # As Lightning does where epochs end the training. Where steps do, it would end that epoch once more, after
            # another batch if the epoch was not validated, and go on with the images of the next but one.
            trainer.fit_loop.reset_restart_stage()
            trainer.fit_loop.epoch_progress.increment_completed()
            trainer.fit_loop.epoch_loop.restarting = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Let Lightning, which is about to see whether it validates, do so where this was the last step."""
        is_last = trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps
        is_last = is_last or (trainer.should_stop and _may_stop(trainer))
        if trainer.max_epochs not in (None, -1) and trainer.current_epoch + 1 >= trainer.max_epochs:
            is_last = is_last or trainer.is_last_batch
        self._ends_within_epoch = is_last and not trainer.is_last_batch
        if is_last:
            # In every epoch, and where a training is asked to stop after any of its steps.
            trainer.check_val_every_n_epoch, trainer.should_stop = 1, True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the trainer's setting back."""
        trainer.check_val_every_n_epoch = self._interval

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Say of a training that ends within an epoch that this is not done, so that a longer one goes on in it."""
        if self._ends_within_epoch:
            for progress in checkpoint["loops"]["fit_loop"]["epoch_progress"].values():
                progress["processed"] = progress["completed"]


def _may_stop(trainer: Trainer) -> bool:
    """Whether a training that is asked to stop has the least length that it shall have."""
    has_epochs = trainer.current_epoch + trainer.is_last_batch >= (trainer.min_epochs or 0)
    return has_epochs and trainer.global_step >= (trainer.min_steps or 0)


class History(Callback):
    """Keep loss, accuracy and training time of every epoch; saved and restored with checkpoints.

    Args:
        on_row: called with the history after every epoch.

    Attributes:
        rows: a row an epoch: ``epoch`` (from 1), ``train_loss``, ``train_accuracy``, ``test_loss``, ``test_accuracy``,
            and without evaluation ``train_s``, the seconds spent on the training batches, and ``train_cpu_s``, those
            that processors worked on them, all threads together: fewer than the seconds of each thread tell that
            something else used the machine.
    """

    def __init__(self, on_row: Callable[[list[Row]], None] | None = None) -> None:
        self.rows: list[Row] = []
        self._on_row = on_row
        self._start = self._train_s = 0.0
        self._cpu_start = self._cpu_s = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clocks."""
        self._start, self._cpu_start = _now(pl_module), time.process_time()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clocks: the training batches of the epoch are done."""
        self._train_s, self._cpu_s = _now(pl_module) - self._start, time.process_time() - self._cpu_start

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the row of this epoch."""
        metrics = trainer.callback_metrics
        row: Row = {"epoch": trainer.current_epoch + 1}
        for key, metric in (
            ("train_loss", "train_loss"),
            ("train_accuracy", "train_accuracy"),
            ("test_loss", "val_loss"),
            ("test_accuracy", "val_accuracy"),
        ):
            row[key] = metrics[metric].item()
        self.rows.append(row | {"train_s": self._train_s, "train_cpu_s": self._cpu_s})
        if self._on_row:
            self._on_row(self.rows)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.rows = list(state_dict["rows"])


class Snapshot(Checkpoint):
    """Replace one checkpoint file after every epoch, whole or not at all.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save."""
        with replaced_files(self.path.parent) as partial:
            trainer.save_checkpoint(partial / self.path.name)


class RunProgressBar(ProgressBar):
    """One bar for a whole training, with the accuracy of its last epoch; silent where the output is no terminal.

    Args:
        title: what is trained.
    """

    def __init__(self, title: str) -> None:
        super().__init__()
        self.title = title
        self._bar: tqdm | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the bar, as far along as the training is."""
        self._bar = tqdm(
            total=int(trainer.estimated_stepping_batches),
            initial=trainer.global_step,
            desc=self.title,
            bar_format="{desc} {bar:24} {percentage:3.0f} %{postfix}  [{elapsed} < {remaining}]",
            leave=False,
            disable=None,
        )
        self._show(trainer, trainer.current_epoch)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance."""
        if self._bar is not None:
            self._bar.update()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the accuracy."""
        self._show(trainer, trainer.current_epoch + 1)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the bar."""
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remove the bar."""
        self._close()

    def _show(self, trainer: Trainer, epochs: int) -> None:
        if self._bar is None:
            return
        text = f"epoch {epochs}/{trainer.max_epochs}"
        accuracy = trainer.callback_metrics.get("val_accuracy")
        if accuracy is not None:
            text += f", test accuracy {100 * accuracy.item():.2f} %"
        self._bar.set_postfix_str(text, refresh=True)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def _now(module: LightningModule) -> float:
    if module.device.type == "cuda":
        torch.cuda.synchronize(module.device)
    return time.perf_counter()
