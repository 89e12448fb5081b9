"""Draw the learning curves of trainings from their logs.

python -m tools.curves NAME=RUN … --keys train_loss val_miou [--output docs/images/curves.png]

Each of NAME=RUN is a title and the folder of a training of ``involution fit``; each key is a column of its metrics.csv. The
first has involution's colour, the second convolution's.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from matplotlib.ticker import MaxNLocator

from involution.pictures.plots import LIGHT, new_figure, style_axes
from involution.runs import RunFolder

from .markdown import write_picture

COLOURS = (LIGHT.involution, LIGHT.convolution, "#2b8a3e", "#862e9c")
# Different ones, to see curves that lie on each other.
STYLES = ("-", "--", "-.", ":")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="NAME=RUN")
    parser.add_argument("--keys", nargs="+", default=["train_loss", "val_miou"])
    parser.add_argument("--output", type=Path, default=Path("docs/images/curves.png"))
    arguments = parser.parse_args()
    figure = new_figure(4.6 * len(arguments.keys), 3.2)
    for axes, key in zip(figure.subplots(1, len(arguments.keys), squeeze=False)[0], arguments.keys, strict=True):
        for colour, style, entry in zip(COLOURS, STYLES, arguments.runs, strict=False):
            name, _, run = entry.partition("=")
            points = [(row["epoch"], row[key]) for row in RunFolder(Path(run)).history() if row.get(key) is not None]
            if not points:
                raise SystemExit(f"{run} has no logs with a column {key}")
            marker = "o" if len(points) < 12 else ""
            axes.plot(*zip(*points, strict=True), style, color=colour, label=name, marker=marker, linewidth=1.6)
        axes.set_title(key, loc="left", fontsize=10, color=LIGHT.ink)
        axes.set_xlabel("epoch", fontsize=9, color=LIGHT.muted)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
        style_axes(axes)
    figure.axes[0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    write_picture(arguments.output, figure)
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
