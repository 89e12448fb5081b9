"""Rows of the latency table, and the table for a terminal and in Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any

from ..markdown import table
from .engines import ENGINES

__all__ = ["Row", "as_markdown", "as_text", "best", "line", "profile_lines", "profile_section"]


@dataclass(frozen=True)
class Row:
    """A net in an engine.

    Attributes:
        model: as it was asked for.
        engine: of `ENGINES`.
        dtype: of `DTYPES`.
        batch: images that pass together.
        times_ms: of the rounds, in their order, process after process; empty where nothing was measured.
        to_control: median over the control's in the same rounds.
        peak_mib: memory that running takes at its peak.
        accuracy: share of images, from 0 to 1, whose class the net finds; None where it was not asked for.
        difference: largest relative difference of an output from PyTorch's in float32.
        reason: why nothing was measured.
        missing: what was asked for beside the times and could not be had, with the reason.
        processes: that the rounds were divided among.
        profile: milliseconds of a run by kind of operator, as the engine names it; empty where it was not asked for.
    """

    model: str
    engine: str
    dtype: str
    batch: int
    times_ms: tuple[float, ...] = ()
    to_control: float | None = None
    peak_mib: float | None = None
    difference: float | None = None
    reason: str = ""
    accuracy: float | None = None
    processes: int = 1
    profile: Mapping[str, float] = field(default_factory=dict)
    missing: str = ""

    @property
    def process_medians_ms(self) -> tuple[float, ...]:
        """Median of each process, in their order."""
        rounds = len(self.times_ms) // self.processes
        return tuple(median(self.times_ms[i : i + rounds]) for i in range(0, rounds * self.processes, max(1, rounds)))

    @property
    def median_ms(self) -> float | None:
        """Median of the rounds."""
        return median(self.times_ms) if self.times_ms else None

    @property
    def p90_ms(self) -> float | None:
        """Time that nine of ten rounds stayed below."""
        if len(self.times_ms) < 2:
            return self.median_ms
        return quantiles(self.times_ms, n=10, method="inclusive")[-1]

    @property
    def images_per_s(self) -> float | None:
        """Images a second, at the median."""
        return None if self.median_ms is None else 1e3 * self.batch / self.median_ms

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Row:
        """Return the row that `record` gave."""
        names = ("model", "engine", "dtype", "batch", "to_control", "peak_mib", "difference", "reason")
        # Older records have no accuracy, one process, and no profile; in others nothing was missing.
        more = {
            "accuracy": record.get("accuracy"),
            "processes": record.get("processes", 1),
            "profile": record.get("profile", {}),
            "missing": record.get("missing", ""),
        }
        fields = {name: record[name] for name in names} | more
        return cls(**fields, times_ms=tuple(record["times_ms"]))

    def record(self) -> dict[str, object]:
        """Return the row for a record."""
        return {
            "model": self.model,
            "engine": self.engine,
            "dtype": self.dtype,
            "batch": self.batch,
            "median_ms": self.median_ms,
            "p90_ms": self.p90_ms,
            "images_per_s": self.images_per_s,
            "to_control": self.to_control,
            "peak_mib": self.peak_mib,
            "difference": self.difference,
            "accuracy": self.accuracy,
            "reason": self.reason,
            "missing": self.missing,
            "processes": self.processes,
            "times_ms": [round(value, 3) for value in self.times_ms],
            "profile": {name: round(value, 3) for name, value in self.profile.items()},
        }


_HEADER = ("engine", "dtype", "batch", "net", "median ms", "p90 ms", "images/s", "to control", "peak MiB", "difference")
_ACCURACY = "top-1 %"
# Kinds of operators that a line of a profile names; the others are added up.
_NAMED = 6
# Words to the left, numbers to the right.
_WORDS = (0, 1, 3)


def line(row: Row, models: Sequence[str]) -> str:
    """Return a row for a terminal, in columns that fit every row of a table over ``models``."""
    return _aligned(_cells(row), models)


def as_text(rows: Iterable[Row], models: Sequence[str], *, accuracy: bool = False) -> str:
    """Return the table for a terminal, with a column for ``accuracy`` where it is measured."""
    header = (*_HEADER, _ACCURACY) if accuracy else _HEADER
    return "\n".join([_aligned(header, models), *(line(row, models) for row in rows)])


def as_markdown(rows: Iterable[Row]) -> str:
    """Return the table in Markdown."""
    rows = list(rows)
    header = (*_HEADER, _ACCURACY) if any(row.accuracy is not None for row in rows) else _HEADER
    cells = [_cells(row) for row in rows]
    lines = [[*line, *[""] * (len(header) - len(line))] for line in cells]
    rule = ["---" if i in _WORDS else "--:" for i in range(len(header))]
    return "\n".join([*table(header, lines, rule), *profile_section(rows)]) + "\n"


def profile_lines(rows: Iterable[Row]) -> list[str]:
    """Return for each row with a profile, in a line, the operators that take most of the time, and what share each takes."""
    lines = []
    for row in rows:
        total = sum(row.profile.values())
        if not total:
            continue
        ordered = sorted(row.profile.items(), key=lambda part: -part[1])
        parts = ordered[:_NAMED]
        if len(ordered) > _NAMED:
            parts.append((f"{len(ordered) - _NAMED} others", sum(value for _, value in ordered[_NAMED:])))
        words = ", ".join(f"{name} {value:.2f} ms ({value / total:.0%})" for name, value in parts)
        lines.append(f"{row.model}, {row.engine}, {row.dtype}, batch {row.batch}: {words}")
    return lines


def profile_section(rows: Iterable[Row]) -> list[str]:
    """Return the lines of Markdown that say where the time goes, after an empty one; none where no row has a profile."""
    lines = [f"- {words}" for words in profile_lines(rows)]
    return ["", "Where the time goes:", "", *lines] if lines else []


def best(rows: Sequence[Row], models: Sequence[str]) -> list[str]:
    """Return for each dtype and batch, in a line, the fastest engine of every net, and the ratio to the control's."""
    lines = []
    for dtype, batch in dict.fromkeys((row.dtype, row.batch) for row in rows):
        fastest: dict[str, Row] = {}
        for model in models:
            of_model = [r for r in rows if (r.model, r.dtype, r.batch) == (model, dtype, batch) and r.times_ms]
            if of_model:
                fastest[model] = min(of_model, key=lambda row: row.median_ms or math.inf)
        parts = [f"{model} {row.median_ms:.2f} ms ({row.engine})" for model, row in fastest.items()]
        control = fastest.get(models[-1])
        if control is not None and control.median_ms:
            for number, (model, row) in enumerate(fastest.items()):
                if model != models[-1] and row.median_ms:
                    parts[number] += f", {row.median_ms / control.median_ms:.2f} of the control's"
        if parts:
            lines.append(f"fastest in {dtype}, batch {batch}: {'; '.join(parts)}")
    return lines


def _cells(row: Row) -> tuple[str, ...]:
    start = (row.engine, row.dtype, str(row.batch), row.model)
    if row.reason:
        return (*start, row.reason)
    accuracy = () if row.accuracy is None else (_number(100 * row.accuracy, ".2f"),)
    return (
        *start,
        _number(row.median_ms, ".2f"),
        _number(row.p90_ms, ".2f"),
        _number(row.images_per_s, ".1f"),
        _number(row.to_control, ".2f"),
        _number(row.peak_mib, ".0f"),
        _number(row.difference, ".1e"),
        *accuracy,
    )


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _aligned(cells: Sequence[str], models: Sequence[str]) -> str:
    # Known before the first row is there, so that each is printed when it is measured.
    widths = [max(map(len, ENGINES)), len("bfloat16"), 5, max(map(len, models)), *map(len, (*_HEADER[4:], _ACCURACY))]
    texts = [
        cell.ljust(width) if column in _WORDS or (len(cells) == 5 and column == 4) else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(cells, widths))
    ]
    return "  ".join(texts).rstrip()
