"""What the pages made of records share: tables in Markdown, a median with its range, the line that names a record, the file of a picture."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from involution.files import write_atomically
from involution.pictures.plots import png

from . import trainings


def table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> list[str]:
    """Return the lines of a Markdown table."""
    head = list(head)
    return [f"| {' | '.join(map(str, row))} |" for row in (head, ["---"] * len(head), *rows)]


def spread(values: list[float], digits: int) -> str:
    """Return the median of some values, and in brackets the least and the greatest."""
    low, high = (f"{bound:.{digits}f}" for bound in (min(values), max(values)))
    middle = f"{statistics.median(values):.{digits}f}"
    return middle if low == high else f"{middle} ({low} to {high})"


def source(record: dict[str, Any], path: Path) -> str:
    """Return the line that says where figures come from: of trainings, where they ran, not where their record was written."""
    machine, instructions = record["machine"], record.get("instruction_set")
    here = (
        f"{machine['processor']}, {machine['cores']} cores, {f'{instructions}, ' if instructions else ''}"
        f"torch {record['versions']['torch']}, "
    )
    commit, end = trainings.commit(record), f"{record['date'][:10]}; record: `{path.as_posix()}`."
    if starts := trainings.starts_of(record):
        writer = ", " if all(starts) else f" on {here}"
        took = trainings.hours(record)
        took = f"; {took}" if took else ""
        return f"`{record['command']}`, {trainings.ran(starts)}{took}; written at {commit}{writer}{end}"
    return f"`{record['command']}`, commit {commit}, {here}{end}"


def write_picture(path: Path, figure: Any, dpi: int = 110) -> None:
    """Write a figure as PNG, into a folder that is made where it does not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, png(figure, dpi=dpi))
