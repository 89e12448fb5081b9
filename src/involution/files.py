"""Files that are at any moment, even when the process is killed, the old ones or the whole new ones.

And what belongs to them: a folder kept for one process, and JSON that somebody else may have written.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

from .errors import FolderInUseError

__all__ = [
    "encoded",
    "locked",
    "locked_in_turn",
    "read_json",
    "read_text",
    "replaced",
    "replaced_files",
    "stays_inside",
    "write_atomically",
]

# What a file system says that has no locks; a folder there is used without one.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_held: set[Path] = set()


@contextmanager
def replaced(path: str | Path) -> Iterator[BinaryIO]:
    """Open a new file for writing, which takes the place of ``path`` when the block ends, and is removed if it fails.

    It lies beside ``path`` under a name of its own, so that two writers never share one, and is made anew: a link that
    somebody put there is not followed. Its mode is that of any new file.

    Raises:
        OSError: the folder is not there, the file cannot be written, or a device or a pipe is in its place.

    Example:
        >>> from pathlib import Path
        >>> from involution.files import replaced
        >>> with replaced("notes.txt") as file:
        ...     written = file.write(b"whole or not at all")
        >>> Path("notes.txt").read_bytes()
        b'whole or not at all'
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists() and not path.is_symlink() and not path.is_file():
        # A device or a pipe, which a file would take the place of.
        raise OSError(errno.EINVAL, "it is no file", str(path))
    # Part of the name tells whose remains these are after a kill; the whole could be too long with what is added.
    partial = path.with_name(f".{path.name[:40]}.{token_hex(8)}.partial")
    file = partial.open("xb")
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def replaced_files(folder: str | Path) -> Iterator[Path]:
    """Give an empty folder, for writers that want a path; its files take their places in ``folder`` when the block ends.

    Each file is replaced as a whole; of a block that fails, nothing comes into ``folder``, which is made where it does
    not exist and something comes into it. Until then the files lie inside it, where other users cannot enter.

    Raises:
        OSError: the folder or a file cannot be written.
    """
    folder = Path(folder)
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with TemporaryDirectory(dir=folder, prefix=".", suffix=".partial") as name:
            partial = Path(name)
            yield partial
            for file in [file for file in partial.rglob("*") if file.is_file()]:
                with file.open("rb") as written:
                    os.fsync(written.fileno())
                target = folder / file.relative_to(partial)
                target.parent.mkdir(parents=True, exist_ok=True)
                file.replace(target)
    finally:
        if is_new:
            with suppress(OSError):
                folder.rmdir()


def write_atomically(path: str | Path, data: str | bytes) -> None:
    """Write a file, text as `encoded`, so that at any moment there is the old one or the whole new one.

    Raises:
        OSError: the folder is not there or cannot be written.
    """
    with replaced(path) as file:
        file.write(encoded(data) if isinstance(data, str) else data)


def encoded(text: str) -> bytes:
    """Return text as UTF-8.

    What UTF-8 lacks (the bytes of a file's name that is none) is written as an escape, which JSON reads as the same.
    """
    return text.encode(errors="backslashreplace")


def read_text(path: str | Path) -> str:
    """Return what a text file holds, without the byte order mark that Windows' editors put before it.

    Raises:
        OSError: it is missing, cannot be read, or is no regular file (a pipe would be waited for).
        ValueError: it is not UTF-8.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is a folder, a pipe or a device, no file", str(path))
    return path.read_text(encoding="utf-8-sig")


def read_json(path: str | Path) -> Any:
    """Return what a JSON file holds.

    Raises:
        OSError: as in `read_text`.
        ValueError: it is no JSON, not UTF-8, or nested too deeply.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def stays_inside(name: str) -> bool:
    """Whether a name, joined to a folder, leads into it: it begins at no root or drive and never steps up."""
    path = Path(name)
    return not path.anchor and ".." not in path.parts


@contextmanager
def locked(folder: str | Path) -> Iterator[str]:
    """Keep a folder that exists for this process until the block ends, by the file ``.lock`` inside.

    The lock itself is the operating system's and ends with the process, whatever ends it: a file that a killed process
    left keeps nobody out. Processes that this one forks do not have it. A file system without locks gives none.

    Yields:
        What such a left file says of its process (``"process 17 on host since …"``), else nothing.

    Raises:
        FolderInUseError: another process has it, or a block of this one.
        OSError: the folder cannot be written.
    """
    path = Path(folder).resolve() / ".lock"
    if path in _held:
        raise FolderInUseError(f"{folder} is in use by this process; wait until that ends, or choose another folder")
    descriptor = _lock(path)
    _held.add(path)
    try:
        left = os.read(descriptor, 200).decode(errors="replace").strip()
        os.ftruncate(descriptor, 0)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        os.pwrite(descriptor, f"process {os.getpid()} on {platform.node()} since {now}\n".encode(), 0)
        yield left
    finally:
        # Before the lock is given up: whoever opened this file meanwhile sees that it is not the folder's any more.
        with suppress(OSError):
            path.unlink()
        os.close(descriptor)
        _held.discard(path)


@contextmanager
def locked_in_turn(folder: str | Path) -> Iterator[None]:
    """Keep a folder as `locked` does, once whoever has it gives it up: for blocks of an instant.

    Raises:
        OSError: the folder cannot be written.
    """
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locked(folder))
                break
            except FolderInUseError:
                time.sleep(0.05)
        yield


def _lock(path: Path) -> int:
    """Return the descriptor of the locked file."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
        try:
            # A record lock, not flock: forked workers, which outlive a killed process for seconds, do not share it.
            import fcntl

            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is(path, descriptor):
                return descriptor
        except ImportError:
            return descriptor
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return descriptor
            holder = os.read(descriptor, 200).decode(errors="replace").strip()
            os.close(descriptor)
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            raise FolderInUseError(
                f"{path.parent} is in use by {holder or 'another process'}; wait until that ends, or choose another folder"
            ) from error
        os.close(descriptor)


def _is(path: Path, descriptor: int) -> bool:
    """Whether a descriptor is that of the file that the path now names."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
