"""Write the tables of docs/family.md, and the envelope of the small nets, from the records in results/.

python -m tools.family [--results results] [--docs docs]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from benchmarks.family import LAYERS
from benchmarks.operator import SHAPES

from involution import records
from involution.counting import count
from involution.pictures.plots import LIGHT, new_figure, style_axes
from involution.studies.claims import values_of
from involution.studies.declared.outcome import signed, summary
from involution.studies.statistics import difference

from .markdown import source, table, write_between, write_picture

COUNTS, COUNTS_END = "<!-- counts: made by python -m tools.family -->", "<!-- end of counts -->"
COSTS, COSTS_END = "<!-- costs: made by python -m tools.family -->", "<!-- end of costs -->"
NETS, NETS_END = "<!-- nets: made by python -m tools.family -->", "<!-- end of nets -->"
# What the small net with RedNet's own φ is called.
_INVOLUTION = "bottleneck"
NOTHING = "No record of this is in `results/` yet."


def counts() -> Iterator[str]:
    """Yield the parameters and multiply-adds of every layer at every shape."""
    rows = []
    for name, make in LAYERS.items():
        cells = []
        for channels, size in SHAPES:
            with torch.device("meta"):
                cost = count(make(channels, size), (channels, size, size))
            cells.append(f"{cost.params / 1e3:.1f} / {cost.macs / 1e6:.1f}")
        rows.append([label(name), *cells])
    yield from ["", "**Parameters, thousands / multiply-adds, millions**", ""]
    yield from table(["layer", *(f"{channels}×{size}²" for channels, size in SHAPES)], rows)


def costs(path: Path) -> Iterator[str]:
    """Yield the time and the memory of every layer at every shape."""
    record = records.read(path)
    rows = record["results"]
    shapes, names = [f"{row['channels']}×{row['size']}²" for row in rows], list(rows[0]["forward"])
    batch = rows[0]["batch"]
    yield from ["", f"**Forward / backward, median ms, batch {batch}**", ""]
    yield from table(["layer", *shapes], [[label(name), *(times(row, name) for row in rows)] for name in names])
    yield from ["", f"**Kept for the backward pass / raise of the process's peak, MiB, batch {batch}**", ""]
    yield from table(["layer", *shapes], [[label(name), *(memory(row, name) for row in rows)] for name in names])
    yield from ["", f"- {source(record, path)}"]


def label(name: str) -> str:
    """Return a layer's name, as code where it is that of a φ."""
    return f"`{name}`" if name.islower() and name.isidentifier() else name


def times(row: dict[str, Any], name: str) -> str:
    """Return a layer's times at one shape."""
    return " / ".join(f"{row[part][name]['median_ms']:.2f}" for part in ("forward", "backward"))


def memory(row: dict[str, Any], name: str) -> str:
    """Return a layer's memory at one shape."""
    return " / ".join(f"{row[part][name]:.1f}" for part in ("saved_mib", "peak_mib"))


def nets(path: Path, study: Path) -> Iterator[str]:
    """Yield accuracies, costs and times of the small nets.

    Args:
        path: of the record of times.
        study: of the record of trainings, which need not be there.
    """
    record = records.read(path)
    trained = records.read(study) if study.exists() else {"results": [], "metric": []}
    rows = []
    involution = values_of(trained["results"], _INVOLUTION, trained["metric"])
    for name, net in record["nets"].items():
        seeds, reached, params, macs = summary(trained["results"], trained["metric"], name, unit=" %")
        values = values_of(trained["results"], name, trained["metric"])
        less = signed(difference(values, involution)) if values and involution and name != _INVOLUTION else "–"
        took = [f"{net[key]:.1f}" for key in ("inference_ms", "training_ms")]
        rows.append([name, reached, less, seeds, params, macs, *took])
    head = ["net", "accuracy, mean ± 95 % interval", f"less `{_INVOLUTION}`, points, paired 95 % interval", "seeds"]
    head += ["parameters", "multiply-adds, M"]
    yield from ["", *table([*head, "inference of 128 images, ms", "training step of 128 images, ms"], rows), ""]
    if study.exists():
        yield f"- accuracies: {source(trained, study)}"
    yield f"- times: {source(record, path)}"


def envelope(path: Path, study: Path) -> Any:
    """Draw the small nets as the paper draws its envelopes: accuracy over parameters, multiply-adds and time.

    Args:
        path: of the record of times.
        study: of the record of trainings.
    """
    times_of, trained = records.read(path)["nets"], records.read(study)
    costs_of = {row["net"]: (row["params"] / 1e3, row["macs"] / 1e6) for row in trained["results"]}
    figure = new_figure(12, 3.9)
    titles = ("parameters, thousands", "multiply-adds, millions", "inference of 128 images, ms")
    for panel, (axes, title) in enumerate(zip(figure.subplots(1, 3, sharey=True), titles, strict=True)):
        style_axes(axes)
        for name, costs in costs_of.items():
            x = (*costs, times_of[name]["inference_ms"])[panel]
            values = list(values_of(trained["results"], name, trained["metric"]).values())
            colour = {_INVOLUTION: LIGHT.involution, "convolution": LIGHT.convolution}.get(name, LIGHT.muted)
            axes.plot([x] * len(values), values, "-o", color=colour, markersize=3.5, linewidth=1, alpha=0.6)
            axes.plot(x, mean(values), "o", color=colour, markersize=7)
            axes.annotate(
                "involution" if name == _INVOLUTION else name.replace("_", " "),
                (x, mean(values)),
                xytext=(8, -3),
                textcoords="offset points",
                color=colour,
                fontsize=8,
            )
        axes.set_xlabel(title, color=LIGHT.muted, fontsize=9)
        axes.margins(x=0.28, y=0.1)
    figure.axes[2].set_xscale("log")
    figure.axes[2].set_xticks([50, 100, 150], ["50", "100", "150"])
    figure.axes[2].set_xticks([], minor=True)
    figure.axes[0].set_ylabel("accuracy on CIFAR-10, %", color=LIGHT.muted, fontsize=9)
    figure.tight_layout()
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    arguments = parser.parse_args()
    timing = sorted(arguments.results.glob("family-cpu-*.json"))
    page = arguments.docs / "family.md"
    write_between(page, COUNTS, COUNTS_END, counts())
    write_between(page, COSTS, COSTS_END, costs(timing[-1]) if timing else [NOTHING])
    study = arguments.results / "studies" / "family.json"
    write_between(page, NETS, NETS_END, nets(timing[-1], study) if timing else [NOTHING])
    if timing and study.exists():
        write_picture(arguments.docs / "images" / "family_envelope.png", envelope(timing[-1], study))


if __name__ == "__main__":
    main()
