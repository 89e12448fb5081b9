"""What the seeds of a net say together: their mean, and where the mean of all seeds there are lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import mean, stdev

from .results import AblationResult

__all__ = ["Summary", "summaries"]

# Quantiles 0.975 of Student's t for 1 to 10 degrees of freedom. More degrees take the last, which is wider than theirs.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


@dataclass(frozen=True)
class Summary:
    """The trainings of one net.

    Attributes:
        net: its name.
        n: number of seeds.
        mean_percent: their mean accuracy on the test images.
        interval_percent: the 95 % interval of that mean by Student's t, None for a single seed. It speaks of seeds alone,
            not of other test images.
        params: parameters.
        macs: multiply-adds for one image.
    """

    net: str
    n: int
    mean_percent: float
    interval_percent: tuple[float, float] | None
    params: int
    macs: int


def summaries(results: Sequence[AblationResult]) -> list[Summary]:
    """Return a summary of every net, in the order in which they were first trained."""
    nets: dict[str, list[AblationResult]] = {}
    for result in results:
        nets.setdefault(result.net, []).append(result)
    return [_summary(net, found) for net, found in nets.items()]


def _summary(net: str, results: Sequence[AblationResult]) -> Summary:
    values, n = [result.test_accuracy_percent for result in results], len(results)
    interval = None
    if n > 1:
        half = _T[min(n - 1, len(_T)) - 1] * stdev(values) / sqrt(n)
        interval = (mean(values) - half, mean(values) + half)
    return Summary(net, n, mean(values), interval, results[0].params, results[0].macs)
