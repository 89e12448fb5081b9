"""What a folder of ``involution fit`` holds of its training: configuration, history, and what it was trained with.

And the one rule by which a configuration, there and in a study, says more than was given.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import records
from .recipes import load

__all__ = ["RunFolder", "takes_seed_of_training"]


def takes_seed_of_training(data: Any) -> bool:
    """Return whether data get the seed of their training: the library's own, where they are given none.

    Of those of other libraries nobody knows whether they take one.

    Args:
        data: class path and arguments, as a mapping or a namespace of jsonargparse.
    """
    is_own = data.get("class_path", "").startswith("involution.data.")
    return is_own and data.get("init_args", {}).get("seed") is None


@dataclass(frozen=True)
class RunFolder:
    """A folder of ``involution fit``.

    Attributes:
        path: of the folder.
    """

    path: Path

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints, ``last.ckpt`` and, of a task that judges its epochs, ``best.ckpt``."""
        return self.path / "checkpoints"

    @property
    def checkpoint(self) -> Path:
        """The checkpoint after the last whole epoch."""
        return self.checkpoints / "last.ckpt"

    @property
    def model(self) -> Path:
        """The folder of the saved net, which the end of a training writes."""
        return self.path / "model"

    @property
    def model_so_far(self) -> Path:
        """The folder of the net that an interruption saves, until the training comes to its end."""
        return self.path / "model_so_far"

    def versions(self) -> list[Path]:
        """Return the folders of logs, oldest first: every time that the training was started made one."""
        return sorted(self.path.glob("logs/version_*"), key=lambda path: int(path.name.partition("_")[2]))

    def configuration_file(self) -> Path | None:
        """Return the file with the whole configuration of the last start; None where there is none."""
        kept = [path / "config.yaml" for path in self.versions() if (path / "config.yaml").is_file()]
        return kept[-1] if kept else None

    def configuration(self) -> dict[str, Any] | None:
        """Return the whole configuration of the last start; None where there was none.

        Raises:
            CommandError: it is damaged.
        """
        kept = self.configuration_file()
        return None if kept is None else load(kept)

    def environments(self) -> list[dict[str, Any]]:
        """Return date, commit, machine and versions of every start that kept them."""
        paths = [path / "environment.json" for path in self.versions()]
        return [records.read(path) for path in paths if path.is_file()]

    def history(self) -> list[dict[str, float | None]]:
        """Return what every epoch logged, ``epoch`` counted from 1; a resumed training has several logs.

        What is infinite or no number is None.
        """
        rows: dict[int, dict[str, float | None]] = {}
        for version in self.versions():
            path = version / "metrics.csv"
            if not path.is_file():
                continue
            with path.open(encoding="utf-8") as file:
                for row in csv.DictReader(file):
                    if row.get("epoch"):
                        rows.setdefault(int(row["epoch"]) + 1, {}).update(_numbers(row))
        return [{"epoch": epoch, **rows[epoch]} for epoch in sorted(rows)]

    def is_finished(self, epochs: int) -> bool:
        """Whether a training of this many epochs has come to its end here, the saved net included."""
        return (self.model / "config.json").is_file() and len(self.history()) >= epochs


def _numbers(row: dict[str, str]) -> dict[str, float | None]:
    found = {key: float(text) for key, text in row.items() if text and key not in ("epoch", "step")}
    return {key: value if math.isfinite(value) else None for key, value in found.items()}
