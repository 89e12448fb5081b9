"""The claims of docs/reproduction.md in one picture: what was measured, its interval, the bound, the verdict."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from involution.pictures.plots import LIGHT, new_figure, style_axes
from involution.studies.claims import Judged
from involution.studies.statistics import holm

COLOURS = {"supported": "#2b8a3e", "refuted": "#c92a2a", "undecided": LIGHT.muted}
ROW_INCHES = 0.46
# Differences of a tenth and of forty points in one picture: straight up to a point either side, logarithmic beyond.
TICKS = (-30, -10, -3, -1, 0, 1, 3, 10, 30)


def verdict_of(one: Judged) -> str:
    """Return the verdict without its n."""
    return one.verdict.partition(" at ")[0]


def shown(judged: Sequence[Judged]) -> list[Judged]:
    """Return the claims that have an interval, by verdict."""
    order = list(COLOURS)
    drawn = [one for one in judged if one.found is not None and one.found.n > 1]
    return sorted(drawn, key=lambda one: order.index(verdict_of(one)))


def counts(judged: Sequence[Judged]) -> str:
    """Return in a sentence how many claims are supported, refuted and undecided."""
    verdicts = [verdict_of(one) for one in judged]
    of_one = sum(one.found is not None and one.found.n == 1 for one in judged)
    return (
        f"Of {len(judged)} claims, some of them the same on other data, {verdicts.count('supported')} are supported, "
        f"{verdicts.count('refuted')} refuted and {verdicts.count('undecided')} undecided, {of_one} of those for want of a "
        f"second seed; {verdicts.count('not measured')} are not measured. {_together(judged)}"
    )


def _together(judged: Sequence[Judged]) -> str:
    """Return in a sentence which verdicts stand when all tests are taken together."""
    tested = [(one, one.p) for one in judged if one.p is not None]
    stand = [one for (one, _), decided in zip(tested, holm([p for _, p in tested]), strict=True) if decided]
    verdicts = [verdict_of(one) for one in stand]
    return (
        f"Where all {len(tested)} tests together may err with 5 % (Holm), {verdicts.count('supported')} stay supported and "
        f"{verdicts.count('refuted')} refuted."
    )


def draw(judged: Sequence[Judged]) -> Any:
    """Draw every claim that has an interval as a line of its own."""
    claims = shown(judged)
    figure = new_figure(11, 1.1 + ROW_INCHES * len(claims))
    axes = figure.subplots()
    style_axes(axes, grid="x")
    axes.axvline(0, color=LIGHT.ink, linewidth=0.8)
    labels = []
    for y, one in enumerate(claims):
        found, claim, colour = one.found, one.claim, COLOURS[verdict_of(one)]
        assert found is not None
        if claim.within is not None:
            axes.fill_betweenx([y - 0.35, y + 0.35], -claim.within, claim.within, color=LIGHT.grid)
        elif claim.by:
            axes.plot([claim.by] * 2, [y - 0.35, y + 0.35], color=LIGHT.ink, linewidth=1.4)
        axes.plot([found.low, found.high], [y, y], color=colour, linewidth=2.4, solid_capstyle="round")
        axes.plot(found.mean, y, "o", color=colour, markersize=6)
        axes.annotate(
            one.verdict, (1.01, y), xycoords=axes.get_yaxis_transform(), va="center", color=colour, fontsize=8.5
        )
        labels.append(textwrap.fill(claim.statement, 88, max_lines=3, placeholder=" …"))
    axes.set_xscale("symlog", linthresh=1, linscale=0.7)
    axes.set_xticks(TICKS, [f"{tick:+d}" if tick else "0" for tick in TICKS])
    axes.set_xticks([], minor=True)
    axes.set_yticks(range(len(claims)), labels, fontsize=7.5, color=LIGHT.ink)
    axes.set_ylim(len(claims) - 0.4, -0.6)
    axes.set_xlabel(
        "measured difference with its 95 % interval, in points (receptive fields: pixels); "
        "a bar is the bound of the claim, a band what counts as equal",
        color=LIGHT.muted,
        fontsize=8.5,
        loc="right",
    )
    figure.tight_layout()
    return figure
