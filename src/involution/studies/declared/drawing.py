"""The picture of a study: every seed, the means and their intervals, and beside them what was published."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from ...pictures.plots import LIGHT, new_figure, style_axes
from ..claims import metric_in_words, side_of, values_of
from ..statistics import estimate
from .declaration import Row
from .outcome import parts_of, with_interval

__all__ = ["draw"]

_WIDTH, _ROW_INCHES, _PANEL_INCHES = 8.4, 0.34, 0.75
# Letters that a line of the picture takes, and one of the panel of published figures.
_LETTERS, _LETTERS_BESIDE = 88, 28


def draw(record: Mapping[str, Any]) -> Any:
    """Return a figure with a panel for every table of a study's record and a line for every net, and for all its data.

    Small circles are seeds, a bar is the 95 % interval of their mean. Where every net of a table has a published figure, these
    stand beside it, on an axis of their own: they are of other data.

    Args:
        record: see `involution.studies.declared.outcome.payload`.
    """
    parts = parts_of(record)
    panels = [
        (title, [(Row(**row), part) for row in rows for part in parts]) for title, rows in record["tables"].items()
    ]
    heights = [_PANEL_INCHES + _ROW_INCHES * len(lines) for _, lines in panels]
    has_published = any(_is_published(lines) for _, lines in panels)
    figure = new_figure(_WIDTH, 0.6 + sum(heights))
    figure.set_layout_engine("constrained")
    figure.suptitle(textwrap.fill(record["title"], _LETTERS), x=0.01, ha="left", fontsize=11, color=LIGHT.ink)
    columns = 2 if has_published else 1
    grid = figure.subplots(len(panels), columns, squeeze=False, height_ratios=heights, width_ratios=[2.6, 1][:columns])
    for cells, (title, lines) in zip(grid, panels):
        _draw_seeds(cells[0], title, lines, record)
        for beside in cells[1:]:
            if _is_published(lines):
                _draw_published(beside, lines, record["published"])
            else:
                beside.set_axis_off()
    return figure


def _is_published(lines: Sequence[tuple[Row, str]]) -> bool:
    return all(row.published is not None for row, _ in lines)


def _draw_seeds(axes: Any, title: str, lines: Sequence[tuple[Row, str]], record: Mapping[str, Any]) -> None:
    _prepare(axes, len(lines))
    for y, (row, part) in enumerate(lines):
        values = list(values_of(record["results"], side_of(row.net, part), record["metric"]).values())
        if not values:
            continue
        found = estimate(values)
        axes.plot(values, [y] * len(values), "o", markersize=5, markerfacecolor="none", color=LIGHT.involution)
        if found.n > 1:
            axes.plot([found.low, found.high], [y, y], color=LIGHT.involution, linewidth=2, solid_capstyle="round")
            axes.plot(found.mean, y, "|", color=LIGHT.involution, markersize=12, markeredgewidth=2)
        words = with_interval(found) if found.n > 1 else f"{with_interval(found)}, one seed"
        axes.annotate(words, (1.01, y), xycoords=axes.get_yaxis_transform(), va="center", fontsize=8.5, color=LIGHT.ink)
    axes.set_yticks(range(len(lines)), [", ".join(filter(None, (row.label, part))) for row, part in lines])
    axes.tick_params(axis="y", labelcolor=LIGHT.ink)
    axes.set_title(title, loc="left", fontsize=10, color=LIGHT.ink)
    axes.set_xlabel(metric_in_words(record["metric"]), fontsize=9, color=LIGHT.muted)


def _draw_published(axes: Any, lines: Sequence[tuple[Row, str]], what: str) -> None:
    _prepare(axes, len(lines))
    axes.plot([row.published for row, _ in lines], range(len(lines)), "o", color=LIGHT.muted, markersize=5)
    axes.set_yticks([])
    axes.set_xlabel(textwrap.fill(f"published: {what}", _LETTERS_BESIDE), fontsize=9, color=LIGHT.muted)


def _prepare(axes: Any, lines: int) -> None:
    style_axes(axes, grid="x")
    axes.set_ylim(lines - 0.5, -0.5)
    axes.margins(x=0.08)
