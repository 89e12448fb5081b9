"""Times of functions that meet the same disturbances."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from involution.studies.latency.clock import call_ms


def medians(functions: dict[str, Callable], rounds: int) -> dict[str, dict[str, float]]:
    """Time every function once per round, after three rounds to warm up; return median and quartiles in milliseconds.

    Every round calls from another depth of Python's stack, see `call_ms`.
    """
    for _ in range(3):
        for function in functions.values():
            function()
    times: dict[str, list[float]] = {name: [] for name in functions}
    for i in range(rounds):
        for name, function in functions.items():
            times[name].append(call_ms(function, i))
    result = {}
    for name, values in times.items():
        low, median, high = statistics.quantiles(values, n=4)
        result[name] = {"median_ms": median, "quartile_1_ms": low, "quartile_3_ms": high}
    return result
