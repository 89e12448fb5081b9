"""Write the tables of docs/performance.md, docs/segmentation.md and docs/detection.md from the records in results/.

python -m tools.tables [--results results] [--docs docs]
"""

from __future__ import annotations

import argparse
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.gpu import report

from involution import records
from involution.studies.claims import values_of
from involution.studies.declared.outcome import signed
from involution.studies.statistics import difference

from .engines import accuracy_tables, engine_tables
from .markdown import source, spread, table, write_between

BEGIN, END = "<!-- tables: made by python -m tools.tables -->", "<!-- end of tables -->"
CELLS, CELLS_END = "<!-- cells: made by python -m tools.tables -->", "<!-- end of cells -->"
CAMVID, CAMVID_END = "<!-- camvid: made by python -m tools.tables -->", "<!-- end of camvid -->"
# Least shares of the pixels in percent: of the classes that its claims ask for, and of those that they call large.
_FREQUENT, _LARGE = 1.5, 9
_CONTROL, _NECK = "resnet26", "rednet26_involution_neck"

Row = dict[str, Any]


def runs_of(folder: Path, pattern: str) -> dict[str, list[Path]]:
    """Return the records of a kind by name, those of several runs (``name-run-2.json``) together."""
    found: dict[str, list[Path]] = {}
    # "name.json" comes before "name-run-2.json".
    for path in sorted(folder.glob(f"{pattern}.json"), key=lambda path: path.name.replace("-run-", ".run-")):
        found.setdefault(re.sub(r"-run-\d+$", "", path.stem), []).append(path)
    return found


def median_of(values: list[Any]) -> Any:
    """Return a record like the given ones, its numbers the medians of theirs; what is no number is the first's."""
    first = values[0]
    if isinstance(first, dict):
        return {key: median_of([value[key] for value in values]) for key in first}
    return statistics.median(values) if isinstance(first, float) else first


def matched(runs: list[dict[str, Any]], settings: Callable[[Row], tuple[Any, ...]]) -> list[list[Row]]:
    """Return the results of the same settings in all runs together, in the order of the first run.

    Args:
        runs: records of the same measurement.
        settings: of a result.

    Raises:
        SystemExit: a run has results of settings that another one lacks.
    """
    found = [{settings(row): row for row in run["results"]} for run in runs]
    for run, rows in zip(runs, found, strict=True):
        if differing := rows.keys() ^ found[0].keys():
            raise SystemExit(
                f"{runs[0]['name']} and {run['name']} are runs of one command by their names, but only one of them has "
                f"{', '.join(map(str, min(differing)))}; measure both with the same options, or give one another --name"
            )
    return [[rows[key] for rows in found] for key in found[0]]


def operator_medians(runs: list[dict[str, Any]]) -> list[Row]:
    """Return the results of the operator, every time the median of the runs."""
    rows = matched(runs, lambda row: (row["batch"], row["channels"], row["size"], *row["forward"]))
    return [median_of(of_runs) for of_runs in rows]


def net_results(runs: list[dict[str, Any]]) -> list[list[Row]]:
    """Return the results of whole nets, those of the same kind, depth and batch together."""
    return matched(runs, lambda row: (row["kind"], row["depth"], row["batch"], *row["times"]))


def of_one(make: Callable[[dict[str, Any]], list[str]]) -> Callable[[list[dict[str, Any]]], list[str]]:
    """Return a maker of tables that is given all runs and shows the last."""
    return lambda runs: make(runs[-1])


def operator_tables(runs: list[dict[str, Any]]) -> list[str]:
    """Return forward and backward times of the operator and its peers, and the ratios: medians of several runs."""
    results = operator_medians(runs)
    lines: list[str] = []
    for part in ("forward", "backward"):
        names = list(results[0][part])
        rows = [
            [f"{r['batch']}×{r['channels']}×{r['size']}²", *(f"{r[part][n]['median_ms']:.2f}" for n in names)]
            for r in results
        ]
        lines += ["", f"**{part.capitalize()}, median ms**", "", *table(["shape", *names], rows)]
    names = list(results[0]["ratios"])
    rows = [[f"{r['batch']}×{r['channels']}×{r['size']}²", *(f"{r['ratios'][n]:.2f}" for n in names)] for r in results]
    return [*lines, "", "**Ratios**", "", *table(["shape", *names], rows)]


def net_tables(runs: list[dict[str, Any]]) -> list[str]:
    """Return times and ratios of whole nets, and the memory of training: medians of several runs, and their range."""
    rows = []
    for results in net_results(runs):
        result = results[0]
        for name in result["times"]:
            times = [r["times"][name]["median_ms"] for r in results]
            ratios = [r["ratios"][name] for r in results]
            memory = [
                f"{statistics.median(r[key][name] for r in results):.0f}" if name in result.get(key, ()) else ""
                for key in ("peak_mib", "saved_mib")
            ]
            what = f"{result['kind']}, batch {result['batch']}"
            rows.append([what, name, spread(times, 1), spread(ratios, 2), *memory])
    several = f" (range of {len(runs)} runs)" if len(runs) > 1 else ""
    return [
        "",
        *table(
            [
                "",
                "net",
                f"median ms{several}",
                f"to ResNet{' (range)' if several else ''}",
                "peak MiB",
                "saved for backward MiB",
            ],
            rows,
        ),
    ]


def latency_tables(record: dict[str, Any]) -> list[str]:
    """Return the latency of the RedNets of all depths beside the ResNets'."""
    batches = sorted({result["batch"] for result in record["results"]})
    rows: dict[str, list[str]] = {}
    for batch in batches:
        for result in (r for r in record["results"] if r["batch"] == batch and r["kind"] == "inference"):
            for name, time in result["times"].items():
                low, high = time["quartile_1_ms"], time["quartile_3_ms"]
                rows.setdefault(name, []).extend(
                    [f"{time['median_ms']:.1f} ({low:.1f} to {high:.1f})", f"{result['ratios'][name]:.2f}"]
                )
    head = [text for batch in batches for text in (f"batch {batch}, median ms (quartiles)", "to ResNet")]
    return ["", *table(["net", *head], ([name, *cells] for name, cells in rows.items()))]


def training_tables(record: dict[str, Any]) -> list[str]:
    """Return what an epoch of the small nets takes."""
    rows = [
        [
            r["dataset"],
            r["kind"],
            r["net"],
            f"{r['params']:,}",
            f"{r['macs'] / 1e6:.2f}",
            f"{r['epoch_s']:.1f}",
            f"{r['training_images_per_s']:,.0f}",
            f"{r['inference_images_per_s']:,.0f}",
            f"{r['peak_mib']:.0f}" if "peak_mib" in r else "",
        ]
        for r in record["results"]
    ]
    head = ["data set", "nets", "net", "parameters", "MACs M", "epoch s", "training images/s", "inference images/s"]
    return ["", *table([*head, "peak MiB"], rows)]


def scaling_tables(record: dict[str, Any]) -> list[str]:
    """Return what more threads bring, and the exponents of growth."""
    threads = str(record["machine"]["threads"])
    rows = [
        [r["work"], *(f"{r['times'][n]['median_ms']:.2f}" for n in ("1", threads)), f"{r['speedup']:.2f}"]
        for r in record["threads"]
    ]
    exponents = "; ".join(f"{name}: {value:.2f}" for name, value in record["exponents"].items())
    return [
        "",
        *table(["", "1 thread, ms", f"{threads} threads, ms", "ratio"], rows),
        "",
        "![Time and memory over pixels and over the batch](images/scaling.png)",
        "",
        f"Exponents of growth of the layer's forward and backward pass (1 is linear): {exponents}.",
    ]


def mechanism_tables(record: dict[str, Any]) -> list[str]:
    """Return the times without each mechanism of the kernels over the time with all of them, and peaks of memory."""
    rows, peak = record["results"], record["results"][-1]["peak_mib"]
    again = "everything again"
    names = [name for name in rows[0]["ratios"] if name not in ("everything", again)]
    times = [
        [r["kind"], *(f"{r['ratios'][name]:.2f}" if name in r["ratios"] else "" for name in [*names, again])]
        for r in rows
    ]
    return [
        "",
        f"Time of {record['model']} without a mechanism over its time with everything; the last column is everything, "
        "timed a second time.",
        "",
        *table(["", *(f"without {name}" for name in names), again], times),
        "",
        f"Two training steps raise the peak of memory by {peak['everything']:.0f} MiB; "
        + ", ".join(f"without {name} {peak[name]:.0f}" for name in names)
        + ".",
    ]


def segmenter_tables(record: dict[str, Any]) -> list[str]:
    """Return latency and peak memory of the segmentation nets."""
    rows = [
        [
            f"{r['size'].replace('x', '×')}",
            r["net"],
            f"{r['macs_g']:.1f}",
            f"{r['median_ms']:.0f} ({r['quartile_1_ms']:.0f} to {r['quartile_3_ms']:.0f})",
            f"{r['ratio']:.2f}",
            f"{r['peak_mib']:.0f}",
        ]
        for r in record["results"]
    ]
    head = ["image", "Semantic FPN", "MACs G", "median ms (quartiles)", "to ResNet", "peak MiB"]
    return ["", *table(head, rows)]


TITLES = {
    "retinanet": "RetinaNet",
    "faster_rcnn": "Faster R-CNN",
    "mask_rcnn": "Mask R-CNN",
    "resnet50": "ResNet-50",
    "rednet50": "RedNet-50",
}


def detector_tables(record: dict[str, Any]) -> list[str]:
    """Return latency and peak memory of the detectors."""
    rows = [
        [
            TITLES[r["detector"]],
            ", ".join([TITLES[r["backbone"]], *(f"{r[part]} {part}" for part in ("neck", "head"))]),
            f"{r['median_ms']:.0f} ({r['quartile_1_ms']:.0f} to {r['quartile_3_ms']:.0f})",
            f"{r['ratio']:.2f}",
            f"{r['peak_mib']:.0f}",
        ]
        for r in record["results"]
    ]
    size = record["results"][0]["size"].replace("x", "×")
    return ["", *table([f"image {size}", "", "median ms (quartiles)", "to ResNet", "peak MiB"], rows)]


AP = {
    "map": "AP",
    "map_50": "AP50",
    "map_75": "AP75",
    "map_small": "small",
    "map_medium": "medium",
    "map_large": "large",
}


def cell_tables(folder: Path) -> list[str]:
    """Return the average precisions on the blood cells by detector, and those of the images learnt by heart."""
    found = {path: records.read(path) for path in sorted(folder.glob("*.json"))}
    lines: list[str] = []
    for kind in ("", "mask_"):
        rows = []
        for path, record in found.items():
            results = record["results"]
            if f"{kind}map" not in results:
                continue
            values = [results[f"{kind}{name}"] for name in AP]
            shown = ["–" if value is None or value < 0 else f"{100 * value:.1f}" for value in values]
            rows.append([path.stem, record["images"], record["epochs"], f"{record['params_m']:.2f}", *shown])
        if rows:
            what = "masks, %" if kind else "boxes, %"
            lines += ["", *table([what, "images", "epochs", "parameters M", *AP.values()], rows)]
    return [*lines, "", *(f"- {source(record, path)}" for path, record in found.items())]


def camvid_groups(shares: dict[str, float]) -> tuple[list[str], list[str], list[str]]:
    """Return the classes that the study's claims ask for: the more frequent ones, those that they call large, and the others.

    Args:
        shares: of the pixels in percent, by class.
    """
    return (
        [name for name, share in shares.items() if share >= _FREQUENT],
        [name for name, share in shares.items() if share >= _LARGE],
        [name for name, share in shares.items() if share < _LARGE],
    )


def camvid_tables(path: Path) -> list[str]:
    """Return the IoU of every class of CamVid by net, the largest class first, means of classes, and what the nets cost.

    Args:
        path: of the study's record, which need not be there.
    """
    import torch

    from involution.counting import count
    from involution.models.segmentation import create

    if not path.exists():
        return []
    record = records.read(path)
    trained = {row["net"]: row for row in record["results"]}
    shares = next(iter(trained.values()))["judged"]["pixel_share_percent"]
    classes = sorted(shares, key=shares.__getitem__, reverse=True)
    frequent, large, small = camvid_groups(shares)
    groups = {
        "**mIoU**": classes,
        f"mean of the {len(frequent)} classes of {_FREQUENT} % or more": frequent,
        f"mean of the {len(large)} classes of {_LARGE} % or more": large,
        f"mean of the {len(small)} classes below {_LARGE} %": small,
    }
    lines = {name: (f"{shares[name]:.1f}", [f"test.iou_percent.{name}"]) for name in classes}
    for title, names in groups.items():
        lines[title] = (f"{sum(map(shares.__getitem__, names)):.1f}", [f"test.iou_percent.{name}" for name in names])
    for name in ("pixel accuracy", "mean accuracy"):
        lines[name] = ("", [f"test.{name.replace(' ', '_')}_percent"])
    rows = []
    for title, (share, metric) in lines.items():
        values = {net: values_of(record["results"], net, metric) for net in trained}
        means = [f"{statistics.mean(of_net.values()):.1f}" for of_net in values.values()]
        rows.append([title, share, *means, signed(difference(values[_NECK], values[_CONTROL]))])
    costs = []
    for row in trained.values():
        arguments = row["plan"]["model"]["init_args"]
        with torch.device("meta"):
            net = create(arguments["model"], arguments["num_classes"], **{**arguments["model_args"], "weights": None})
        costs.append(count(net, (3, 240, 320)))
    rows.append(["parameters M", "", *(f"{cost.params / 1e6:.2f}" for cost in costs), ""])
    rows.append(["multiply-adds G, 320×240", "", *(f"{cost.macs / 1e9:.2f}" for cost in costs), ""])
    seeds = [sum(row["net"] == net for row in record["results"]) for net in trained]
    head = [f"{net} (n = {n})" for net, n in zip(trained, seeds, strict=True)]
    less = f"{_NECK} less {_CONTROL}, 95 % interval"
    return ["", *table(["IoU %", "share of pixels %", *head, less], rows), "", f"- {source(record, path)}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    arguments = parser.parse_args()
    lines: list[str] = []
    for pattern, title, make in (
        ("operator-cpu-*", "The operator", operator_tables),
        ("latency-cpu-*", "RedNet-26 to -152", of_one(latency_tables)),
        ("nets-cpu-*", "Nets", net_tables),
        ("nets-compiled-cpu-*", "Nets, training steps compiled too", net_tables),
        ("frozen-cpu-*", "Nets, compiled and frozen", net_tables),
        ("scaling-cpu-*", "Growth", of_one(scaling_tables)),
        ("without-cpu-*", "What each mechanism brings", of_one(mechanism_tables)),
        ("training-cpu-*", "Training small nets", of_one(training_tables)),
        ("segmenters-cpu-*", "Segmentation nets", of_one(segmenter_tables)),
        ("detectors-cpu-*", "Detectors", of_one(detector_tables)),
        ("engines-cpu-*", "Nets in engines", engine_tables),
        ("accuracy-cpu-*", "Trained nets in engines, and int8", of_one(accuracy_tables)),
        ("gpu-*", "Operator and nets", of_one(lambda record: ["", *report.tables(record["results"])])),
    ):
        for name, paths in runs_of(arguments.results, pattern).items():
            runs = [records.read(path) for path in paths]
            threads = runs[0].get("settings", {}).get("threads", runs[0]["machine"]["threads"])
            gpus = runs[0]["machine"].get("gpus")
            place = gpus[0] if name.startswith("gpu-") else f"{threads} thread{'s' if threads > 1 else ''}"
            lines += ["", f"## {title}, {place}", *make(runs), ""]
            lines += [f"- {source(record, path)}" for record, path in zip(runs, paths, strict=True)]
    write_between(arguments.docs / "performance.md", BEGIN, END, lines)
    write_between(arguments.docs / "detection.md", CELLS, CELLS_END, cell_tables(arguments.results / "detection"))
    study = arguments.results / "studies" / "camvid.json"
    write_between(arguments.docs / "segmentation.md", CAMVID, CAMVID_END, camvid_tables(study))


if __name__ == "__main__":
    main()
