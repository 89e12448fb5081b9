"""One picture of what a net's involutions make of an image: a heat map per layer, and the kernels of a pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from .heatmaps import colours, enlarge, heat_map, overlay

__all__ = ["draw_layers", "one_per_resolution"]

# Kernels beside each other; a layer with more groups shows the first.
_KERNELS = 8


def one_per_resolution(fields: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the fields of the last layer of each map size, in their order."""
    last = {tuple(field.shape[-2:]): name for name, field in fields.items()}
    return {name: fields[name] for name in last.values()}


def draw_layers(image: Tensor, fields: Mapping[str, Tensor], pixel: Sequence[float] = (0.5, 0.5)) -> Any:
    """Draw a row for every layer: its heat map over the image, then the kernels of one pixel, a group each.

    Args:
        image: as the net sees it, uint8 ``(1, H, W)`` or ``(3, H, W)``.
        fields: kernel field ``(1, G, K, K, H', W')`` by the layer's name, as `kernel_fields` gives them.
        pixel: where the pixel is, in shares of height and width, from 0 to below 1.

    Returns:
        A ``matplotlib.figure.Figure``.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: ``pixel`` is not in the image, or there is no field.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    if not fields:
        raise ValueError("there is no layer to draw")
    if len(pixel) != 2 or not all(0 <= share < 1 for share in pixel):
        raise ValueError(f"the pixel must be two shares of height and width, from 0 to below 1, got {list(pixel)}")
    high, wide = 2.4 * len(fields), 2.4 + 0.95 * _KERNELS
    figure = Figure(figsize=(wide, high))
    grid = figure.add_gridspec(
        len(fields),
        1 + _KERNELS,
        width_ratios=[2.2, *[1] * _KERNELS],
        left=0.02,
        right=0.99,
        bottom=0.1 / high,
        top=1 - 0.35 / high,
        hspace=0.2,
        wspace=0.12,
    )
    for row, (name, field) in enumerate(fields.items()):
        groups, k_h, k_w, height, width = field.shape[1:]
        i, j = int(pixel[0] * height), int(pixel[1] * width)
        shown = enlarge(image, 320)
        axes = figure.add_subplot(grid[row, 0])
        axes.imshow(overlay(shown, heat_map(field)[0].mean(0)).numpy())
        rows, columns = shown.shape[-2] / height, shown.shape[-1] / width
        corner = (j * columns - 0.5, i * rows - 0.5)
        axes.add_patch(Rectangle(corner, columns, rows, fill=False, edgecolor="white", linewidth=1.5))
        axes.set_title(f"{name}, {height}×{width} pixels", fontsize=9)
        axes.set_axis_off()
        kernels = field[0, :_KERNELS, :, :, i, j]
        limit = max(kernels.abs().max().item(), 1e-12)
        for group, kernel in enumerate(kernels):
            axes = figure.add_subplot(grid[row, 1 + group])
            axes.imshow(colours(kernel, "RdBu_r", (-limit, limit)).numpy())
            axes.set_title(f"group {group + 1}", fontsize=8)
            axes.set_axis_off()
            if not group:
                more = f", the first {_KERNELS} of {groups}" if groups > _KERNELS else ""
                words = f"{k_h}×{k_w} at row {i + 1}, column {j + 1}{more}; red positive, blue negative, ±{limit:.2g}"
                axes.annotate(words, (0, -0.12), xycoords="axes fraction", fontsize=8, va="top")
    return figure
