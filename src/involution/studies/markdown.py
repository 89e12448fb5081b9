"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = ["table"]


def table(head: Iterable[Any], rows: Iterable[Iterable[Any]], rule: Iterable[str] | None = None) -> list[str]:
    """Return the lines of a Markdown table; bars and line breaks in a cell, as an exception's words have them, break none.

    Args:
        head: names of the columns.
        rows: cells, as many as the head has.
        rule: how each column is aligned, ``"---"`` or ``"--:"``; to the left by default.
    """
    head = list(head)
    lines = (head, ["---"] * len(head) if rule is None else rule, *rows)
    return [f"| {' | '.join(map(_cell, line))} |" for line in lines]


def _cell(value: Any) -> str:
    return " ".join(str(value).splitlines()).replace("|", "\\|")
