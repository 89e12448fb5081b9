"""Means over seeds, their intervals, and differences that are paired where the seeds are."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from statistics import mean, stdev, variance
from typing import Any

__all__ = ["CONFIDENCE", "ROUNDS", "Estimate", "bootstrap", "difference", "estimate", "holm", "interval_of"]

CONFIDENCE = 0.95
# Of a bootstrap.
ROUNDS = 1000


@dataclass(frozen=True)
class Estimate:
    """A mean and how far it is known.

    Attributes:
        n: values, or pairs of values, that it is a mean of; of two groups that do not pair, those of the smaller.
        mean: of them.
        low: lower end of the interval that holds the true mean with a probability of `CONFIDENCE`, by Student's t;
            minus infinity of one value.
        high: upper end, likewise.
        p: of a difference, the probability of one at least as large where the true one is zero (two-sided t-test); None
            of one value, and of what is no difference.
        paired: whether it is a mean of differences within seeds.
        freedom: degrees of freedom of the interval; None of one value.
    """

    n: int
    mean: float
    low: float
    high: float
    p: float | None = None
    paired: bool = False
    freedom: float | None = None

    def p_at(self, bound: float) -> float | None:
        """Return the probability of a mean at least as far from ``bound`` where the true one is there (two-sided t-test).

        It is below 1 less `CONFIDENCE` where the interval does not hold the bound. None of one value.
        """
        if self.freedom is None:
            return None
        return _two_sided(self.mean - bound, self.half_width / _quantile(self.freedom), self.freedom)

    @property
    def half_width(self) -> float:
        """Half the width of the interval."""
        return (self.high - self.low) / 2


def estimate(values: Sequence[float]) -> Estimate:
    """Return the mean of independent values with its interval.

    Raises:
        ValueError: there are none.

    Example:
        >>> from involution.studies.statistics import estimate
        >>> e = estimate([1.0, 2.0, 3.0])
        >>> e.n, e.mean, round(e.low, 2), round(e.high, 2)
        (3, 2.0, -0.48, 4.48)
    """
    if not values:
        raise ValueError("a mean needs at least one value")
    n, middle = len(values), mean(values)
    if n == 1:
        return Estimate(1, middle, -math.inf, math.inf)
    half = _quantile(n - 1) * stdev(values) / math.sqrt(n)
    return Estimate(n, middle, middle - half, middle + half, freedom=n - 1)


def difference(of: Mapping[int, float], than: Mapping[int, float], *, pairs: bool = True) -> Estimate:
    """Return the mean of ``of`` less that of ``than``.

    Where two seeds or more are in both, or the only one of a side, it is the mean of the differences within these seeds (a
    paired t-test): nets of one seed see the same images in the same order. Else the groups are independent (Welch's t-test).

    Args:
        of: values by seed.
        than: values by seed.
        pairs: whether trainings of one seed have more in common than their number.

    Raises:
        ValueError: one of them is empty.
    """
    common = sorted(of.keys() & than.keys()) if pairs else []
    if len(common) > 1 or (common and min(len(of), len(than)) == 1):
        paired = [of[seed] - than[seed] for seed in common]
        found = estimate(paired)
        p = None if found.n == 1 else _two_sided(found.mean, stdev(paired) / math.sqrt(found.n), found.n - 1)
        return replace(found, p=p, paired=True)
    a, b = list(of.values()), list(than.values())
    if not a or not b:
        raise ValueError("a difference needs at least one value on both sides")
    n, middle = min(len(a), len(b)), mean(a) - mean(b)
    if n == 1:
        return Estimate(1, middle, -math.inf, math.inf)
    parts = variance(a) / len(a), variance(b) / len(b)
    error = math.sqrt(sum(parts))
    if error == 0:
        return Estimate(n, middle, middle, middle, _two_sided(middle, 0.0, n - 1), freedom=n - 1)
    freedom = error**4 / (parts[0] ** 2 / (len(a) - 1) + parts[1] ** 2 / (len(b) - 1))
    half = _quantile(freedom) * error
    return Estimate(n, middle, middle - half, middle + half, _two_sided(middle, error, freedom), freedom=freedom)


def holm(probabilities: Sequence[float]) -> list[bool]:
    """Return which of several tests decide when the probability that any of them errs is held at 1 less `CONFIDENCE`.

    Holm's method: the least probability is compared with that over the number of tests, the next with that over one test
    fewer, and so on to the first that is not below it.

    Args:
        probabilities: of every test, in any order.

    Example:
        >>> from involution.studies.statistics import holm
        >>> holm([0.04, 0.001, 0.03])
        [False, True, False]
    """
    decided = [False] * len(probabilities)
    for rank, index in enumerate(sorted(range(len(probabilities)), key=probabilities.__getitem__)):
        if probabilities[index] >= (1 - CONFIDENCE) / (len(probabilities) - rank):
            break
        decided[index] = True
    return decided


def bootstrap(blocks: Sequence[Any], statistic: Callable[[Sequence[Any]], float]) -> tuple[float, float]:
    """Return the ends of a statistic's interval: of `ROUNDS` draws, with replacement, of as many blocks as there are.

    Args:
        blocks: what is independent of each other.
        statistic: of blocks.
    """
    generator = Random(0)
    return interval_of([statistic(generator.choices(blocks, k=len(blocks))) for _ in range(ROUNDS)])


def interval_of(drawn: Sequence[float]) -> tuple[float, float]:
    """Return the ends between which the share `CONFIDENCE` of what was drawn lies, as much of it below as above."""
    ordered, tail = sorted(drawn), round((1 - CONFIDENCE) / 2 * len(drawn))
    return ordered[tail], ordered[-1 - tail]


def _quantile(freedom: float) -> float:
    from scipy.stats import t

    return float(t.ppf((1 + CONFIDENCE) / 2, freedom))


def _two_sided(middle: float, error: float, freedom: float) -> float:
    from scipy.stats import t

    if error == 0:
        return 1.0 if middle == 0 else 0.0
    return float(2 * t.sf(abs(middle) / error, freedom))
