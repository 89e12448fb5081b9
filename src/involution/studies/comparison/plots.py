"""Pictures of a comparison, drawn with matplotlib: learning curves, heat maps of kernel fields, and a summary."""

from __future__ import annotations

from statistics import mean
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...pictures.heatmaps import colours
from ...pictures.plots import LIGHT, Theme, new_figure, style_axes
from .kernel_pictures import kernel_pictures, rgb, shown_heat_maps, shown_kernels
from .results import Comparison, Samples, TableRow, headline, table

__all__ = ["curves", "heat_maps", "summary"]


def curves(comparison: Comparison, theme: Theme = LIGHT) -> Any:
    """Draw accuracy and loss by epoch, on test images (solid) and training images (dotted); return the figure."""
    figure = new_figure(9.6, 3.4, theme)
    accuracy, loss = figure.subplots(1, 2)
    _draw_curves(accuracy, comparison, "accuracy", theme)
    _draw_curves(loss, comparison, "loss", theme)
    accuracy.set_title("accuracy, %", loc="left", color=theme.ink, fontsize=10)
    loss.set_title("loss", loc="left", color=theme.ink, fontsize=10)
    figure.tight_layout(w_pad=2.5)
    return figure


def heat_maps(comparison: Comparison, theme: Theme = LIGHT) -> Any:
    """Draw some test images and the heat map of every group of every involution for them; return the figure."""
    samples = comparison.samples
    blocks = [("", torch.stack([rgb(image) for image in samples.images]).unsqueeze(1))]
    for number, maps in enumerate(samples.heat_maps.values(), 1):
        groups = maps.shape[1]
        blocks.append((f"{number}: {groups} group{'s' if groups > 1 else ''}", colours(maps)))
    tile, margin, space = 0.42, 0.3, 0.12
    width = 2 * margin + sum(space + tile * pictures.shape[1] for _, pictures in blocks)
    height = 2 * margin + 0.25 + tile * len(samples.labels)
    figure = new_figure(width, height, theme)
    left = margin
    for text, pictures in blocks:
        columns = pictures.shape[1]
        box = (left / width, margin / height, tile * columns / width, tile * len(samples.labels) / height)
        _picture(figure, box, _sheet(pictures))
        figure.text(left / width, 1 - margin / height, text, color=theme.muted, fontsize=8, va="center")
        left += tile * columns + space
    return figure


def _sheet(pictures: Tensor, side: int = 64, gap: int = 4) -> Tensor:
    """Lay out uint8 pictures (R, C, H, W, 3) in R rows and C columns of squares, white between them."""
    rows, columns = pictures.shape[:2]
    tiles = F.interpolate(pictures.flatten(0, 1).movedim(-1, 1).float(), side, mode="nearest-exact")
    tiles = F.pad(tiles, (0, gap, 0, gap), value=255).to(torch.uint8)
    return tiles.unflatten(0, (rows, columns)).permute(0, 3, 1, 4, 2).reshape(rows * (side + gap), -1, 3)


def summary(comparison: Comparison, theme: Theme = LIGHT) -> Any:
    """Draw figures, learning curves, and learned kernels on sample images, in one picture; return the figure."""
    figure = new_figure(12, 8.3, theme)
    _draw_heading(figure, comparison, theme)
    figure.text(0.035, 0.897, headline(comparison), color=theme.muted, fontsize=11.5, va="center")
    _draw_bars(figure, comparison, theme, left=0.035, right=0.515, top=0.835, bottom=0.46)
    axes = figure.add_axes((0.585, 0.49, 0.38, 0.32))
    axes.set_title("accuracy on test images, %", loc="left", color=theme.ink, fontsize=11, pad=10)
    _draw_curves(axes, comparison, "accuracy", theme, training=False)
    _draw_kernels(figure, comparison.samples, theme, left=0.035, right=0.965, top=0.375)
    return figure


def _draw_heading(figure: Any, comparison: Comparison, theme: Theme) -> None:
    """Write the title, in which the names of the operators have the colours of their curves and bars."""
    from matplotlib.offsetbox import AnchoredOffsetbox, HPacker, TextArea

    words = (
        ("Convolution", theme.convolution),
        ("and", theme.ink),
        ("involution", theme.involution),
        (f"on {comparison.title}", theme.ink),
    )
    areas: list[Any] = [TextArea(w, textprops={"color": c, "fontsize": 21, "fontweight": "bold"}) for w, c in words]
    line = HPacker(children=areas, pad=0, sep=9, align="baseline")
    place: dict[str, Any] = {"bbox_to_anchor": (0.035, 0.945), "bbox_transform": figure.transFigure}
    figure.add_artist(AnchoredOffsetbox("center left", child=line, frameon=False, pad=0, borderpad=0, **place))


def _draw_bars(
    figure: Any, comparison: Comparison, theme: Theme, *, left: float, right: float, top: float, bottom: float
) -> None:
    """Draw the table's main lines, a bar for each net."""
    rows = [row for row in table(comparison) if not row.detail]
    height = (top - bottom) / len(rows)
    for index, row in enumerate(rows):
        y = top - index * height
        figure.text(left, y - 0.016, row.label, color=theme.ink, fontsize=11.5, va="center")
        for line, operator in enumerate(comparison.layers):
            _draw_bar(figure, row, operator, theme, left + 0.13, right, y - 0.005 - 0.031 * (line - 0.15))


def _draw_bar(figure: Any, row: TableRow, operator: str, theme: Theme, left: float, right: float, y: float) -> None:
    from matplotlib.patches import FancyBboxPatch

    width = (right - left - 0.115) * row.values[operator] / max(max(row.values.values()), 1e-12)
    height = 0.017
    figure.add_artist(
        FancyBboxPatch(
            (left, y - height / 2),
            max(width, 0.002),
            height,
            boxstyle="round,pad=0,rounding_size=0.003",
            facecolor=theme.of(operator),
            edgecolor="none",
            mutation_aspect=figure.get_figwidth() / figure.get_figheight(),
        )
    )
    text = {"color": theme.of(operator), "fontsize": 10.5, "va": "center", "fontweight": "bold"}
    figure.text(left + width + 0.009, y - 0.001, row.texts[operator], **text)


def _draw_curves(axes: Any, comparison: Comparison, key: str, theme: Theme, training: bool = True) -> None:
    """Draw the curves of every net; of several seeds each faintly, and their mean."""
    from matplotlib.ticker import MaxNLocator

    style_axes(axes, theme)
    last = max(len(result.history) for result in comparison.results)
    factor = 100 if key == "accuracy" else 1
    shown: list[list[float]] = []
    for operator in comparison.layers:
        results, colour = comparison.of(operator), theme.of(operator)
        epochs = [row["epoch"] for row in results[0].history]
        for part, width, style in (("train", 1.2, (0, (1, 1.6))), ("test", 2.2, "solid")):
            if part == "train" and not training:
                continue
            runs = [[factor * row[f"{part}_{key}"] for row in result.history] for result in results]
            if len(runs) > 1 and part == "test":
                for run in runs:
                    axes.plot(epochs, run, color=colour, linewidth=0.8, alpha=0.3)
            average = [mean(values) for values in zip(*runs)]
            axes.plot(epochs, average, color=colour, linewidth=width, linestyle=style, solid_capstyle="round")
            if part == "test":
                axes.plot(epochs[-1:], average[-1:], color=colour, marker="o", markersize=5)
                shown.append(average[len(average) // 8 :])
        axes.plot([], [], color=colour, linewidth=2.2, label=operator)
    if training:
        axes.plot([], [], color=theme.muted, linewidth=1.2, linestyle=(0, (1, 1.6)), label="on training images")
    if key == "accuracy":
        # The first epochs climb from chance; what matters is how the nets differ afterwards.
        axes.set_ylim(max(0, min(map(min, shown)) - 4), min(100.6, max(map(max, shown)) + 4))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    axes.set_xlim(1 - 0.04 * (last - 1) - 0.5 * (last == 1), last + 0.04 * (last - 1) + 0.5 * (last == 1))
    axes.set_xlabel("epoch", color=theme.muted, fontsize=9)
    axes.legend(
        frameon=False, labelcolor=theme.ink, fontsize=9.5, loc="lower right" if key == "accuracy" else "upper right"
    )


def _draw_kernels(figure: Any, samples: Samples, theme: Theme, *, left: float, right: float, top: float) -> None:
    """Draw one image and the kernels that its pixels make, large, and all images with their heat maps."""
    kernels, maps = shown_kernels(samples), shown_heat_maps(samples)
    aspect = figure.get_figwidth() / figure.get_figheight()
    text = {"va": "center", "color": theme.ink}
    figure.text(left, top, "Every pixel makes its own kernel", fontsize=13.5, fontweight="bold", **text)
    shown = len(samples.labels) // 3
    side = 0.17
    bottom = top - 0.035 - side * aspect
    _picture(figure, (left, bottom, side, side * aspect), rgb(samples.images[shown]))
    _picture(figure, (left + side + 0.018, bottom, side, side * aspect), kernel_pictures(kernels, 10, 4)[shown])
    size, grid = ("×".join(map(str, shape)) for shape in (kernels.shape[1:3], kernels.shape[-2:]))
    caption = {"fontsize": 9.5, "color": theme.muted, "va": "top"}
    figure.text(left, bottom - 0.014, "a test image", **caption)
    figure.text(left + side + 0.018, bottom - 0.014, f"its {grid} kernels of {size} weights", **caption)
    others = [i for i in range(len(samples.labels)) if i != shown]
    columns = min(6, len(others))
    start = left + 2 * side + 0.058
    cell = (right - start) / columns
    tile = min(cell - 0.011, (side - 0.011) / 2)
    for column in range(columns):
        index = others[round(column * (len(others) - 1) / max(columns - 1, 1))]
        x = right - tile - (columns - 1 - column) * cell
        _picture(figure, (x, bottom + (side - tile) * aspect, tile, tile * aspect), rgb(samples.images[index]))
        _picture(figure, (x, bottom, tile, tile * aspect), colours(maps[index]))
    x = right - tile - (columns - 1) * cell
    figure.text(
        x,
        bottom - 0.014,
        "test images and their heat maps: the sum of every pixel's kernel, in the first involution",
        **caption,
    )


def _picture(figure: Any, box: tuple[float, float, float, float], pixels: Tensor) -> None:
    axes = figure.add_axes(box)
    axes.imshow(pixels.numpy(), interpolation="nearest", aspect="auto")
    axes.set_axis_off()
