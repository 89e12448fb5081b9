"""The envelope figures: published accuracy on ImageNet against cost, as published and as counted here."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from ...files import write_atomically
from ...pictures.plots import png
from .complexity import measure, select
from .published import ENVELOPE

__all__ = ["draw_envelopes"]


class _Label(NamedTuple):
    """Where a curve's name stands: right (or left) of one of its points, shifted by typographic points."""

    point: int
    shift: tuple[float, float]
    alignment: str = "left"


# Colour, marker, and the label in either figure.
_STYLES = {
    "RedNet": ("#c1121f", "o", _Label(2, (-8, 30)), _Label(2, (-18, 20), "right")),
    "ResNet": ("#3d405b", "s", _Label(2, (20, -8)), _Label(2, (20, -8))),
    "LR-Net": ("#4c8c4a", "^", _Label(2, (-8, 8), "right"), _Label(2, (-8, 6), "right")),
    "Stand-Alone": ("#8d6e63", "v", _Label(0, (-8, -2), "right"), _Label(0, (-8, -2), "right")),
    "Stand-Alone (conv stem)": ("#c08a3e", "<", _Label(1, (6, -15)), _Label(2, (8, 9))),
    "SAN pairwise": ("#5e7ce2", "D", _Label(0, (-8, -4), "right"), _Label(0, (-8, -4), "right")),
    "SAN patchwise": ("#2a9d8f", "P", _Label(0, (-8, 2), "right"), _Label(2, (8, -5))),
    "Axial": ("#9d6bb3", "X", _Label(2, (0, 9), "right"), _Label(2, (8, 0))),
    "Axial (conv stem)": ("#c27bb0", "d", _Label(1, (78, 15)), _Label(0, (-6, 20), "center")),
}
_AXES = {
    "macs": ("flops_g", "multiply-adds by the paper's rule (10⁹, logarithmic)", (1.2, 13.5), (1.5, 2, 3, 4, 6, 8, 12)),
    "params": ("params_m", "parameters (10⁶, logarithmic)", (6, 70), (7, 10, 15, 20, 30, 40, 60)),
}
_COUNTS = {"macs": "paper_rule_g", "params": "params_m"}

# The rows of the cost tables that are the points of a curve, by what their names begin and end with. The curves without
# are not reproduced: LR-Net's and Axial-ResNet's nets are not public, nor is a stand-alone stem of attention built here.
COUNTED = {
    "RedNet": ("imagenet", "RedNet-", ", stem K=7"),
    "ResNet": ("imagenet", "ResNet-", ""),
    "Stand-Alone (conv stem)": ("relatives", "Stand-alone ResNet-", ""),
    "SAN pairwise": ("relatives", "SAN-", ", pairwise"),
    "SAN patchwise": ("relatives", "SAN-", ", patchwise"),
}


def draw_envelopes(folder: Path) -> list[Path]:
    """Draw top-1 accuracy against multiply-adds and against parameters, from `published.ENVELOPE` and our counts.

    Figures that were printed are filled points, those digitised from a drawing hollow ones; a cross is the cost counted
    here, at the published accuracy.

    Args:
        folder: made where it does not exist.

    Returns:
        The files written, ``envelope_macs.png`` and ``envelope_params.png``.

    Raises:
        ImportError: matplotlib is missing.
        OSError: the folder cannot be made or written to.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.patheffects import withStroke
    except ImportError as error:
        raise ImportError(
            'drawing the figures needs matplotlib; install it with: pip install "involution[train]"'
        ) from error
    folder.mkdir(parents=True, exist_ok=True)
    counted, paths = {name: _counted(*rows) for name, rows in COUNTED.items()}, []
    for number, (quantity, (attribute, title, limits, ticks)) in enumerate(_AXES.items()):
        figure = Figure(figsize=(8.4, 5.2), layout="constrained")
        axes = figure.add_subplot(xscale="log", xlim=limits, ylim=(73.2, 79.8))
        for name in ENVELOPE:
            _draw_family(axes, name, attribute, number)
        for name, records in counted.items():
            _draw_counts(axes, name, [record[_COUNTS[quantity]] for record in records])
        for label in axes.texts:
            # Some names cannot but cross a curve.
            label.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel(title)
        axes.set_ylabel("ImageNet top-1 accuracy (%)")
        axes.grid(color="#e8e8e8", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        legend = "filled: printed figures\nhollow: digitised from a drawing\n×: cost counted here, where reproduced"
        axes.text(0.99, 0.02, legend, transform=axes.transAxes, ha="right", color="#555555", fontsize=9)
        paths.append(folder / f"envelope_{quantity}.png")
        write_atomically(paths[-1], png(figure, dpi=130))
    return paths


def _counted(table: str, start: str, end: str) -> list[dict[str, Any]]:
    """Count the nets of the rows whose names begin and end so, from small to large."""
    rows = [row for _, row in select(table) if row.name.startswith(start) and row.name.endswith(end)]
    return [measure(table, row) for row in rows]


def _draw_counts(axes: Any, name: str, costs: list[float]) -> None:
    accuracies = [float(point.accuracy["top-1"]) for point in ENVELOPE[name].points]
    axes.scatter(
        costs, accuracies, marker="x", s=34, linewidths=1.4, color="#111111", zorder=4, label=f"{name}, counted"
    )


def _draw_family(axes: Any, name: str, attribute: str, number: int) -> None:
    colour, marker, *labels = _STYLES[name]
    family, main = ENVELOPE[name], name == "RedNet"
    x = [float(getattr(point, attribute)) for point in family.points]
    y = [float(point.accuracy["top-1"]) for point in family.points]
    axes.plot(
        x,
        y,
        color=colour,
        marker=marker,
        markersize=8 if main else 6,
        markerfacecolor="white" if family.digitised else colour,
        linewidth=2.8 if main else 1.3,
        zorder=3 if main else 2,
        label=name,
    )
    label: _Label = labels[number]
    text = {"textcoords": "offset points", "va": "center", "color": colour}
    axes.annotate(
        name.replace(" (", "\n("),
        (x[label.point], y[label.point]),
        xytext=label.shift,
        ha=label.alignment,
        fontsize=15 if main else 9,
        fontweight="bold" if main else "normal",
        **text,
    )
    for point_name, *point in zip(family.names, x, y):
        # Above left of the curve where it is the best one, below right elsewhere.
        shift, alignment = ((-5, 9), "right") if main else ((6, -8), "left")
        axes.annotate(point_name, point, xytext=shift, ha=alignment, fontsize=8, **text)
