"""What a comparison leaves: learning curves, record, pictures, report; its table in print, and that of several."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict
from io import StringIO
from pathlib import Path
from typing import Any

import torch

from ... import records
from ...files import write_atomically
from ...pictures.plots import png
from .. import markdown
from . import plots, report
from .results import REPORTED, Comparison, NetResult, table
from .training import Recipe

__all__ = ["as_text", "write_metrics", "write_overview", "write_results"]


def write_results(comparison: Comparison, recipe: Recipe, device: torch.device, folder: Path) -> None:
    """Write learning curves, record, pictures and report into a folder."""
    write_metrics(comparison.results, folder)
    path = records.write(
        "record",
        {
            "seed": comparison.results[0].seed,
            "settings": {
                "dataset": comparison.dataset,
                "variant": comparison.variant,
                "device": str(device),
                "recipe": asdict(recipe),
            },
            "table": {row.label: row.values for row in table(comparison) if not row.detail},
            "results": [asdict(result) for result in comparison.results],
        },
        folder,
    )
    for name, figure in (
        ("summary", plots.summary(comparison)),
        ("curves", plots.curves(comparison)),
        ("heatmaps", plots.heat_maps(comparison)),
    ):
        write_atomically(folder / f"{name}.png", png(figure))
    write_atomically(folder / "report.html", report.render(comparison, records.read(path)))


def write_metrics(results: Sequence[NetResult], folder: Path) -> None:
    """Write the learning curves as ``metrics.csv``, a row per net and epoch."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for index, result in enumerate(results):
        if index == 0:
            writer.writerow(["operator", "seed", *result.history[0]])
        writer.writerows([result.operator, result.seed, *row.values()] for row in result.history)
    write_atomically(folder / "metrics.csv", text.getvalue())


def as_text(comparison: Comparison) -> str:
    """Return the table for a terminal."""
    lines = [("", *comparison.layers)]
    lines += [("  " * row.detail + row.label, *row.texts.values()) for row in table(comparison)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:]))])
        for line in lines
    )


def write_overview(comparisons: Sequence[Comparison], folder: Path) -> Path:
    """Write the table of several comparisons, beside the report's figures, as Markdown and as a record.

    Returns:
        The path of the Markdown file; the record lies beside it.
    """
    header = ["data set", "nets", "operator", "accuracy", "in the report", "parameters", "multiply-adds", "training"]
    lines = []
    figures: list[dict[str, Any]] = []
    for comparison in comparisons:
        rows = {row.label: row for row in table(comparison) if not row.detail}
        for operator in comparison.layers:
            reported = REPORTED.get((comparison.dataset, operator))
            lines.append(
                [
                    comparison.title,
                    comparison.variant,
                    operator,
                    rows["test accuracy"].texts[operator],
                    f"{reported.test_accuracy_percent:.2f} %" if reported and comparison.variant == "published" else "",
                    *(rows[label].texts[operator] for label in ("parameters", "multiply-adds", "training time")),
                ]
            )
        figures += [
            {"dataset": comparison.dataset, "variant": comparison.variant, **asdict(result)}
            for result in comparison.results
        ]
    records.write("overview", {"seed": comparisons[0].results[0].seed, "results": figures}, folder)
    path = folder / "overview.md"
    write_atomically(path, "\n".join(markdown.table(header, lines)) + "\n")
    return path
