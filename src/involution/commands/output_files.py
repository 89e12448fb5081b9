"""What a command writes for its images: files of one name each, never over an image that it reads, and numbers alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import CommandError

__all__ = ["name_outputs", "refuse_overwriting"]


def name_outputs(files: Sequence[Path], out: Path, endings: Sequence[str]) -> list[tuple[Path, ...]]:
    """Return the files to write for every image: its name with each ending; images of the same name get a number.

    Args:
        files: the images; one that is given twice is written once.
        out: where the files go.
        endings: of their names, such as ``.png`` and ``-overlay.png``.

    Raises:
        CommandError: a file to write is one of the images.
    """
    chosen: dict[Path, tuple[Path, ...]] = {}
    taken: set[Path] = set()
    for file in files:
        number, targets = 1, tuple(out / f"{file.stem}{ending}" for ending in endings)
        while file not in chosen and taken.intersection(targets):
            number += 1
            targets = tuple(out / f"{file.stem}-{number}{ending}" for ending in endings)
        taken.update(chosen.setdefault(file, targets))
    refuse_overwriting(taken, files, "choose another --out")
    return [chosen[file] for file in files]


def refuse_overwriting(targets: Iterable[Path], sources: Sequence[Path], remedy: str) -> None:
    """Refuse to write over what is read, also where a link leads there.

    Raises:
        CommandError: a target is a source.
    """
    real = {source.resolve() for source in sources}
    for target in sorted(targets):
        if target.resolve() in real:
            raise CommandError(f"{target} is one of the files that are read and would be overwritten; {remedy}")
