"""The files of a net that a comparison trains: a finished one is kept, one in training goes on from its last epoch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import torch

from ... import __version__
from ...errors import CommandError
from ...files import read_json, write_atomically

__all__ = ["NetFiles", "name_of"]

Result = TypeVar("Result")


def name_of(seeds: Sequence[int]) -> str:
    """Return how a folder names seeds that follow one another: ``seed0``, ``seeds0-2``."""
    return f"seed{seeds[0]}" if len(seeds) == 1 else f"seeds{seeds[0]}-{seeds[-1]}"


@dataclass(frozen=True)
class NetFiles:
    """The files of one net.

    Attributes:
        result: what was measured of it, JSON; a net that has one is finished.
        weights: of the finished net, where the study keeps them.
        checkpoint: the state after the last whole epoch, while it is in training.
    """

    result: Path
    weights: Path
    checkpoint: Path

    @classmethod
    def of(cls, folder: Path, name: str, settings: Sequence[Any]) -> NetFiles:
        """Name the files of the net that these settings, JSON's types, make; nothing is written yet."""
        # What was made by another recipe or version has another name, and is not taken for finished.
        text = json.dumps([*settings, __version__, torch.__version__])
        stem = f"{name}-{sha256(text.encode()).hexdigest()[:8]}"
        return cls(*(folder / f"{stem}{ending}" for ending in (".json", ".safetensors", ".ckpt")))

    def forget(self) -> None:
        """Delete what is trained, to train it again."""
        for path in (self.result, self.weights, self.checkpoint):
            path.unlink(missing_ok=True)

    def read(self, kind: type[Result]) -> Result | None:
        """Return the result of the net, a dataclass of this kind; None where it is not finished."""
        if not self.result.exists():
            return None
        try:
            return kind(**read_json(self.result))
        except (ValueError, TypeError) as error:
            raise CommandError(f"{self.result} is damaged ({error}); delete it and run again") from error

    def keep(self, result: Any) -> None:
        """Write the result, a dataclass: the net is finished."""
        write_atomically(self.result, json.dumps(asdict(result), indent=1))
        self.checkpoint.unlink(missing_ok=True)
