"""Write the tables of README.md from the records in results/: the operator, RedNet-50 beside ResNet-50, engines, accuracies.

The picture of the engines as well, beside the page.

python -m tools.front_page [--threads 2] [--results results] [--readme README.md]
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from involution import records
from involution.studies.claims import judge, values_of
from involution.studies.declared.outcome import signed, with_interval
from involution.studies.latency.drawing import picture
from involution.studies.latency.results import Row
from involution.studies.latency.run import record_name
from involution.studies.statistics import estimate

from . import claims
from .engines import merged
from .markdown import spread, table, write_between, write_picture
from .tables import net_results, operator_medians, runs_of

OPERATOR, OPERATOR_END = "<!-- operator: made by python -m tools.front_page -->", "<!-- end of operator -->"
NETS, NETS_END = "<!-- nets: made by python -m tools.front_page -->", "<!-- end of nets -->"
ENGINES, ENGINES_END = "<!-- engines: made by python -m tools.front_page -->", "<!-- end of engines -->"
ACCURACIES, ACCURACIES_END = "<!-- accuracies: made by python -m tools.front_page -->", "<!-- end of accuracies -->"

# Channels and side of the shapes that are shown, in batch 1.
_SHAPES = ((64, 56), (256, 14))
_PEERS = {
    "involution": "involution",
    "unfold": "unfold, the usual form",
    "convolution 3×3": "3×3 convolution",
    "depthwise 7×7": "7×7 depthwise convolution",
}
# What is shown of RedNet-50: its records, kind of measurement in float32 and in bfloat16, and whether its norms are folded.
_TREATMENTS = (
    ("as they are", "nets", "inference", "inference, bfloat16", False),
    ("norms folded", "nets", "inference", "inference, bfloat16", True),
    ("compiled", "nets", "inference, compiled", "inference, compiled, bfloat16", False),
    (
        "folded, compiled and frozen",
        "frozen",
        "inference, folded, compiled and frozen",
        "inference, folded, compiled and frozen, bfloat16",
        False,
    ),
    ("training step", "nets", "training step", "training step, autocast to bfloat16", False),
    (
        "training step, compiled",
        "nets-compiled",
        "training step, compiled",
        "training step, compiled, autocast to bfloat16",
        False,
    ),
)
_ENGINES = {
    "eager": "PyTorch",
    "folded": "PyTorch, norms folded",
    "compiled": "PyTorch, compiled",
    "openvino-extension": "OpenVINO, extension",
    "onnxruntime-custom": "ONNX Runtime, one node per involution",
    "aotinductor": "AOTInductor",
    "openvino": "OpenVINO, standard operators",
    "onnxruntime": "ONNX Runtime, standard operators",
}
_BATCHES = (1, 8)
_NETS = ("rednet50", "resnet50")
# Beside the page.
_PICTURE = "docs/images/engines.png"
# What was trained with RedNet and with ResNet: record, and the names of the two nets in it.
_TRAINED = (
    ("CIFAR-10, RedNet-14 of an eighth of the width: accuracy, %", "cifar10", "rednet14_eighth", "resnet14_eighth"),
    ("Imagenette, RedNet-26 of half the width: accuracy, %", "imagenette", "rednet26_half", "resnet26_half"),
    ("CamVid, Semantic FPN: mIoU, %", "camvid", "rednet26", "resnet26"),
    ("the same with an involution neck", "camvid", "rednet26_involution_neck", "resnet26"),
    ("blood cells, RetinaNet: box AP", "bccd", "retinanet_rednet26", "retinanet_resnet26"),
    ("blood cells, Faster R-CNN: box AP", "bccd", "faster_rcnn_rednet26", "faster_rcnn_resnet26"),
)


def operator(runs: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the forward times of the operator and its peers, medians of all runs."""
    results, rows = operator_medians(runs), []
    for channels, size in _SHAPES:
        (row,) = (r for r in results if (r["batch"], r["channels"], r["size"]) == (1, channels, size))
        cells = [f"{row['forward'][name]['median_ms']:.2g} ms" for name in _PEERS]
        rows.append([f"{channels} channels, {size}×{size}", *cells])
    yield from table(["", *_PEERS.values()], rows)


def nets(results: Path, threads: int) -> Iterator[str]:
    """Yield RedNet-50's share of ResNet-50's time, the median of the runs and their range."""
    rows = []
    for label, record, *kinds, folded in _TREATMENTS:
        runs = _runs(results, record, threads)
        name = "rednet50, folded" if folded else "rednet50"
        cells = []
        for kind in kinds:
            for batch in _BATCHES:
                found = [
                    r["ratios"][name]
                    for of_runs in net_results(runs)
                    for r in of_runs
                    if (r["kind"], r["depth"], r["batch"]) == (kind, 50, batch)
                ]
                cells.append(spread(found, 2) if found else "")
        rows.append([label if len(runs) > 1 else f"{label} (one run)", *cells])
    yield from table(["", "float32, batch 1", "batch 8", "bfloat16, batch 1", "batch 8"], rows)


def engines(measured: Sequence[Row]) -> Iterator[str]:
    """Yield both nets' times in float32 in each engine, medians of the processes of all runs, and RedNet-50's share."""
    found = {(row.engine, row.batch, row.model): row for row in measured if row.dtype == "float32"}
    rows = []
    for engine, label in _ENGINES.items():
        cells = []
        for batch in _BATCHES:
            times = [statistics.median(found[engine, batch, model].times_ms) for model in _NETS]
            cells += [*(f"{time:.3g} ms" for time in times), f"{times[0] / times[1]:.2f}"]
        rows.append([label, *cells])
    head = [text for batch in _BATCHES for text in (f"batch {batch}, RedNet-50", "ResNet-50", "share")]
    yield from table(["float32", *head], rows)


def accuracies(folder: Path) -> Iterator[str]:
    """Yield what RedNet and ResNet reach in the same training, and the verdict on the claim that RedNet is ahead."""
    known = {name: record for name, record, _ in claims.found(folder)}
    rows = []
    for label, study, rednet, resnet in _TRAINED:
        sides = rednet, resnet
        judged = next(one for one in judge(known[study]) if (one.claim.of, one.claim.than) == sides)
        if judged.found is None:
            continue
        results, found = known[study]["results"], judged.found
        reached = [values_of(results, net, judged.claim.metric) for net in sides]
        params = {row["net"]: row["params"] for row in results}
        rows.append(
            [
                label,
                *(with_interval(estimate(list(values.values()))) for values in reached),
                signed(found),
                judged.verdict if " at n" in judged.verdict else f"{judged.verdict} at n = {found.n}",
                f"{params[rednet] / params[resnet]:.2f}",
            ]
        )
    head = ["", "RedNet", "ResNet", "difference, 95 % interval", "RedNet is ahead", "its share of ResNet's parameters"]
    yield from table(head, rows)


def _runs(results: Path, kind: str, threads: int) -> list[dict[str, Any]]:
    name = record_name(kind, threads)
    paths = runs_of(results, f"{name}*").get(name)
    if paths is None:
        raise SystemExit(
            f"{results} has no {name}.json, which the page shows; measure it (make bench does), or name another --threads"
        )
    return [records.read(path) for path in paths]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="that the nets shown were measured on")
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--readme", type=Path, default=Path("README.md"))
    arguments = parser.parse_args()
    runs = partial(_runs, arguments.results, threads=arguments.threads)
    write_between(arguments.readme, OPERATOR, OPERATOR_END, operator(runs("operator")))
    write_between(arguments.readme, NETS, NETS_END, nets(arguments.results, arguments.threads))
    in_engines = merged(runs("engines"))
    write_between(arguments.readme, ENGINES, ENGINES_END, engines(in_engines))
    write_picture(arguments.readme.parent / _PICTURE, picture(in_engines, _NETS))
    write_between(arguments.readme, ACCURACIES, ACCURACIES_END, accuracies(arguments.results))


if __name__ == "__main__":
    main()
