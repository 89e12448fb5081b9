"""The images that a command is given: one that cannot be read costs none of the others."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from ..errors import DataError, InvolutionWarning

__all__ = ["InputImages"]

T = TypeVar("T")


class InputImages:
    """Images that are read one after the other, of which those that are refused are named and left out.

    Args:
        files: all that the command was given.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = list(files)
        self._refusals: list[DataError] = []

    def read_each(self, chunk: Sequence[Path], read: Callable[[Path], T]) -> list[tuple[Path, T]]:
        """Return the files of ``chunk`` with what ``read`` makes of them, without those that it refuses.

        Raises:
            DataError: the only image is refused.
        """
        found: list[tuple[Path, T]] = []
        for file in chunk:
            try:
                found.append((file, read(file)))
            except DataError as error:
                if len(self.files) == 1:
                    raise
                self._refusals.append(error)
                warnings.warn(f"left out: {error}", InvolutionWarning, stacklevel=2)
        return found

    def refuse_left_out(self) -> None:
        """Let the command end with a refusal where images were left out, after all that was done with the others.

        Raises:
            DataError: there are some; the message says how many and why the first.
        """
        if self._refusals:
            raise DataError(f"{len(self._refusals)} of {len(self.files)} images are left out: {self._refusals[0]}")
