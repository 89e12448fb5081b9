"""Checkpoints that are whole at any moment, and sentences for what ends a training or keeps one from going on."""

from __future__ import annotations

import errno
import os
import re
import shlex
import signal
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.exceptions import SIGTERMException

from ..errors import CheckpointError, InvolutionError, InvolutionWarning, TrainingError, in_one_line
from ..files import replaced
from ..models import checkpoints
from ..runs import RunFolder

__all__ = ["RunCheckpoint", "TrainingEnd", "WholeCheckpointIO", "last_checkpoint"]

# Beside what Lightning keeps: the classes of the optimisers, whose states do not say whose they are.
_OPTIMIZERS = "involution_optimizers"


class WholeCheckpointIO(TorchCheckpointIO):
    """Replace a checkpoint whole or not at all, and read one without running code from it.

    Lightning writes to the folder of temporary files and moves the file from there, which copies it over the old one
    where that folder lies on another file system: killed or out of space in between, neither would be left.
    """

    ENDING = ".ckpt"

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write beside the old checkpoint, then put the new one in its place."""
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        try:
            with replaced(Path(path)) as file:
                torch.save(checkpoint, file)
        except RuntimeError as error:
            # What torch makes of an error of the file that it writes its archive to.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint; one on another computer, or one that the user lets run code, as Lightning does.

        Raises:
            CheckpointError: it is missing, damaged, none of a training, or wants to run code.
        """
        if weights_only is False:
            return super().load_checkpoint(path, map_location, weights_only)
        if "://" in str(path):
            # By default Lightning lets what comes by HTTP run code.
            return super().load_checkpoint(path, map_location, True)
        return checkpoints.read_training(path)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint and nothing else: one that a training goes on from may name any path as an old one."""
        if "://" in str(path) or (".." not in Path(path).parts and Path(path).suffix == self.ENDING):
            super().remove_checkpoint(path)


class RunCheckpoint(ModelCheckpoint):
    """A checkpoint of a run's folder: the folder may be moved, and a ``ModelCheckpoint`` of the user's may stand beside it.

    Two callbacks of one class and with the same arguments would not know whose state a checkpoint holds.

    Args:
        folder: of the checkpoints.
        name: of the file, without its ending.
        options: of ``ModelCheckpoint``.
    """

    def __init__(self, folder: Path, name: str, **options: Any) -> None:
        super().__init__(folder, name, enable_version_counter=False, **options)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Find the files of a folder that was moved.

        A checkpoint of another folder knows other files, which this training neither replaces nor removes: what it says of a
        best epoch there is told, and this training keeps the best of its own.
        """
        states, folder = checkpoint["callbacks"], Path(str(self.dirpath))
        if self.state_key not in states:
            # Of an older version, which had Lightning's own class.
            older = ModelCheckpoint.__qualname__ + self.state_key.removeprefix(type(self).__qualname__)
            if older not in states:
                return
            states[self.state_key] = states[older]
        if Path(str(trainer.ckpt_path)).resolve().parent != folder:
            score = states[self.state_key].get("best_model_score")
            if trainer.state.fn == "fit" and self.monitor and score is not None:
                rank_zero_warn(
                    f"the best epoch so far, with a {self.monitor} of {float(score):.4f}, stays in "
                    f"{states[self.state_key]['best_model_path']}; {folder.parent} keeps the best of those from here on",
                    category=InvolutionWarning,
                )
            return

        def here(path: str) -> str:
            moved = folder / Path(path).name
            return str(moved) if path and moved.is_file() else path

        state = dict(states[self.state_key], dirpath=self.dirpath)
        for key in ("best_model_path", "kth_best_model_path", "last_model_path"):
            state[key] = here(state[key])
        state["best_k_models"] = {here(path): score for path, score in state["best_k_models"].items()}
        states[self.state_key] = state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state as Lightning does, without its words for one of another folder, of which it was told before."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The dirpath has changed")
            super().load_state_dict(state_dict)


class TrainingEnd(Callback):
    """Say what a training leaves that was interrupted, failed, or could not go on from a checkpoint.

    Attributes:
        refusal: the sentence for what ended it, None where that is unknown or nothing did.
        left: what an interruption leaves beside the checkpoint, in words; empty for nothing.
    """

    def __init__(self) -> None:
        self.left = ""
        self.refusal: InvolutionError | None = None
        self._trainer: Trainer | None = None
        self._restored: dict[str, Any] = {}
        self._has_begun = False

    @property
    def words(self) -> str:
        """Where it was interrupted, and how it goes on: also where a second signal broke off what answers the first."""
        if self._trainer is None:
            return "interrupted before the first step"
        if self._trainer.state.fn != "fit":
            return "interrupted"
        is_first = "" if last_checkpoint(self._trainer).exists() else "no epoch was finished, "
        left = f"{self.left}; " if self.left else ""
        return f"interrupted in epoch {self._trainer.current_epoch}; {left}{is_first}{_remedy(self._trainer)}"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Know the trainer that is asked in the end."""
        self._trainer = trainer

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the classes of the optimisers."""
        checkpoint[_OPTIMIZERS] = _classes(trainer)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep what is compared, or compare it where the optimisers are there already, as with FSDP2."""
        self._restored = {name: checkpoint[name] for name in ("epoch", _OPTIMIZERS) if name in checkpoint}
        if trainer.optimizers:
            self.on_fit_start(trainer, pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare the checkpoint with the training that goes on from it.

        Raises:
            TrainingError: it was made by another optimiser, or has more epochs behind it than the training shall have.
        """
        made = _classes(trainer)
        given = self._restored.get(_OPTIMIZERS, made)
        if given != made:
            raise TrainingError(
                f"{trainer.ckpt_path} was made with {', '.join(given)} and cannot be gone on from with {', '.join(made)}; "
                "take the same optimiser, or start a new training in another --run"
            )
        epochs = self._restored.get("epoch", -1) + 1
        if trainer.max_epochs not in (None, -1) and epochs > trainer.max_epochs:
            raise TrainingError(
                f"{trainer.ckpt_path} has {epochs} epochs behind it and the training shall have {trainer.max_epochs}; "
                "raise --trainer.max_epochs"
            )

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Know that all that a checkpoint holds has been taken."""
        self._has_begun = True

    on_train_start = on_validation_start = on_test_start = on_sanity_check_start

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Keep the sentence for what ended it, and end what this process started and would wait for it."""
        self._trainer = trainer
        _end_helpers(trainer, exception)
        if isinstance(exception, InvolutionError):
            return
        here, go_on = f"epoch {trainer.current_epoch}", _remedy(trainer)
        text = str(exception)
        if isinstance(exception, OSError) and exception.errno in _REMEDIES:
            self.refusal = TrainingError(
                f"the training in {trainer.default_root_dir} cannot be saved in {here}: "
                f"{os.strerror(exception.errno)}; {_REMEDIES[exception.errno]} and {go_on}"
            )
        elif "DataLoader worker (pid" in text:
            reason = in_one_line(text[text.index("worker (pid") :])
            self.refusal = TrainingError(
                f"a process that reads images ended in {here} ({reason}); where memory ran out, lower "
                f"--data.num_workers, and {go_on}"
            )
        elif trainer.world_size > 1 and re.search("onnection (closed|reset|refused)|Broken pipe", text):
            self.refusal = TrainingError(
                f"another process of the training ended in {here}, and this one with it; its own words say why; {go_on}"
            )
        elif "Error(s) in loading state_dict" in text:
            problems = [line.strip() for line in text.splitlines()[1:] if line.strip()]
            more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
            self.refusal = CheckpointError(
                f"{trainer.ckpt_path} does not fit the model: {in_one_line(problems[0])}{more}; build the "
                f"model as it was trained{_configuration_of(Path(str(trainer.ckpt_path)))}"
            )
        elif trainer.ckpt_path and not self._has_begun and isinstance(exception, Exception):
            self.refusal = CheckpointError(
                f"{trainer.ckpt_path} cannot be gone on from: {type(exception).__name__}: {in_one_line(exception)}"
            )


def last_checkpoint(trainer: Trainer) -> Path:
    """Return where a training keeps what it goes on from."""
    return RunFolder(Path(trainer.default_root_dir)).checkpoint


def _configuration_of(checkpoint: Path) -> str:
    """Return in a clause which file says how the net of a checkpoint was built; nothing where none does."""
    kept = RunFolder(checkpoint.parent.parent).configuration_file()
    return "" if kept is None else f", with --config {shlex.quote(str(kept))}"


def _remedy(trainer: Trainer) -> str:
    last = last_checkpoint(trainer)
    return f"go on from {last}, which is whole, with --ckpt_path last" if last.exists() else "start again"


def _end_helpers(trainer: Trainer, exception: BaseException) -> None:
    """End the processes that this one started and that would wait for it; after SIGTERMException all end by themselves."""
    launcher = trainer.strategy.launcher
    if launcher is None or isinstance(exception, SIGTERMException):
        return
    if not isinstance(exception, KeyboardInterrupt):
        launcher.kill(signal.SIGTERM)
        return
    # After Ctrl-C Lightning would kill them, and what reads images for them would live on; a thread of its own that finds
    # one killed kills this process as well, before it has said how the training goes on. That thread ends where there are
    # none any more. They end as at Ctrl-C in a terminal, at the latest when this process leaves the group.
    started = list(getattr(launcher, "procs", ()))
    if started:
        launcher.procs.clear()
    for process in started:
        process.send_signal(signal.SIGINT)


def _classes(trainer: Trainer) -> list[str]:
    return [f"{type(optimizer).__module__}.{type(optimizer).__qualname__}" for optimizer in trainer.optimizers]


_SPACE = "free some space"
_REMEDIES = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EFBIG: "allow larger files (ulimit -f)",
    errno.EROFS: "make the folder writable",
    errno.EACCES: "make the folder writable",
    errno.EIO: "look after the disk",
}
