"""The picture of the latency table: a panel for every dtype and batch, a group of bars for every engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...pictures.plots import LIGHT, new_figure, style_axes
from .engines import ENGINES
from .results import Row

__all__ = ["picture"]

# The control is grey; the nets before it have these colours in turn.
_COLOURS = (LIGHT.involution, LIGHT.convolution, "#2b8a3e", "#9c36b5", "#e67700")

_PANEL_INCHES, _BAR_INCHES, _LABELS_INCHES, _PLOT_INCHES = 0.9, 0.15, 2.2, 4.4


def picture(rows: Sequence[Row], models: Sequence[str]) -> Any:
    """Return a figure of medians, with a line up to the 90th percentile.

    A row of panels for every dtype and a column for every batch. An engine stands in the rows of the dtypes that something was
    measured in; what was not, has its place there and no bar.

    Args:
        rows: of the table.
        models: in the order of the bars, the control last.
    """
    dtypes, batches = list(dict.fromkeys(row.dtype for row in rows)), sorted({row.batch for row in rows})
    measured = [row for row in rows if row.median_ms is not None]
    found = {(row.engine, row.dtype) for row in measured}
    engines = {dtype: [name for name in ENGINES if (name, dtype) in found] for dtype in dtypes}
    heights = [_PANEL_INCHES + _BAR_INCHES * len(engines[dtype]) * (len(models) + 1) for dtype in dtypes] or [1.0]
    figure = new_figure(_LABELS_INCHES + _PLOT_INCHES * max(1, len(batches)), sum(heights))
    figure.set_layout_engine("constrained")
    grid = figure.subplots(len(heights), max(1, len(batches)), squeeze=False, height_ratios=heights)
    for line, dtype in zip(grid, dtypes):
        for axes, batch in zip(line, batches):
            shown = [row for row in measured if (row.dtype, row.batch) == (dtype, batch)]
            _draw_panel(axes, shown, models, engines[dtype], f"{dtype}, batch {batch}")
        for axes in line[1:]:
            axes.set_yticklabels([])
    return figure


def _draw_panel(axes: Any, rows: Sequence[Row], models: Sequence[str], engines: Sequence[str], title: str) -> None:
    style_axes(axes, grid="x")
    for number, model in enumerate(models):
        _draw(axes, [row for row in rows if row.model == model], model, number, models, engines)
    axes.set_yticks(range(len(engines)), [ENGINES[name].title for name in engines])
    axes.set_ylim(len(engines) - 0.5, -0.5)
    # For the figures behind the bars.
    axes.margins(x=0.14)
    axes.set_xlim(left=0)
    axes.set_title(title, loc="left", fontsize=11, color=LIGHT.ink)
    axes.set_xlabel("milliseconds, median and 90th percentile", fontsize=9, color=LIGHT.muted)
    if axes.containers:
        axes.legend(frameon=False, fontsize=9, loc="best")


def _draw(
    axes: Any, rows: Sequence[Row], model: str, number: int, models: Sequence[str], engines: Sequence[str]
) -> None:
    if not rows:
        return
    thickness = 0.8 / len(models)
    is_control = number == len(models) - 1 and number > 0
    colour = LIGHT.muted if is_control else _COLOURS[number % len(_COLOURS)]
    places = [engines.index(row.engine) + (number - (len(models) - 1) / 2) * thickness for row in rows]
    medians = [row.median_ms or 0.0 for row in rows]
    beyond = [max(0.0, (row.p90_ms or 0.0) - m) for row, m in zip(rows, medians)]
    axes.barh(places, medians, 0.9 * thickness, color=colour, label=model)
    axes.errorbar(medians, places, xerr=[[0.0] * len(rows), beyond], fmt="none", ecolor=LIGHT.ink, elinewidth=1)
    for place, value, more in zip(places, medians, beyond):
        axes.annotate(
            f"{value:.1f}",
            (value + more, place),
            (4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=LIGHT.ink,
        )
