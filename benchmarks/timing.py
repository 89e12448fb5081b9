"""Times of functions that meet the same disturbances."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

# Frames of `_below` that fill a block of CPython's stack, and how far one round lies from the next: prime to it.
_DEPTHS, _STEP = 160, 37


def medians(functions: dict[str, Callable], rounds: int) -> dict[str, dict[str, float]]:
    """Time every function once per round, after three rounds to warm up; return median and quartiles in milliseconds.

    Every round calls from another depth of Python's stack. CPython takes memory for frames from the system in blocks of
    16 KiB and gives a block back when its first frame returns: at one depth in ten or so, a function that makes many
    calls (those of a compiled graph) pays two system calls for each of them. The median is that of the other depths.
    """
    for _ in range(3):
        for function in functions.values():
            function()
    times: dict[str, list[float]] = {name: [] for name in functions}
    for i in range(rounds):
        for name, function in functions.items():
            times[name].append(_below(i * _STEP % _DEPTHS, function))
    result = {}
    for name, values in times.items():
        low, median, high = statistics.quantiles(values, n=4)
        result[name] = {"median_ms": median, "quartile_1_ms": low, "quartile_3_ms": high}
    return result


def _below(frames: int, function: Callable) -> float:
    """Return the milliseconds of ``function``, called with so many frames more on the stack."""
    if frames:
        return _below(frames - 1, function)
    start = time.perf_counter()
    function()
    return (time.perf_counter() - start) * 1e3
