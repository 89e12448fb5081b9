"""The cost tables: what the networks of the paper cost, counted and published, and the command that prints them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from json import dumps
from pathlib import Path
from textwrap import wrap
from typing import Any

import torch

from ...counting import Cost, count
from ...errors import CommandError
from .published import rounding_interval
from .rows import TABLES, Row

__all__ = ["Cost", "complexity", "count", "measure", "rows"]

# A difference above this needs a reason in words.
TOLERANCE_PERCENT = 0.5

LEGEND = (
    "MACs: multiply-adds of convolutions, matrix products and involutions (K²·C·H'·W' each), for one image.",
    "Paper's rule: those, and one operation per output of a convolution with bias, two per output of a batch norm, one "
    "per output of a ReLU, one per input of a pooling; the rule of mmcv's get_model_complexity_info, which gives the "
    "FLOPs that were published.",
)


def rows(table: str | None = None, name: str | None = None) -> list[dict[str, Any]]:
    """Count every network of the cost tables, on the meta device.

    Args:
        table: one of `TABLES`; all by default.
        name: only rows whose name contains this, letter case and punctuation aside.

    Returns:
        One record a row, see `measure`.

    Raises:
        ValueError: no table or no row is called so.
    """
    return [measure(key, row) for key, row in _select(table, name)]


def _select(table: str | None, name: str | None) -> list[tuple[str, Row]]:
    if table is not None and table not in TABLES:
        raise ValueError(f"unknown table {table!r}; expected one of {', '.join(TABLES)}")
    candidates = [(key, row) for key in ([table] if table else TABLES) for row in TABLES[key].rows()]
    chosen = [(key, row) for key, row in candidates if name is None or _plain(name) in _plain(row.name)]
    if not chosen:
        raise ValueError(
            f"no row is called {name!r}; expected a part of one of: {'; '.join(r.name for _, r in candidates)}"
        )
    return chosen


def _plain(text: str) -> str:
    return "".join(character for character in text.lower() if character.isalnum())


def measure(table: str, row: Row) -> dict[str, Any]:
    """Count one network and put the counts beside the published figures.

    Returns:
        ``table``, ``name``, ``params_m`` (millions), ``macs_g`` and ``paper_rule_g`` (10⁹), ``published_params_m`` and
        ``published_flops_g`` (None where there are none), ``params_difference_percent`` and
        ``flops_difference_percent`` (of the count by the paper's rule), ``published_accuracy`` (percent, by metric),
        ``note`` (what explains a difference), and how to build the network again: ``model``, ``options``,
        ``input_size``.
    """
    with torch.device("meta"):
        model = row.create(row.model, **row.options)
    cost = count(model, row.input_size, run=row.run)
    params_m = (cost.trainable_params if row.trainable_only else cost.params) / 1e6
    paper_rule_g = cost.paper_rule / 1e9
    published = row.published
    reasons = [
        _rounding("parameters", params_m, published.params_m),
        _rounding("FLOPs", paper_rule_g, published.flops_g),
        row.note,
    ]
    return {
        "table": table,
        "name": row.name,
        "params_m": params_m,
        "macs_g": cost.macs / 1e9,
        "paper_rule_g": paper_rule_g,
        "published_params_m": float(published.params_m),
        "published_flops_g": None if published.flops_g is None else float(published.flops_g),
        "params_difference_percent": _difference(params_m, published.params_m),
        "flops_difference_percent": _difference(paper_rule_g, published.flops_g),
        "published_accuracy": {metric: float(percent) for metric, percent in published.accuracy.items()},
        "note": "; ".join(reason for reason in reasons if reason),
        "model": row.model,
        "options": dict(row.options),
        "input_size": list(row.input_size),
    }


def _difference(counted: float, published: Decimal | None) -> float | None:
    return None if published is None else round(100 * (counted / float(published) - 1), 2)


def _rounding(what: str, counted: float, published: Decimal | None) -> str:
    """Say that a difference comes from the rounding of the published figure, where it is large and does."""
    difference = _difference(counted, published)
    if published is None or difference is None or abs(difference) <= TOLERANCE_PERCENT:
        return ""
    low, high = rounding_interval(published)
    return f"published {what} are rounded: {published} is {low} to {high}" if low <= counted <= high else ""


def complexity(
    table: str | None = None,
    name: str | None = None,
    json: bool = False,
    markdown: bool = False,
    update: Path | None = None,
    plot: Path | None = None,
) -> None:
    """Parameters and multiply-adds of RedNet, its controls, ablations and detectors, beside the published figures.

    Args:
        table: only this table: imagenet, ablation, coco or cityscapes.
        name: only rows whose name contains this, such as rednet50.
        json: print a list of records.
        markdown: print Markdown tables.
        update: write the Markdown tables into this file, between its two marker comments, and print nothing else.
        plot: draw accuracy against multiply-adds and against parameters into this folder, from published figures.
    """
    if sum((json, markdown, update is not None, plot is not None)) > 1:
        raise CommandError("--json, --markdown, --update and --plot exclude each other; give one of them")
    if plot is not None:
        _plot(plot)
        return
    try:
        chosen = _select(table, name)
        # The page is read before the counting, so that a wrong one is refused at once.
        page = None if update is None else split_page(update)
    except ValueError as error:
        raise CommandError(str(error)) from error
    records = [measure(key, row) for key, row in chosen]
    if update is not None and page is not None:
        update.write_text(page[0] + as_markdown(records) + page[1], encoding="utf-8")
        print(f"wrote {update}")
    elif json:
        print(dumps(records, indent=2, ensure_ascii=False))
    else:
        print(as_markdown(records) if markdown else as_text(records))


def _plot(folder: Path) -> None:
    from .envelope import draw_envelopes

    try:
        paths = draw_envelopes(folder)
    except OSError as error:
        raise CommandError(
            f"cannot write into {folder} ({error.strerror}); give a folder that can be written"
        ) from error
    for path in paths:
        print(f"wrote {path}")


_HEADER = (
    "",
    "params M",
    "published",
    "diff %",
    "MACs G",
    "paper's rule G",
    "published",
    "diff %",
    "accuracy %",
    "note",
)


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


def _by_table(records: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault(record["table"], []).append(record)
    return groups


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
    for table, group in _by_table(records).items():
        lines += [TABLES[table].title, line(_HEADER), *(line(_cells(record)) for record in group)]
        lines += [*wrap(TABLES[table].caption, 120), ""]
    for explanation in LEGEND:
        lines += wrap(explanation, 120)
    return "\n".join(lines)


def as_markdown(records: Sequence[dict[str, Any]]) -> str:
    """Return the tables in Markdown, with their headings and captions, and the notes numbered below."""
    lines = []
    for table, group in _by_table(records).items():
        notes = list(dict.fromkeys(record["note"] for record in group if record["note"]))
        lines += [f"## {TABLES[table].title}", "", TABLES[table].caption, ""]
        lines += [_markdown_line(("network", *_HEADER[1:])), _markdown_line(("---", *["--:"] * 7, "---", "--:"))]
        for record in group:
            *cells, note = _cells(record)
            lines.append(_markdown_line((*cells, str(notes.index(note) + 1) if note else "")))
        lines += ["", *(f"{number}. {note}" for number, note in enumerate(notes, 1)), ""]
    return "\n".join(lines).rstrip()


def _markdown_line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


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
