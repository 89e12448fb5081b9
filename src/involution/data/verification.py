"""Every file of a data set is read once before the first step, several at a time, so that a damaged one is found then."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from lightning.pytorch.utilities import rank_zero_info

__all__ = ["check_each"]

Item = TypeVar("Item")
Found = TypeVar("Found")

# How many are handed to the threads together: a million at once take a gigabyte.
_TOGETHER = 1024
# After how many seconds it is said how far it is, and how often.
_TOLD_AFTER_S = 20.0


def check_each(check: Callable[[Item], Found], items: Sequence[Item]) -> list[Found]:
    """Return what ``check`` returns for every item, in their order; what takes long says how far it is.

    Args:
        check: called in several threads; what it raises ends all.
        items: to check.
    """
    found: list[Found] = []
    told = time.monotonic()
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(items), _TOGETHER):
            found += pool.map(check, items[start : start + _TOGETHER])
            if time.monotonic() - told >= _TOLD_AFTER_S and len(found) < len(items):
                told = time.monotonic()
                rank_zero_info(
                    f"{len(found):,} of {len(items):,} images are checked before the first step, each read whole unless "
                    "--data.verify is false"
                )
    return found
