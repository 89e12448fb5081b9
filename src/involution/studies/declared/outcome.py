"""What a study found: its record, its tables with means and intervals, its claims with verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..claims import RULE, Judged, judge, metric_in_words, side_of, values_of
from ..markdown import table
from ..statistics import Estimate, estimate
from .declaration import Row, Study

__all__ = [
    "claims_table",
    "markdown",
    "parts_of",
    "payload",
    "signed",
    "summary",
    "tables",
    "with_interval",
]


def payload(study: Study, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what a record of the study holds beside the environment: declaration, claims and all results.

    Args:
        study: what was declared.
        rows: all results so far.
    """
    reported = study.reported(rows)
    return {
        "seed": list(study.seeds),
        "title": study.title,
        "metric": list(study.metric),
        "published": study.published,
        "tables": {title: [vars(row) for row in part] for title, part in study.tables.items()},
        "curves": {name: list(sides) for name, sides in study.curves.items()},
        "claims": [dict(claim) for claim in study.claims],
        "study": dict(study.source),
        "results": [dict(row) for row in reported],
        "not_chosen": [dict(row) for row in rows if row not in reported],
    }


def with_interval(found: Estimate, unit: str = "") -> str:
    """Return ``"84.20 ± 0.31"``, the mean and half the width of its interval; of one value, that value."""
    if found.n == 1:
        return f"{found.mean:.2f}{unit}"
    return f"{found.mean:.2f} ± {found.half_width:.2f}{unit}"


def tables(record: Mapping[str, Any]) -> Iterable[tuple[str, list[str], list[list[str]]]]:
    """Yield title, head and rows of every table of a study's record.

    Args:
        record: of `payload`.
    """
    rows = record["results"]
    parts = parts_of(record)
    has_data = parts != [""]
    for title, given in record["tables"].items():
        shown = [Row(**row) for row in given]
        published = any(row.published is not None for row in shown)
        head = [
            "net",
            *(["data"] if has_data else []),
            "seeds",
            f"{metric_in_words(record['metric'])}, mean ± 95 % interval",
        ]
        head += ["parameters", "multiply-adds, M", *(["", record["published"]] if published else [])]
        lines = []
        for row in shown:
            for data in parts:
                cells = [row.label, *([data] if has_data else []), *summary(rows, record["metric"], row.net, data)]
                if published:
                    cells += [row.published_as or row.label, f"{row.published:g}" if row.published is not None else ""]
                lines.append(cells)
        yield title, head, lines


def summary(
    rows: Sequence[Mapping[str, Any]], metric: Sequence[str], net: str, data: str = "", unit: str = ""
) -> list[str]:
    """Return in words how many seeds a net was trained with, what they reach, its parameters and millions of multiply-adds.

    Args:
        rows: results of a study.
        metric: of the study.
        net: in the study.
        data: what it was trained on, empty where the study varies none.
        unit: behind what they reach.
    """
    values = values_of(rows, side_of(net, data), metric)
    one = next((row for row in rows if (row["net"], row.get("data", "")) == (net, data)), None)
    return [
        str(len(values)),
        with_interval(estimate(list(values.values())), unit) if values else "–",
        f"{one['params']:,}" if one and one.get("params") else "–",
        f"{one['macs'] / 1e6:.2f}" if one and one.get("macs") else "–",
    ]


def claims_table(judged: Iterable[Judged]) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of a table of claims."""
    head = ["claim", "source", "n", "measured, 95 % interval", "verdict"]
    rows = []
    for one in judged:
        found = one.found
        bound = f", bound {one.claim.by:g}" if one.claim.by else ""
        bound = f", within {one.claim.within:g}" if one.claim.within is not None else bound
        measured = "–" if found is None else f"{one.claim.sides}: {signed(found, *_tested(found))}{bound}"
        if one.tested is not None and one.tested is not found:
            measured += f"; unseen: {signed(one.tested, *_tested(one.tested))}"
        rows.append([one.claim.statement, one.claim.source, str(found.n) if found else "0", measured, one.verdict])
    return head, rows


def signed(found: Estimate, *more: str) -> str:
    """Return ``"+0.58 (+0.29 to +0.88)"``, a difference and its interval, in the brackets also ``more``; of one value, that."""
    if found.n == 1:
        return f"{found.mean:+.2f}"
    return f"{found.mean:+.2f} ({', '.join((f'{found.low:+.2f} to {found.high:+.2f}', *more))})"


def _tested(found: Estimate) -> list[str]:
    """Return in words the probability of a difference by chance, and whether it is one within seeds."""
    return [*([] if found.p is None else [f"p = {found.p:.2g}"]), *(["paired"] if found.paired else [])]


def markdown(record: Mapping[str, Any]) -> str:
    """Return tables and judged claims of a study's record as Markdown."""
    lines = [f"**{record['title']}**", ""]
    for title, head, rows in tables(record):
        lines += [*([title, ""] if title else []), *table(head, rows), ""]
    judged = judge(record)
    if judged:
        lines += [*table(*claims_table(judged)), "", RULE, ""]
    return "\n".join(lines)


def parts_of(record: Mapping[str, Any]) -> list[str]:
    """Return the names of what is trained on; one without a name where nothing is varied."""
    return sorted({row.get("data", "") for row in record["results"]}) or [""]
