"""The cost tables in print: for a terminal, in Markdown, and the page of the documentation that holds them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from textwrap import wrap
from typing import Any

from ..markdown import table
from .rows import TABLES

__all__ = ["as_markdown", "as_text", "split_page"]

LEGEND = (
    "MACs: multiply-adds of convolutions, matrix products and involutions (K²·C·H'·W' each), for one image.",
    "Paper's rule: those, and one operation per output of a convolution with bias, two per output of a batch norm, one "
    "per output of a ReLU, one per input of a pooling; the rule of mmcv's get_model_complexity_info, which gives the "
    "FLOPs that were published.",
)

_COSTS = ("params M", "published", "diff %", "MACs G", "paper's rule G", "published", "diff %")
_HEADER = ("", *_COSTS, "accuracy %", "note")


def _cells(record: dict[str, Any]) -> tuple[str, ...]:
    return (
        record["name"],
        f"{record['params_m']:.3f}",
        _number(record["published_params_m"]),
        _number(record["params_difference_percent"], "+.2f"),
        f"{record['macs_g']:.3f}",
        f"{record['paper_rule_g']:.3f}",
        _number(record["published_flops_g"]),
        _number(record["flops_difference_percent"], "+.2f"),
        ", ".join(f"{metric} {percent}" for metric, percent in record["published_accuracy"].items()),
        record["note"],
    )


def _number(value: float | None, form: str = "") -> str:
    return "–" if value is None else format(value, form)


def as_text(records: Sequence[dict[str, Any]]) -> str:
    """Return the tables aligned for a terminal, with their headings and the legend."""
    cells = [_HEADER, *map(_cells, records)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_HEADER))]

    def line(texts: Sequence[str]) -> str:
        # Words to the left, numbers to the right.
        aligned = (
            text.ljust(width) if column in (0, 8, 9) else text.rjust(width)
            for column, (text, width) in enumerate(zip(texts, widths, strict=True))
        )
        return "  ".join(aligned).rstrip()

    lines = []
    for name, group in groupby(records, itemgetter("table")):
        lines += [TABLES[name].title, line(_HEADER), *(line(_cells(record)) for record in group)]
        lines += [*wrap(TABLES[name].caption, 120), ""]
    for explanation in LEGEND:
        lines += wrap(explanation, 120)
    return "\n".join(lines)


def as_markdown(records: Sequence[dict[str, Any]]) -> str:
    """Return the tables in Markdown, with their headings and captions, and the notes numbered below."""
    lines = []
    for name, of_table in groupby(records, itemgetter("table")):
        group = list(of_table)
        notes = list(dict.fromkeys(record["note"] for record in group if record["note"]))
        lines += [f"## {TABLES[name].title}", "", TABLES[name].caption, ""]
        rows = []
        for record in group:
            *cells, note = _cells(record)
            rows.append((*cells, notes.index(note) + 1 if note else ""))
        lines += table(("network", *_HEADER[1:]), rows, ("---", *["--:"] * 7, "---", "--:"))
        lines += ["", *(f"{number}. {note}" for number, note in enumerate(notes, 1)), ""]
    return "\n".join(lines).rstrip()


_BEGIN, _END = "<!-- begin: involution complexity --markdown -->", "<!-- end: involution complexity --markdown -->"


def split_page(path: Path) -> tuple[str, str]:
    """Return what a Markdown file holds before and after the tables, its two marker comments included.

    Raises:
        ValueError: the file cannot be read, or does not hold the two markers in their order.
    """
    try:
        page = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"cannot read {path} ({error.strerror}); give a Markdown file to update") from error
    before, begin, rest = page.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"{path} must hold the lines {_BEGIN} and {_END}, between which the tables go; add them")
    return f"{before}{_BEGIN}\n\n", f"\n\n{_END}{after}"
