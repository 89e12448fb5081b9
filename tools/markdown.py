"""What the pages made of records share: a place between markers, a median with its range, the line that names a record, pictures."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from involution.files import write_atomically
from involution.pictures.plots import png
from involution.studies.markdown import table

from . import trainings

__all__ = ["source", "spread", "table", "write_between", "write_picture"]


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


def write_between(page: Path, begin: str, end: str, lines: Iterable[str]) -> None:
    """Replace what stands between two marker lines of a page.

    Raises:
        SystemExit: the page does not hold the two, in their order.
    """
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise SystemExit(f"{page} must hold the lines {begin!r} and {end!r}, in this order")
    content = "\n".join(lines).strip()
    write_atomically(page, f"{before}{begin}\n{content}\n\n{end}{after}")


def write_picture(path: Path, figure: Any, dpi: int = 110) -> None:
    """Write a figure as PNG, into a folder that is made where it does not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, png(figure, dpi=dpi))
