"""Times of functions that meet the same disturbances."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def medians(functions: dict[str, Callable], rounds: int) -> dict[str, dict[str, float]]:
    """Time every function once per round, after three rounds to warm up; return median and quartiles in milliseconds."""
    for _ in range(3):
        for function in functions.values():
            function()
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            times[name].append((time.perf_counter() - start) * 1e3)
    result = {}
    for name, values in times.items():
        low, median, high = statistics.quantiles(values, n=4)
        result[name] = {"median_ms": median, "quartile_1_ms": low, "quartile_3_ms": high}
    return result
