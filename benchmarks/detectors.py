"""Detectors on the CPU: latency and peak memory of one image, with convolutions and involutions in backbone, neck, head.

The rows of the paper's COCO table: RetinaNet, Faster R-CNN and Mask R-CNN over ResNet-50 and RedNet-50, with either neck
and head; random weights, 80 classes, float32, channels_last, batch 1, evaluation. What a detector does after its
proposals depends on what it finds, so all of them get the same work: no suppression of overlaps removes anything, and the
heads see as many regions as they may. All nets of a detector are timed once per round in one process; figures are medians
over the rounds. Peak memory is that of a fresh process, above what it holds before the image. Before anything is timed,
the pyramid of a small image has to equal that of the reference backend.

    python -m benchmarks.detectors [--threads 2] [--rounds 5] [--size 640x400] [--name NAME] [--run N] [--output results]
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from involution import backends
from involution.models.detection import create
from involution.studies.costs.published import COCO

from . import commands
from .memory import in_fresh_process, resident_peak_mib
from .timing import medians

REGIONS, OBJECTS = 1000, 100


def build(detector: str, parts: tuple[str, str, str], width: int, height: int) -> nn.Module:
    """Return a detector that keeps every proposal and object up to the usual numbers."""
    backbone, neck, head = parts
    if detector == "retinanet":
        work = {"score_thresh": 0.0, "nms_thresh": 1.0, "detections_per_img": OBJECTS}
    else:
        work = {
            "rpn_nms_thresh": 1.0,
            "rpn_post_nms_top_n_test": REGIONS,
            "box_score_thresh": 0.0,
            "box_nms_thresh": 1.0,
            "box_detections_per_img": OBJECTS,
        }
    arguments: dict[str, Any] = {"backbone": backbone, "neck": neck, "head": head, **work}
    if backbone == "rednet50":
        arguments["backbone_args"] = {"stem_kernel_size": 7}
    torch.manual_seed(0)
    net = create(detector, 80, min_size=min(width, height), max_size=max(width, height), **arguments)
    return net.eval().to(memory_format=torch.channels_last)


def image(width: int, height: int) -> Tensor:
    return torch.rand(3, height, width)


def check(detector: str, parts: tuple[str, str, str]) -> float:
    """Return the largest difference to the reference backend's pyramid, relative to the largest value."""
    net, x = build(detector, parts, 129, 65), image(129, 65)[None]
    with torch.inference_mode():
        actual = net.backbone(x)
        with backends.use("reference"):
            expected = net.backbone(x)
    difference = max(((actual[k] - v).abs().max() / v.abs().max()).item() for k, v in expected.items())
    if not difference < 1e-4:
        raise RuntimeError(
            f"the pyramid of {detector} {parts} differs by {difference:.1e} from the reference backend's"
        )
    return difference


def peak_mib(detector: str, parts: tuple[str, str, str], width: int, height: int, threads: int) -> float:
    torch.set_num_threads(threads)
    net, x = build(detector, parts, width, height), image(width, height)
    before = resident_peak_mib()
    with torch.inference_mode():
        net([x])
    return resident_peak_mib() - before


def main() -> None:
    parser = commands.parser(__doc__, rounds=5)
    parser.add_argument("--size", default="640x400", help="WIDTHxHEIGHT; the published costs are of 1280x800")
    parser.add_argument("--detectors", nargs="+", default=list(COCO), choices=list(COCO))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    width, height = map(int, arguments.size.split("x"))
    rows = []
    for detector in arguments.detectors:
        differences = {parts: check(detector, parts) for parts in COCO[detector]}
        nets = {parts: build(detector, parts, width, height) for parts in COCO[detector]}
        x = image(width, height)
        with torch.inference_mode():
            named = {str(parts): lambda net=net, x=x: net([x]) for parts, net in nets.items()}
            times = medians(named, arguments.rounds)
        own = times[str(next(iter(nets)))]["median_ms"]
        del nets, named
        for parts in COCO[detector]:
            peak = in_fresh_process(peak_mib, detector, parts, width, height, arguments.threads)
            time = times[str(parts)]
            row = {
                "detector": detector,
                **dict(zip(("backbone", "neck", "head"), parts, strict=True)),
                "size": arguments.size,
                **time,
                "ratio": time["median_ms"] / own,
                "peak_mib": peak,
                "difference_to_reference": differences[parts],
            }
            rows.append(row)
            print(
                f"{detector:12s} {parts} {time['median_ms']:7.0f} ms  {row['ratio']:.2f}  peak {peak:6.0f} MiB",
                flush=True,
            )
    commands.write("detectors", arguments, results=rows)


if __name__ == "__main__":
    main()
