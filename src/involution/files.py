"""Files that are at any moment, even when the process is killed, the old ones or the whole new ones."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory
from typing import BinaryIO

__all__ = ["replaced", "replaced_files", "write_atomically"]


@contextmanager
def replaced(path: str | Path) -> Iterator[BinaryIO]:
    """Open a new file for writing, which takes the place of ``path`` when the block ends, and is removed if it fails.

    It lies beside ``path`` under a name of its own, so that two writers never share one, and is made anew: a link that
    somebody put there is not followed. Its mode is that of any new file.

    Raises:
        OSError: the folder is not there, or the file cannot be written.

    Example:
        >>> from pathlib import Path
        >>> from involution.files import replaced
        >>> with replaced("notes.txt") as file:
        ...     written = file.write(b"whole or not at all")
        >>> Path("notes.txt").read_bytes()
        b'whole or not at all'
    """
    path = Path(path)
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
    """Write a file, text as UTF-8, so that at any moment there is the old one or the whole new one.

    Raises:
        OSError: the folder is not there or cannot be written.
    """
    with replaced(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)
