"""Names of modules in other people's code: tables of pairs, read in either direction."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["translate"]


def translate(table: Sequence[tuple[str, str]], module: str, *, to_ours: bool) -> str:
    """Return the name of ``module`` in the other column of a table.

    Args:
        table: pairs of our name and theirs; ``{n}`` stands for a number, the same numbers on both sides.
        module: its name in one column.
        to_ours: whether that is their column.

    Raises:
        KeyError: the table has no such name.
    """
    for ours, theirs in table:
        source, target = (theirs, ours) if to_ours else (ours, theirs)
        match = re.fullmatch(re.escape(source).replace(r"\{n\}", r"(\d+)"), module)
        if match:
            return target.replace("{n}", "{}").format(*match.groups())
    raise KeyError(module)
