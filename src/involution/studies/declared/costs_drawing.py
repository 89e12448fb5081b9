"""The picture of what nets reach at what cost: a curve for every family, as in the paper's figures of envelopes."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from ...pictures.plots import LIGHT, new_figure, style_axes
from ..claims import metric_in_words, values_of
from ..statistics import Estimate, estimate

__all__ = ["draw", "drawn_costs"]

_COSTS = {"macs": "multiply-adds, M (logarithmic)", "params": "parameters, M (logarithmic)"}
_LETTERS = 100
_COLOURS = (LIGHT.involution, LIGHT.convolution, "#2a9d8f", "#9d6bb3", "#8d6e63")


def drawn_costs(record: Mapping[str, Any]) -> list[str]:
    """Return the costs over which the curves of a study's record can be drawn: those that all their nets have.

    Args:
        record: see `involution.studies.declared.outcome.payload`.
    """
    points = [point for sides in record.get("curves", {}).values() for point in _points(record, sides)]
    return [cost for cost in _COSTS if points and all(row.get(cost) for row, _ in points)]


def draw(record: Mapping[str, Any]) -> Any:
    """Return a figure of the curves of a study's record, a panel for each of the `drawn_costs`, of which there is one at least.

    A point is the mean of a net's seeds, a bar its 95 % interval.

    Args:
        record: see `involution.studies.declared.outcome.payload`.
    """
    costs = drawn_costs(record)
    curves = {name: _points(record, sides) for name, sides in record["curves"].items()}
    places = [row for curve in curves.values() for row, _ in curve]
    figure = new_figure(4.6 * len(costs) + 0.4, 4.2)
    figure.set_layout_engine("constrained")
    figure.suptitle(textwrap.fill(record["title"], _LETTERS), x=0.01, ha="left", fontsize=11, color=LIGHT.ink)
    for axes, cost in zip(figure.subplots(1, len(costs), squeeze=False, sharey=True)[0], costs):
        style_axes(axes, grid="both")
        axes.set_xscale("log")
        for number, (name, curve) in enumerate(curves.items()):
            _draw_curve(axes, name, curve, cost, _COLOURS[number % len(_COLOURS)])
        ticks = sorted({row[cost] / 1e6 for row in places})
        axes.set_xticks(ticks, [f"{tick:.2g}" for tick in ticks], rotation=45)
        axes.minorticks_off()
        axes.set_xlabel(_COSTS[cost], fontsize=9, color=LIGHT.muted)
        axes.legend(frameon=False, loc="lower right", fontsize=9, labelcolor=LIGHT.ink)
    figure.axes[0].set_ylabel(metric_in_words(record["metric"]), fontsize=9, color=LIGHT.muted)
    return figure


def _points(record: Mapping[str, Any], sides: list[str]) -> list[tuple[Mapping[str, Any], Estimate]]:
    """Return a result of every net of a curve that has one, and the estimate over all its seeds."""
    found = []
    for side in sides:
        values = list(values_of(record["results"], side, record["metric"]).values())
        if values:
            net, _, data = side.partition("/")
            row = next(row for row in record["results"] if row["net"] == net and data in ("", row.get("data", "")))
            found.append((row, estimate(values)))
    return found


def _draw_curve(axes: Any, name: str, curve: list[tuple[Mapping[str, Any], Estimate]], cost: str, colour: str) -> None:
    x = [row[cost] / 1e6 for row, _ in curve]
    axes.plot(x, [found.mean for _, found in curve], "o-", color=colour, linewidth=2, markersize=6, label=name)
    for place, (_, found) in zip(x, curve):
        if found.n > 1:
            axes.plot([place, place], [found.low, found.high], color=colour, linewidth=1.2, alpha=0.6)
