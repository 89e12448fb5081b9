"""Intervals by drawing anew, and Welch's test against SciPy's."""

from statistics import mean

import pytest
from scipy import stats

from involution.studies.statistics import ROUNDS, bootstrap, difference, interval_of


def test_the_ends_of_an_interval_leave_out_as_much_below_as_above():
    assert interval_of(list(range(1000))) == (25, 974)
    assert interval_of([(7 * i) % 1000 for i in range(1000)]) == (25, 974), "in any order"
    assert interval_of([3.0]) == (3.0, 3.0)


def test_a_bootstrap_draws_as_many_blocks_as_there_are_with_replacement():
    blocks, drawn = [float(i) for i in range(25)], []

    def statistic(sample):
        drawn.append(sample)
        return mean(sample)

    low, high = bootstrap(blocks, statistic)
    assert len(drawn) == ROUNDS and {len(sample) for sample in drawn} == {25}
    assert all(set(sample) <= set(blocks) for sample in drawn) and min(len(set(sample)) for sample in drawn) < 20
    # The mean of 25 is known to its standard error of 1.44.
    assert low == pytest.approx(12 - 1.96 * 1.442, abs=0.3) and high == pytest.approx(12 + 1.96 * 1.442, abs=0.3)
    assert bootstrap(blocks, mean) == (low, high), "the same again"


def test_groups_of_different_spread_are_compared_as_scipy_does():
    a, b = [3.0, 7.0, 11.0, 0.0, 7.0, 0.0, 4.0, 5.0, 6.0, 2.0], [-1.0, 10.0, 3.0, 5.0, 2.0]
    found = difference(dict(enumerate(a)), {i + 100: v for i, v in enumerate(b)})
    expected = stats.ttest_ind(a, b, equal_var=False)
    interval = expected.confidence_interval(0.95)
    assert (found.p, found.low, found.high) == pytest.approx((expected.pvalue, interval.low, interval.high))


def test_groups_without_any_spread_differ_surely_or_not_at_all():
    same, other = {0: 5.0, 1: 5.0}, {2: 5.0, 3: 5.0}
    assert difference(same, other).p == 1.0
    apart = difference({0: 6.0, 1: 6.0}, other)
    assert (apart.p, apart.low, apart.mean, apart.high) == (0.0, 1.0, 1.0, 1.0)
    assert difference({0: 6.0, 1: 6.0}, same).p == 0.0 and difference(same, same).p == 1.0
