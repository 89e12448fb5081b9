"""The images that a command is given: one that cannot be read, or has no answer, costs none of the others."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from ..errors import CommandError, DataError, InvolutionError, InvolutionWarning

__all__ = ["InputImages"]

T = TypeVar("T")


class InputImages:
    """Images that are read and answered one after the other, of which those that are refused are named and left out.

    Args:
        files: all that the command was given.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = list(files)
        self._refusals: list[InvolutionError] = []

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
                self._leave_out(error)
        return found

    def leave_out_unanswered(self, file: Path) -> None:
        """Leave out an image for which the net gives no numbers, because it computes with infinities.

        Raises:
            CommandError: it is the only image.
        """
        self._leave_out(
            CommandError(
                f"the net gives no numbers for {file}, as after a training that diverged; take an earlier checkpoint"
            )
        )

    def _leave_out(self, error: InvolutionError) -> None:
        if len(self.files) == 1:
            raise error
        self._refusals.append(error)
        warnings.warn(f"left out: {error}", InvolutionWarning, stacklevel=3)

    def refuse_left_out(self) -> None:
        """Let the command end with a refusal where images were left out, after all that was done with the others.

        Raises:
            DataError, CommandError: there are some; the message says how many and why the first.
        """
        if self._refusals:
            first = self._refusals[0]
            raise type(first)(f"{len(self._refusals)} of {len(self.files)} images are left out: {first}")
