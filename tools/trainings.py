"""At which commits, and on which machines, the trainings behind a record ran, as far as it is known."""

from __future__ import annotations

import statistics
from collections import Counter
from datetime import datetime
from itertools import groupby
from typing import Any

Start = dict[str, Any]


def starts_of(record: dict[str, Any]) -> list[list[Start]]:
    """Return the starts of every training of a record, each in the order of time.

    Returns:
        One list a training, empty where it kept none: its commit is unknown, for that of the record is of who wrote it.
        No list at all for records of no trainings, and of those that ran in the command itself.
    """
    results = record.get("results", [])
    if isinstance(results, dict):
        return [_in_order(record.get("starts") or [])] if "history" in results else []
    rows = _rows(record)
    if any("starts" in row for row in rows):
        return [_in_order(row.get("starts") or []) for row in rows]
    # A table's trainings begin and end in one process, which the row itself describes.
    return [[{"date": row["finished"], **row}] for row in rows if {"finished", "commit", "machine"} <= row.keys()]


def commit(start: Start) -> str:
    """Return the commit of a start or a record in short, and whether the tree had changes."""
    if not start["commit"]:
        return "an unknown commit"
    return f"{start['commit'][:10]}{' with changes' if start.get('modified') else ''}"


def machine(start: Start) -> str:
    """Return the machine of a start or a record, with the version of torch where it is kept."""
    of, torch = start["machine"], start.get("versions", {}).get("torch")
    return f"{of['processor']}, {of['cores']} cores{f', torch {torch}' if torch else ''}"


def ran(trainings: list[list[Start]]) -> str:
    """Return how many trainings ran at which commits, in the order of time, and on which machines.

    Args:
        trainings: of `starts_of`; one at least.
    """
    known = sorted(filter(None, trainings), key=lambda starts: starts[0]["date"])
    unknown = len(trainings) - len(known)
    count = f"{len(trainings)} training{'s' if len(trainings) > 1 else ''}"
    if not known:
        return f"{count} whose commit{'s' if unknown > 1 else ''} and machine{'s' if unknown > 1 else ''} were not kept"
    places = [f"{number} {words}" for words, number in Counter(map(_commits, known)).items()]
    machines = " and ".join(dict.fromkeys(machine(start) for starts in known for start in starts))
    if unknown:
        places.append(f"{unknown} whose commit and machine were not kept")
        machines += " where it was kept"
    return f"{count}: {', '.join(places)}; on {machines}"


def hours(record: dict[str, Any]) -> str:
    """Return how long the trainings of a record took in all, of those of which it is known; nothing where it is of none.

    Of each its epochs times their median, for a machine may have stood still in one of them. Where epochs were not timed and
    it was started once, from its start to its end.
    """
    results = record.get("results", [])
    rows = [results] if isinstance(results, dict) else _rows(record)
    took = [found for found in map(seconds, rows) if found is not None]
    if not took:
        return ""
    return f"{sum(took) / 3600:.1f} hours in all{f' of {len(took)} of them' if len(took) < len(rows) else ''}"


def _rows(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the results of a record's trainings, those of settings that were not chosen included."""
    return [row for row in [*record.get("results", []), *record.get("not_chosen", [])] if isinstance(row, dict)]


def seconds(row: dict[str, Any]) -> float | None:
    """Return how long the training of a result took, see `hours`; None where it is not known."""
    history = row.get("history", [])
    times = [epoch["epoch_s"] for epoch in history if epoch.get("epoch_s")]
    if times:
        return statistics.median(times) * len(history)
    starts = row.get("starts") or []
    if len(starts) != 1 or not row.get("finished"):
        return None
    begun, ended = (datetime.fromisoformat(date) for date in (starts[0]["date"], row["finished"]))
    return (ended - begun).total_seconds()


def _in_order(starts: list[Start]) -> list[Start]:
    return sorted(starts, key=lambda start: start["date"])


def _commits(starts: list[Start]) -> str:
    # Twice at the same commit is no other.
    first, *more = [words for words, _ in groupby(map(commit, starts))]
    return f"begun at {first} and continued at {' and '.join(more)}" if more else f"at {first}"
