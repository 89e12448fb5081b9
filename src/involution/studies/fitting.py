"""A training inside the process of a study: silent, and ended by signals as everything else is."""

from __future__ import annotations

import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch import LightningDataModule, LightningModule, Trainer

from ..logs import errors_alone

__all__ = ["fit", "quiet"]


def fit(trainer: Trainer, task: LightningModule, data: LightningDataModule, **options: Any) -> None:
    """Train a task.

    Args:
        trainer: how long and where.
        task: what is trained.
        data: its images.
        **options: of ``Trainer.fit``.

    Raises:
        KeyboardInterrupt: Ctrl-C.
        SystemExit: the process was asked to end by SIGTERM.
    """
    try:
        trainer.fit(task, data, **options)
    except SystemExit:
        # Lightning turns Ctrl-C and SIGTERM into exits that do not tell what happened.
        if trainer.received_sigterm:
            raise SystemExit(128 + signal.SIGTERM) from None
        raise KeyboardInterrupt from None


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Lightning's remarks on the machine and on worker processes, for images that lie in memory."""
    with errors_alone("lightning.pytorch"), warnings.catch_warnings():
        warnings.simplefilter("ignore", PossibleUserWarning)
        # Its use of PyTorch's older interfaces.
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="lightning")
        warnings.filterwarnings("ignore", category=FutureWarning, module="lightning")
        yield
