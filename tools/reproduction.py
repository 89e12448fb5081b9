"""Write tables and pictures of docs/reproduction.md from the records in results/.

python -m tools.reproduction [--results results] [--docs docs]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from involution import records
from involution.studies.comparison.results import REPORTED, duration
from involution.studies.declared.outcome import with_interval
from involution.studies.statistics import estimate

from . import claims, claims_picture
from .markdown import source, table, write_between, write_picture

CLAIMS, CLAIMS_END = "<!-- claims: made by python -m tools.reproduction -->", "<!-- end of claims -->"
BEGIN, END = "<!-- tables: made by python -m tools.reproduction -->", "<!-- end of tables -->"


def report(folder: Path) -> Iterator[str]:
    """Yield the report's table: accuracy of our trainings, time of a machine that did nothing else."""
    times: dict[tuple[str, str, str], float] = {}
    timing = sorted(folder.glob("training-cpu-*.json"))
    for path in timing:
        times = {(r["dataset"], r["kind"], r["net"]): r["epoch_s"] for r in records.read(path)["results"]}
    paths, rows = [], []
    for kind in ("published", "fair"):
        nets: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
        for path in sorted((folder / "compare").glob(f"{kind}*.json")):
            paths.append(path)
            for result in records.read(path)["results"]:
                nets.setdefault((result["dataset"], result["variant"], result["operator"]), []).append(result)
        for (dataset, variant, operator), results in nets.items():
            reported = REPORTED.get((dataset, operator)) if variant == "published" else None
            epochs = len(results[0]["history"])
            seconds = times.get((dataset, variant, operator))
            rows.append(
                [
                    dataset,
                    variant,
                    operator,
                    epochs,
                    len(results),
                    with_interval(estimate([r["test_accuracy_percent"] for r in results])),
                    f"{reported.test_accuracy_percent:.2f}" if reported else "",
                    f"{results[0]['params']:,}",
                    f"{reported.params:,}" if reported else "",
                    duration(epochs * seconds) if seconds else "",
                    duration(reported.cpu_s) if reported else "",
                    duration(reported.gpu_s) if reported else "",
                ]
            )
    if rows:
        head = [
            "data set",
            "nets",
            "operator",
            "epochs",
            "seeds",
            "accuracy %, mean ± 95 % interval",
            "reported %",
            "parameters",
            "reported",
        ]
        yield from [
            "## The report's table",
            "",
            *table([*head, "training", "reported, CPU", "reported, GPU"], rows),
            "",
        ]
        yield "Training is the epochs times what one takes on a machine that does nothing else (last record)."
        yield from ratios(times)
        yield ""
        yield from (f"- {source(records.read(path), path)}" for path in [*paths, *timing])


def ratios(times: dict[tuple[str, str, str], float]) -> Iterator[str]:
    """Yield in a sentence what involution's part of convolution's time is, of nets as published and of equal widths."""
    parts = []
    for variant, nets in (("published", "the report's nets"), ("fair", "nets of equal depth and widths")):
        found = {
            dataset: times[dataset, variant, "involution"] / seconds
            for (dataset, kind, operator), seconds in times.items()
            if (kind, operator) == (variant, "convolution") and (dataset, variant, "involution") in times
        }
        if found:
            parts.append(f"{nets} {', '.join(f'{value:.2f} ({dataset})' for dataset, value in found.items())}")
    if parts:
        yield f"With involution they take these parts of convolution's time: {'; '.join(parts)}."


def cifar(folder: Path) -> Iterator[str]:
    """Yield RedNet beside its control on CIFAR-10."""
    rows, paths = [], sorted((folder / "cifar10").glob("*.json"))
    for path in paths:
        record = records.read(path)
        results = record["results"]
        last, best = results["history"][-1], max(row["val_accuracy"] for row in results["history"])
        rows.append(
            [
                path.stem,
                f"{results['params']:,}",
                f"{results['macs'] / 1e6:.2f}",
                record["settings"]["epochs"],
                f"{100 * last['val_accuracy']:.2f}",
                f"{100 * best:.2f}",
            ]
        )
    if rows:
        head = ["net", "parameters", "MACs M", "epochs", "accuracy after the last, %", "best, %"]
        yield from ["", "## RedNet and its control on CIFAR-10", "", *table(head, rows), ""]
        yield from (f"- {source(records.read(path), path)}" for path in paths)
        if any("benchmarks.training_record" in records.read(path)["command"] for path in paths):
            yield from ["", "`benchmarks.training_record` is called `tools.training_record` now."]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    arguments = parser.parse_args()
    page, results = arguments.docs / "reproduction.md", arguments.results
    write_between(page, CLAIMS, CLAIMS_END, claims.lines(results))
    write_picture(arguments.docs / claims.PICTURE, claims_picture.draw(claims.judged(results)))
    for path in sorted((results / "studies").glob("*.json")):
        record = records.read(path)
        for picture, _, draw in claims.pictures(path, record):
            write_picture(arguments.docs / picture, draw(record), dpi=90)
    write_between(page, BEGIN, END, [*report(results), *cifar(results), *claims.studies(results)])


if __name__ == "__main__":
    main()
