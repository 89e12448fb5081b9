"""Checkpoints that are whole at any moment, and a sentence for the disk that is full."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer

from ..errors import TrainingError
from ..files import replaced

__all__ = ["WholeCheckpointIO", "WriteErrors"]


class WholeCheckpointIO(TorchCheckpointIO):
    """Replace a checkpoint whole or not at all.

    Lightning writes to the folder of temporary files and moves the file from there, which copies it over the old one
    where that folder lies on another file system: killed or out of space in between, neither would be left.
    """

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


class WriteErrors(Callback):
    """Say what a full disk, a quota or a lost folder means for the training.

    Attributes:
        refusal: the sentence, None as long as everything could be written.
    """

    def __init__(self) -> None:
        self.refusal: TrainingError | None = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Keep the sentence for whoever started the training."""
        if isinstance(exception, OSError) and exception.errno in _REMEDIES:
            last = Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt"
            kept = "go on" if last.exists() else "start again"
            option = f" from {last}, which is whole, with --ckpt_path last" if last.exists() else ""
            self.refusal = TrainingError(
                f"the training in {trainer.default_root_dir} cannot be saved in epoch {trainer.current_epoch}: "
                f"{os.strerror(exception.errno)}; {_REMEDIES[exception.errno]} and {kept}{option}"
            )


_SPACE = "free some space"
_REMEDIES = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EFBIG: "allow larger files (ulimit -f)",
    errno.EROFS: "make the folder writable",
    errno.EACCES: "make the folder writable",
    errno.EIO: "look after the disk",
}
