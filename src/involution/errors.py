"""What is refused, by kind: each in one sentence that says what was expected, what came and what to do.

Every room may raise them; the command line prints the sentence and ends with the ``exit_status`` of the kind. An argument
of a function that is wrong by itself is Python's ``ValueError`` or ``TypeError``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

__all__ = [
    "CheckpointError",
    "CommandError",
    "DataError",
    "DivergenceError",
    "ExportError",
    "FolderInUseError",
    "InvolutionError",
    "InvolutionWarning",
    "MissingPackageError",
    "TrainingError",
]


class InvolutionError(Exception):
    """Something was refused; the message is the sentence that the user reads.

    Attributes:
        exit_status: of a command that ends with it.
    """

    exit_status: ClassVar[int] = 2

    @property
    def sentence(self) -> str:
        """The message; what a worker process raised arrives behind its traceback there, and is taken out of it."""
        kind, message = type(self), str(self)
        if not message.startswith(f"Caught {kind.__name__} in "):
            return message
        return message.rpartition(f"{kind.__module__}.{kind.__qualname__}: ")[2].strip()


class CommandError(InvolutionError):
    """A command cannot do what was asked."""


class DataError(InvolutionError, OSError):
    """A data set is missing, incomplete or damaged; the message says which file and how to get it."""


class TrainingError(InvolutionError, RuntimeError):
    """A training cannot go on; the message says why and what to do."""


class DivergenceError(TrainingError):
    """The loss of a training, or of its validation, is infinite or no number; the message says since when and what to do.

    A command ends with the status 3, by which a script that tries learning rates tells it from a mistake.
    """

    exit_status = 3


class CheckpointError(InvolutionError, ValueError):
    """A checkpoint cannot be read or does not fit; the message says which file, what was expected and what came."""


class ExportError(InvolutionError, RuntimeError):
    """A model cannot be exported, or not be written where it should be; the message says why."""


class FolderInUseError(InvolutionError, OSError):
    """Another process writes into the folder; the message says which."""


class MissingPackageError(InvolutionError, ImportError):
    """A package is missing; the message says how to install it."""


class InvolutionWarning(UserWarning):
    """What was passed over or done otherwise than one might think; the message is the sentence that the user reads."""


def find_refusal(error: BaseException | None) -> InvolutionError | None:
    """Return the refusal that ``error`` is or was raised from: a parser wraps what a constructor raises, for one."""
    while error is not None and not isinstance(error, InvolutionError):
        error = error.__cause__
    return error


def missing_package(name: str | None, extra: str) -> MissingPackageError:
    """Return what is said of a package that ``extra`` of this library installs and that is not there."""
    return MissingPackageError(f'{name} is missing; install it with: pip install "involution[{extra}]"', name=name)


def listed(names: Sequence[str], most: int = 3) -> str:
    """Return names with commas between them, after the first ``most`` an ellipsis where there are more."""
    return ", ".join([*names[:most], *(["…"] if len(names) > most else [])])


def in_one_line(said: BaseException | str, length: int = 300) -> str:
    """Return what another library says, on one line and not longer than a sentence; the kind of an error without words."""
    words = " ".join(str(said).split())
    if isinstance(said, BaseException) and not any(letter.isalpha() for letter in words):
        # A key that is missing, for one, is all that its error says.
        words = f"{type(said).__name__} {words}".strip()
    return words if len(words) <= length else words[: length - 1] + "…"
