"""What somebody claims, and whether our values bear it out: a verdict is computed from an interval, never written."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from ..schema import find_problem, find_unknown
from .statistics import Estimate, difference, estimate

__all__ = ["LESS", "RULE", "Claim", "Judged", "judge", "metric_in_words", "side_of", "values_of", "verdict"]

RULE = (
    "A claim says that a difference of means (or a mean) is above a bound, zero where none is named. It is supported where "
    "the whole 95 % interval (Student's t; of differences within seeds where seeds pair, else Welch's) lies above the "
    "bound, refuted where it lies below, and otherwise undecided. A claim that something is about equal says within how "
    "much; it is supported where the interval lies inside, refuted where it lies outside. One value has no interval: "
    "undecided at n = 1. A study decides nothing before all its seeds are there: undecided at n = 2 of 3. Seeds whose results "
    "were known when a claim, or its bound, was chosen count in what was measured and not in its verdict: undecided at n = 1 "
    "unseen. A source's own claim, with zero for its bound, that stood in a study before its trainings has no such seeds, "
    "whatever earlier trainings of other nets or recipes had shown. Values that are all alike have no interval and decide nothing. Intervals are over seeds, on one set of test images. A test at "
    "95 % decides up to one in twenty of the claims whose true difference lies at the bound; so some of those decided err."
)
# What tables and pictures call the figures of the library's own commands.
_METRICS = {
    "val_accuracy": "accuracy (%)",
    "train_accuracy": "accuracy in training (%)",
    "test_accuracy": "accuracy on test images (%)",
    "test.map": "box AP on test images",
    "test.miou_percent": "mIoU on test images (%)",
    "val_map": "box AP on validation images",
    "val_miou": "mIoU on validation images (%)",
    "gap_points": "training less test accuracy (points)",
    "test_less_train_with_dropout_points": "test less training accuracy with dropout (points)",
    "test_less_train_without_dropout_points": "test less training accuracy without dropout (points)",
    "radius_px": "radius (pixels)",
    "reflect_percent": "same class, reflected borders (%)",
    "constant_percent": "same class, zeros at the border (%)",
}
# Between two sides whose difference is meant.
LESS = " less "
FORM = {
    "words": str,
    "source": str,
    "of": str,
    "than?": str,
    "metric?": (str, [str]),
    "than_metric?": (str, [str]),
    "by?": float,
    "within?": float,
    "paired?": bool,
    "seen?": [int],
    "note?": str,
}


@dataclass(frozen=True)
class Claim:
    """A claim and which values of a record speak to it.

    Attributes:
        words: of the source.
        source: who claims it, and where.
        of: the net, or ``NET/DATA``, whose values should be the larger; ``A less B`` is the difference of two within seeds.
        than: what it is compared with, likewise; None for a claim about the values themselves.
        metric: key of the values, or keys whose mean they are.
        than_metric: those of ``than``; empty for the same.
        by: the bound that the difference, or the mean, has to be above.
        within: instead, how far the difference may be from zero on either side.
        paired: whether trainings of one seed have more in common than their number, as those on other images have not.
        seen: seeds whose results were known when the claim was written; they decide nothing.
        note: what else has to be known to judge.
    """

    words: str
    source: str
    of: str
    than: str | None = None
    metric: tuple[str, ...] = ()
    than_metric: tuple[str, ...] = ()
    by: float = 0.0
    within: float | None = None
    paired: bool = True
    seen: tuple[int, ...] = ()
    note: str = ""

    @property
    def sides(self) -> str:
        """What is measured: its side, or both with "less" between them; of the same nets, their figures."""
        if self.than_metric and self.of == self.than:
            return f"{self.of}, {metric_in_words(self.metric)}{LESS}{metric_in_words(self.than_metric)}"
        both = [
            f"({side})" if LESS in side and self.than is not None else side for side in (self.of, self.than) if side
        ]
        return LESS.join(both)

    @property
    def statement(self) -> str:
        """Its words, and in brackets what else has to be known."""
        return f"{self.words} ({self.note})" if self.note else self.words

    @classmethod
    def read(cls, data: Any, metric: str | Iterable[str]) -> Claim:
        """Return a claim as a study's file or a record holds it.

        Args:
            data: a mapping with the attributes as keys.
            metric: where it names none.

        Raises:
            ValueError: it has not this form.
        """
        problem = find_problem(data, FORM) or find_unknown(data, FORM)
        if problem:
            raise ValueError(f"a claim is not of the form expected: {problem}")
        if len([key for key in ("by", "within") if key in data]) > 1:
            raise ValueError("a claim has by, a bound, or within, how far is about equal; leave one of them out")
        if data.get("within", 1) <= 0:
            raise ValueError(f"within must be above zero, got {data['within']}")
        if "than_metric" in data and "than" not in data:
            raise ValueError("than_metric is the figure of than; name that too, or leave it out")
        if any(str(data.get(side)).count(LESS) > 1 for side in ("of", "than")):
            raise ValueError(
                f"a side is one net or one difference, A{LESS}B, got {data['of']!r} and {data.get('than')!r}"
            )
        given = {"metric": metric, **data}
        for key in given.keys() & {"metric", "than_metric", "seen"}:
            given[key] = (given[key],) if isinstance(given[key], str) else tuple(given[key])
        return cls(**given)


@dataclass(frozen=True)
class Judged:
    """A claim with what our values say.

    Attributes:
        claim: the claim.
        found: the difference or mean; None where a value is missing altogether.
        verdict: see `verdict`.
        tested: what the verdict rests on: ``found``, or that of the seeds that were not seen; None where there is none.
    """

    claim: Claim
    found: Estimate | None
    verdict: str
    tested: Estimate | None

    @property
    def p(self) -> float | None:
        """Probability of what the verdict rests on where the truth is at the claim's bound; None where nothing is tested."""
        if self.tested is None:
            return None
        bounds = [self.claim.by] if self.claim.within is None else [-self.claim.within, self.claim.within]
        found = [p for p in map(self.tested.p_at, bounds) if p is not None]
        # About equal is what is inside both bounds, and not equal what is outside the nearer one: the larger in both cases.
        return max(found) if found else None


def metric_in_words(metric: Sequence[str]) -> str:
    """Return what a figure is called, its own name where it is none of the library's, or what the mean is of."""
    if len(metric) == 1:
        return _METRICS.get(metric[0], metric[0])
    return f"mean of {', '.join(name.rpartition('.')[2] for name in metric)}"


def verdict(found: Estimate | None, *, by: float = 0.0, within: float | None = None, asked: int | None = None) -> str:
    """Return ``"supported"``, ``"refuted"``, ``"undecided at n = …"`` or ``"not measured"``.

    Args:
        found: what was measured.
        by: bound of the claim.
        within: instead, how far from zero is about equal.
        asked: seeds that were declared before; who looks after every seed and stops at a verdict finds one sooner or later.

    Example:
        >>> from involution.studies.claims import verdict
        >>> from involution.studies.statistics import estimate
        >>> verdict(estimate([1.0, 1.2, 1.1])), verdict(estimate([1.0]))
        ('supported', 'undecided at n = 1')
    """
    if found is None:
        return "not measured"
    if asked is not None and found.n < asked:
        return f"undecided at n = {found.n} of {asked}"
    # Of values that are all alike, but for how numbers are rounded, it is not known how much others would vary.
    if found.n > 1 and not math.isclose(found.low, found.high, rel_tol=1e-9, abs_tol=1e-9):
        if within is None:
            above, below = found.low > by, found.high < by
        else:
            above = -within < found.low and found.high < within
            below = found.low > within or found.high < -within
        if above or below:
            return "supported" if above else "refuted"
    return f"undecided at n = {found.n}"


def side_of(net: str, data: str) -> str:
    """Return what `values_of` calls a net, or a net on some of the data."""
    return f"{net}/{data}" if data else net


def values_of(rows: Iterable[Mapping[str, Any]], side: str, metric: Iterable[str]) -> dict[int, float]:
    """Return the values of one side of a claim by seed.

    Args:
        rows: of a record: ``net``, ``data`` (perhaps), ``seed``, and ``values`` by name.
        side: see `Claim.of`.
        metric: names of the values; of several the mean. A row that lacks one of them has no value.

    Raises:
        ValueError: a seed has two values, because the side does not say on which data.
    """
    rows = list(rows)
    minuend, less, subtrahend = side.partition(LESS)
    if less:
        of, than = (values_of(rows, part, metric) for part in (minuend, subtrahend))
        return {seed: of[seed] - than[seed] for seed in sorted(of.keys() & than.keys())}
    net, _, data = side.partition("/")
    found: dict[int, float] = {}
    for row in rows:
        if row["net"] != net or (data and row.get("data", "") != data):
            continue
        values = [row["values"].get(name) for name in metric]
        if None not in values:
            if row["seed"] in found:
                raise ValueError(f"{side} has two values of seed {row['seed']}; say on which data, as {net}/DATA")
            found[int(row["seed"])] = mean(values)
    return found


def judge(record: Mapping[str, Any]) -> list[Judged]:
    """Judge every claim of a record.

    Args:
        record: with ``metric``, ``claims`` (see `Claim`), ``results``, the rows of `values_of`, and, where it is a study's,
            ``study``, what was declared.

    Raises:
        ValueError: a claim has not the form of `Claim`.
    """
    asked = len(record["study"]["seeds"]) if "study" in record else None
    return [_judged(Claim.read(data, record["metric"]), record["results"], asked) for data in record.get("claims", ())]


def _judged(claim: Claim, rows: Sequence[Mapping[str, Any]], asked: int | None) -> Judged:
    found = _found(claim, rows)
    decided = verdict(found, by=claim.by, within=claim.within, asked=asked)
    if found is None or (asked is not None and found.n < asked):
        return Judged(claim, found, decided, None)
    if not claim.seen:
        return Judged(claim, found, decided, found)
    unseen = _found(claim, [row for row in rows if row["seed"] not in claim.seen])
    if unseen is None:
        return Judged(claim, found, "undecided at n = 0 unseen", None)
    decided = verdict(unseen, by=claim.by, within=claim.within)
    return Judged(claim, found, f"{decided} unseen" if decided.startswith("undecided") else decided, unseen)


def _found(claim: Claim, rows: Sequence[Mapping[str, Any]]) -> Estimate | None:
    of = values_of(rows, claim.of, claim.metric)
    than = None if claim.than is None else values_of(rows, claim.than, claim.than_metric or claim.metric)
    if not of or than == {}:
        return None
    return estimate(list(of.values())) if than is None else difference(of, than, pairs=claim.paired)
