"""The options that the commands which train for a study share: their checks, and what is said when one is interrupted."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from tempfile import NamedTemporaryFile

import torch

from ..errors import CommandError, InvolutionError
from ..files import locked
from ..schema import find_seed_problem

__all__ = [
    "check_seed",
    "check_training",
    "choice",
    "find_device",
    "kept_for_this_command",
    "make_writable",
    "say",
    "told_when_interrupted",
]


def choice(name: str, value: str, known: Iterable[str]) -> str:
    """Return the value, or refuse one that is not known."""
    if value not in known:
        raise CommandError(f"unknown {name} {value!r}; expected one of {', '.join(known)}")
    return value


def check_training(*, epochs: int | None, repeats: int, seed: int) -> None:
    """Refuse numbers that no training can have."""
    for name, value in (("epochs", epochs), ("repeats", repeats)):
        if value is not None and value < 1:
            raise CommandError(f"--{name} must be at least 1, got {value}")
    check_seed(seed, repeats)


def check_seed(seed: int, count: int = 1) -> None:
    """Refuse what is no seed of every generator, or of ``count`` of them that count on."""
    problem = find_seed_problem(seed, count)
    if problem:
        raise CommandError(f"--seed {problem}")


def find_device(name: str) -> torch.device:
    """Return the device, or refuse one that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda", "mps"):
        raise CommandError(f"unknown device {name!r}; expected auto, cpu, cuda, cuda:N or mps")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise CommandError(
            f"device {name} was asked for, but PyTorch sees {count or 'no'} CUDA GPU{'s' if count > 1 else ''} on this "
            "machine; use --device cpu or auto"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise CommandError("device mps was asked for, but PyTorch sees no Metal GPU on this machine; use --device cpu")
    return device


def make_writable(folder: Path, option: str = "--out") -> None:
    """Make the folder of the results, which ``option`` names, and refuse one that cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise CommandError(
            f"cannot write the results to {folder}: {error.strerror}; name another folder with {option}"
        ) from error


@contextmanager
def kept_for_this_command(folder: Path) -> Iterator[None]:
    """Keep a folder from other processes, and say where one that is gone had it; an empty one that it made is removed.

    Raises:
        FolderInUseError: another process writes into it.
        CommandError: it cannot be made or written.
    """
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    with ExitStack() as stack:
        # After its lock is gone.
        stack.callback(_remove_empty, missing)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            left = stack.enter_context(locked(folder))
        except InvolutionError:
            raise
        except OSError as error:
            raise CommandError(
                f"cannot write to {folder}: {error.strerror}; make it writable, or choose another folder"
            ) from error
        if left:
            print(f"{folder} was left by {left}, which ended without giving it up; it is taken over", file=sys.stderr)
        yield


def _remove_empty(folders: Iterable[Path]) -> None:
    """Remove folders, each inside the next one, up to the first that holds something."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def say(line: str) -> None:
    """Print a line of a log, with the time of the day."""
    print(f"{datetime.now():%H:%M:%S}  {line}", flush=True)


@contextmanager
def told_when_interrupted(count_finished: Callable[[], int], nets: int, folder: Path) -> Iterator[None]:
    """Say what an interruption by Ctrl-C or SIGTERM leaves: how many of ``nets`` are finished, and where they are."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        print(
            f"Interrupted with {count_finished()} of {nets} nets finished, kept in {folder}; "
            "the same command goes on from there",
            file=sys.stderr,
        )
        raise


def refuse_to_lose(path: Path, lost: int) -> None:
    """Refuse to write over a record that has trainings which the new one would not have.

    Args:
        path: of the record that is there.
        lost: number of these trainings.

    Raises:
        CommandError: there are some.
    """
    if lost:
        raise CommandError(
            f"{path} holds {lost} trainings whose folders are not here; go on from them with --from_record {path}, or "
            "choose another --out"
        )
