"""The picture of the latency table: a panel for a dtype and a batch, a group of bars for an engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...pictures.plots import LIGHT, new_figure, style_axes
from .engines import ENGINES
from .results import Row

__all__ = ["picture"]

# The control is grey; the nets before it have these colours in turn.
_COLOURS = (LIGHT.involution, LIGHT.convolution, "#2b8a3e", "#9c36b5", "#e67700")


def picture(rows: Sequence[Row], models: Sequence[str]) -> Any:
    """Return a figure of medians, with a line up to the 90th percentile; what was not measured has its place and no bar.

    Args:
        rows: of the table.
        models: in the order of the bars, the control last.
    """
    panels = list(dict.fromkeys((row.dtype, row.batch) for row in rows))
    engines = [name for name in ENGINES if any(row.engine == name for row in rows)]
    height = 0.9 + max(1, len(panels)) * (0.9 + 0.22 * len(engines) * (len(models) + 1))
    figure = new_figure(8.4, height)
    figure.set_layout_engine("constrained")
    for axes, (dtype, batch) in zip(figure.subplots(max(1, len(panels)), squeeze=False)[:, 0], panels):
        style_axes(axes, grid="x")
        of_panel = [row for row in rows if (row.dtype, row.batch) == (dtype, batch)]
        for number, model in enumerate(models):
            bars = [row for row in of_panel if row.model == model and row.median_ms is not None]
            _draw(axes, bars, model, number, models, engines)
        axes.set_yticks(range(len(engines)), [ENGINES[name].title for name in engines])
        axes.set_ylim(len(engines) - 0.5, -0.5)
        axes.set_xlim(left=0)
        axes.set_title(f"{dtype}, batch {batch}", loc="left", fontsize=11, color=LIGHT.ink)
        axes.set_xlabel("milliseconds, median and 90th percentile", fontsize=9, color=LIGHT.muted)
        if axes.containers:
            axes.legend(frameon=False, fontsize=9, loc="best")
    return figure


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
