"""What `involution fit` adds to a training: the net that predict reads, the machine beside the configuration, a word at both ends."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from .. import records
from ..errors import CheckpointError, InvolutionWarning
from ..files import replaced_files, write_atomically
from ..models import checkpoints
from ..runs import RunFolder
from ..tasks.checkpointing import TrainingEnd, last_checkpoint
from ..tasks.sharding import is_sharded

__all__ = ["Announcement", "EpochTime", "KeepEnvironment", "SaveModel"]


class SaveModel(Callback):
    """Let the task write its best net, in the form that predict reads, by its ``save_model(folder)``.

    ``model`` is the net of a training that has come to its end, by which others tell that it has. An interruption leaves
    what it has so far in a folder of its own, which that end takes away.

    Args:
        run: folder of the training.
        end: what is told of the net that an interruption leaves.
    """

    def __init__(self, run: Path, end: TrainingEnd) -> None:
        folder = RunFolder(run)
        self.folder, self.so_far, self._end = folder.model, folder.model_so_far, end

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the weights of the best checkpoint; every file is replaced whole or not at all."""
        if not self._can_save(trainer, pl_module):
            return
        best = _best(trainer)
        try:
            state = checkpoints.read_training(best)["state_dict"] if best else {}
        except CheckpointError as error:
            # Deleted meanwhile; or a checkpoint from elsewhere said that the best one is what is none.
            words = (
                f"{error}; as there is no best checkpoint, {self.folder} gets the weights that the training ended with"
            )
            warnings.warn(words, InvolutionWarning, stacklevel=2)
            state = {}
        self._save(pl_module, state, self.folder)
        shutil.rmtree(self.so_far, ignore_errors=True)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save the weights of the best checkpoint so far where an interruption ends the training, else of the last one."""
        is_interruption = isinstance(exception, (KeyboardInterrupt, SystemExit))
        # Before the first step nothing is trained, nor is it known what the checkpoint that it goes on from knows.
        if not (is_interruption and trainer.global_step and self._can_save(trainer, pl_module)):
            return
        checkpoint = Path(_best(trainer) or last_checkpoint(trainer))
        # The sentence of an interruption stands whatever becomes of this.
        with suppress(OSError, CheckpointError):
            content = checkpoints.read_training(checkpoint)
            if content.get("global_step") and self._save(pl_module, content["state_dict"], self.so_far):
                self._end.left = f"{self.so_far} is the net of {checkpoint.name}"

    def _can_save(self, trainer: Trainer, task: Any) -> bool:
        return trainer.is_global_zero and hasattr(task, "save_model")

    def _save(self, task: Any, state: dict[str, Any], folder: Path) -> bool:
        """Save the net with this state, as it is where that is empty; return whether there is a folder now."""
        # What is divided among processes has whole weights in its checkpoints alone.
        if is_sharded(task.model) and not (state and hasattr(task, "rebuild") and task.rebuild()):
            return False
        if state:
            task.load_state_dict(state)
        task.model.to("cpu", memory_format=torch.contiguous_format)
        with replaced_files(folder) as partial:
            task.save_model(partial)
        return folder.exists()


def _best(trainer: Trainer) -> str:
    return getattr(trainer.checkpoint_callback, "best_model_path", "")


class KeepEnvironment(Callback):
    """Write date, command, commit, machine and versions of every start of a training beside its configuration."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write ``environment.json`` into the folder of the logs."""
        folder = trainer.log_dir  # every process takes part in agreeing on it
        if trainer.is_global_zero and folder is not None:
            Path(folder).mkdir(parents=True, exist_ok=True)
            write_atomically(Path(folder) / "environment.json", json.dumps(records.environment(), indent=1) + "\n")


class EpochTime(Callback):
    """Log as ``epoch_s`` how many seconds every whole epoch took, its validation included."""

    def __init__(self) -> None:
        self._began: float | None = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the clock."""
        self._began = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the time since the epoch began; of one that began in another process nobody knows."""
        if self._began is not None:
            pl_module.log("epoch_s", time.monotonic() - self._began, sync_dist=True)
        self._began = None


class Announcement(Callback):
    """Print what is trained when a training begins, and what it reached and left when it ends.

    Where the output is no terminal, a line an epoch stands in the place of the bar.

    Args:
        run: folder of the training.
    """

    def __init__(self, run: Path) -> None:
        self.run = run
        self._is_judged = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Print the number of parameters, before they are divided among processes."""
        every = [parameter.numel() for parameter in pl_module.parameters()]
        trained = [parameter.numel() for parameter in pl_module.parameters() if parameter.requires_grad]
        bar = trainer.progress_bar_callback
        # One of the user's own may be for files.
        if bar is not None and type(bar).__module__.startswith("lightning.") and not sys.stdout.isatty():
            bar.disable()
        if trainer.is_global_zero:
            some = f", {sum(trained):,} of them trained" if len(trained) < len(every) else ""
            print(f"{self.run}: {sum(every):,} parameters{some}", flush=True)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Know that the epoch was not judged yet."""
        self._is_judged = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Know that it was."""
        self._is_judged = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the loss of the epoch, and what the best epoch is chosen by where this one was judged."""
        # Every process takes part in computing it.
        logged = trainer.callback_metrics
        if not trainer.is_global_zero or sys.stdout.isatty():
            return
        names = ["train_loss", *([getattr(pl_module, "monitor", "")] if self._is_judged else [])]
        values = {name: logged[name] for name in names if name in logged}
        length = f" of {trainer.max_epochs}" if trainer.max_epochs not in (None, -1) else ""
        figures = ", ".join(f"{name} {float(value):.4f}" for name, value in values.items())
        print(f"epoch {trainer.current_epoch + 1}{length}: {figures}", flush=True)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print what the best epoch reached and the command that uses the net."""
        model = RunFolder(self.run).model
        if not trainer.is_global_zero or not model.exists():
            return
        score = getattr(trainer.checkpoint_callback, "best_model_score", None)
        reached = "" if score is None else f" reaches a {getattr(pl_module, 'monitor', 'score')} of {float(score):.4f};"
        command = f"involution predict IMAGE --model {shlex.quote(str(model))}"
        print(f"{model}{reached} to use it: {command}", flush=True)
