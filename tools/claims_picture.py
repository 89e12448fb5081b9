"""The claims of docs/reproduction.md in one picture: what was measured, its interval, the bound, the verdict."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from involution.pictures.plots import LIGHT, new_figure, style_axes
from involution.studies.claims import Judged
from involution.studies.statistics import holm

COLOURS = {"supported": "#2b8a3e", "refuted": "#c92a2a", "undecided": LIGHT.muted}
WIDTH, LINE_INCHES, LINES_BELOW = 11, 0.145, 6
# In lines: above the words of a claim, and above the note of another of the same words.
GAP, SMALL_GAP = 1.2, 0.4
# Letters that a line holds to the left of the axes, whose edges are shares of the width.
COLUMNS, LEFT, RIGHT = 84, 0.46, 0.83
# Differences of a tenth and of forty points in one picture: straight up to a point either side, logarithmic beyond.
TICKS = (-30, -10, -3, -1, 0, 1, 3, 10, 30)
# Behind a verdict of `standing`.
HOLM = " (Holm)"


def verdict_of(one: Judged) -> str:
    """Return the verdict without its n."""
    return one.verdict.partition(" at ")[0]


def shown(judged: Sequence[Judged]) -> list[Judged]:
    """Return the claims that have an interval, by verdict; within one, those of the same words beside each other."""
    order = list(COLOURS)
    drawn = [one for one in judged if one.found is not None and one.found.n > 1]
    words = [one.claim.words for one in drawn]
    return sorted(drawn, key=lambda one: (order.index(verdict_of(one)), words.index(one.claim.words)))


def counts(judged: Sequence[Judged]) -> str:
    """Return in a sentence how many claims are supported, refuted and undecided."""
    verdicts = [verdict_of(one) for one in judged]
    of_one = sum(one.found is not None and one.found.n == 1 for one in judged)
    return (
        f"Of {len(judged)} claims, some of them the same on other data, what was measured supports "
        f"{verdicts.count('supported')}, refutes {verdicts.count('refuted')} and leaves {verdicts.count('undecided')} undecided, "
        f"{of_one} of those for want of a second seed; not measured: {verdicts.count('not measured')}. {_together(judged)}"
    )


def standing(judged: Sequence[Judged]) -> list[Judged]:
    """Return the claims that are decided where all tests are taken together (Holm)."""
    tested = [(one, one.p) for one in judged if one.p is not None]
    return [one for (one, _), decided in zip(tested, holm([p for _, p in tested]), strict=True) if decided]


def _together(judged: Sequence[Judged]) -> str:
    """Return in a sentence which verdicts stand when all tests are taken together."""
    tested = sum(one.p is not None for one in judged)
    verdicts = [verdict_of(one) for one in standing(judged)]
    return (
        f"Where all {tested} tests together may err with 5 % (Holm), {verdicts.count('supported')} stay supported and "
        f"{verdicts.count('refuted')} refuted, which is said behind them."
    )


def draw(judged: Sequence[Judged]) -> Any:
    """Draw every claim that has an interval as a line of its own, its words once above the claims that share them."""
    claims = shown(judged)
    labels = [_label(one, above) for one, above in zip(claims, [None, *claims], strict=False)]
    heights = [len(words) + len(notes) + (GAP if words else SMALL_GAP) for words, notes in labels]
    lines = sum(heights) + LINES_BELOW
    figure = new_figure(WIDTH, LINE_INCHES * lines)
    axes = figure.add_axes((LEFT, (LINES_BELOW - 1) / lines, RIGHT - LEFT, 1 - LINES_BELOW / lines))
    style_axes(axes, grid="x")
    axes.axvline(0, color=LIGHT.ink, linewidth=0.8)
    bottom, stand = 0.0, standing(judged)
    for one, (words, notes), height in zip(claims, labels, heights, strict=True):
        bottom += height
        _write(axes, words, bottom - len(notes), LIGHT.ink)
        _write(axes, notes, bottom, LIGHT.muted)
        y = bottom - len(notes or words) / 2
        _measured(axes, one, y)
        verdict, colour = f"{one.verdict}{HOLM if one in stand else ''}", COLOURS[verdict_of(one)]
        axes.annotate(verdict, (1.02, y), xycoords=axes.get_yaxis_transform(), va="center", color=colour, fontsize=8.5)
    axes.set_xscale("symlog", linthresh=1, linscale=0.7)
    axes.set_xticks(TICKS, [f"{tick:+d}" if tick else "0" for tick in TICKS])
    axes.set_xticks([], minor=True)
    axes.set_yticks([])
    axes.set_ylim(bottom + 1, 0)
    axes.set_xlabel(
        "measured difference with its 95 % interval, in points (receptive fields: pixels); "
        "a bar is the bound of the claim, a band what counts as equal,\n"
        "a thin line the interval of the seeds that decide, where others were known when the claim was written; "
        "Holm: decided with all tests taken together",
        color=LIGHT.muted,
        fontsize=8.5,
        loc="right",
    )
    return figure


def _label(one: Judged, above: Judged | None) -> tuple[list[str], list[str]]:
    """Return the lines of a claim's words, none where those of the claim above are the same, and those of its note."""
    same = above is not None and (above.claim.words, verdict_of(above)) == (one.claim.words, verdict_of(one))
    note = one.claim.note or (one.claim.source if same else "")
    return [] if same else textwrap.wrap(one.claim.words, COLUMNS), textwrap.wrap(note, COLUMNS)


def _write(axes: Any, lines: list[str], bottom: float, colour: str) -> None:
    """Write lines to the left of the axes, the last one ending at ``bottom``."""
    for i, line in enumerate(reversed(lines)):
        at = (-LEFT / (RIGHT - LEFT) + 0.02, bottom - i - 0.5)
        axes.annotate(line, at, xycoords=axes.get_yaxis_transform(), va="center", color=colour, fontsize=8)


def _measured(axes: Any, one: Judged, y: float) -> None:
    """Draw what was measured of a claim, by its unseen seeds alone below it, and its bound."""
    found, claim, colour = one.found, one.claim, COLOURS[verdict_of(one)]
    assert found is not None
    if claim.within is not None:
        axes.fill_betweenx([y - 0.8, y + 0.8], -claim.within, claim.within, color=LIGHT.grid)
    elif claim.by:
        axes.plot([claim.by] * 2, [y - 0.8, y + 0.8], color=LIGHT.ink, linewidth=1.4)
    axes.plot([found.low, found.high], [y, y], color=colour, linewidth=2.4, solid_capstyle="round")
    axes.plot(found.mean, y, "o", color=colour, markersize=6)
    if one.tested is not None and one.tested is not found:
        axes.plot([one.tested.low, one.tested.high], [y + 0.6, y + 0.6], color=colour, linewidth=0.8)
