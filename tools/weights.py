"""Write the table of docs/weights.md from the records in results/: what starting from these weights brings.

python -m tools.weights [--results results] [--docs docs]
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from pathlib import Path

from involution import records
from involution.studies.claims import values_of
from involution.studies.declared.outcome import signed, with_interval
from involution.studies.statistics import difference, estimate

from . import claims, trainings
from .markdown import source, table, write_between

PRESETS, PRESETS_END = "<!-- presets: made by python -m tools.weights -->", "<!-- end of presets -->"
BEGIN, END = "<!-- weights: made by python -m tools.weights -->", "<!-- end of weights -->"

# Records of the same recipes from these weights and from random ones (see `claims.found`), and the unit.
_PRESETS = (
    ("`classification_small.yaml`: accuracy, %", "finetune_classification"),
    ("`detection_small.yaml`: box AP", "finetune_detection"),
    ("`segmentation_small.yaml`: mIoU, %", "finetune_segmentation"),
)
_PAIRS = (
    ("Semantic FPN, CamVid, 30 epochs: mIoU, %", "camvid", "camvid_from_scratch"),
    ("blood cells, 12 epochs: box AP", "bccd", "bccd_12_epochs"),
)


def gains(results: Path) -> Iterator[str]:
    """Yield what every net reaches from pretrained and from random weights, and the difference."""
    known = {name: (record, paths) for name, record, paths in claims.found(results)}
    rows, used = [], []
    for label, pretrained, scratch in _PAIRS:
        if pretrained not in known or scratch not in known:
            continue
        (of, of_paths), (than, than_paths) = known[pretrained], known[scratch]
        trained = dict.fromkeys(row["net"] for row in of["results"])
        nets = [net for net in trained if values_of(than["results"], net, of["metric"])]
        for net in nets:
            values = [values_of(record["results"], net, of["metric"]) for record in (of, than)]
            cells = [f"{with_interval(estimate(list(one.values())))} (n = {len(one)})" for one in values]
            # Of other recipes: in the order of their images, too.
            rows.append([label, net, *cells, signed(difference(*values, pairs=False))])
        used += [*of_paths, *than_paths] if nets else []
    yield from table(["", "net", "from these weights", "from random ones", "difference"], rows)
    yield ""
    yield from (f"- {source(records.read(path), path)}" for path in used)


def presets(results: Path) -> Iterator[str]:
    """Yield what the presets of recipes/finetune reach from these weights and from random ones, and how long they take."""
    rows, used = [], []
    for label, name in _PRESETS:
        path = results / "studies" / f"{name}.json"
        if not path.exists():
            continue
        record = records.read(path)
        (judged,) = claims.judge(record)
        cells = [
            with_interval(estimate(list(values_of(record["results"], net, record["metric"]).values())))
            for net in ("pretrained", "from_scratch")
        ]
        took = [found for found in map(trainings.seconds, record["results"]) if found is not None]
        minutes = f"{statistics.median(took) / 60:.0f}" if took else ""
        found = signed(judged.found) if judged.found else ""
        # With as many digits as tell what is just below 0.05 from 0.05.
        chance = "" if judged.p is None else f"{judged.p:.5f}"
        rows.append([label, record["title"], *cells, found, chance, judged.verdict, minutes])
        used.append(path)
    if rows:
        head = [
            "preset",
            "images",
            "from these weights",
            "from random ones",
            "difference",
            "p",
            "verdict",
            "minutes a training",
        ]
        yield from table(head, rows)
        yield ""
        yield from (f"- {source(records.read(path), path)}" for path in used)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    arguments = parser.parse_args()
    page = arguments.docs / "weights.md"
    write_between(page, PRESETS, PRESETS_END, presets(arguments.results))
    write_between(page, BEGIN, END, gains(arguments.results))


if __name__ == "__main__":
    main()
