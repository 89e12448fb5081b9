"""Segmentation nets on the CPU: latency and peak memory of one image, with convolution and involution in the neck.

Semantic FPN with 19 classes over RedNet-50 with either neck, and over its control with 3×3 convolutions (ResNet-50 with
a deep stem), as in the paper's Cityscapes rows; random weights, float32, channels_last, batch 1, evaluation. All nets of
a size are timed once per round in one process; figures are medians over the rounds. Peak memory is that of a fresh
process, above what it holds before the first image. Before anything is timed, the logits of a small image have to equal
those of the reference backend.

    python -m benchmarks.segmenters [--threads 2] [--rounds 5] [--sizes 1024x512 2048x1024] [--name NAME] [--run N]
                                    [--output results]
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from involution import backends
from involution.counting import count
from involution.models.segmentation import semantic_fpn

from . import commands
from .memory import in_fresh_process, resident_peak_mib
from .timing import medians

NETS: dict[str, dict] = {
    "ResNet-50, convolution neck": {"backbone_args": {"spatial_layer": "convolution", "stem": "deep"}},
    "RedNet-50, convolution neck": {"backbone_args": {"stem_kernel_size": 7}},
    "RedNet-50, involution neck": {"backbone_args": {"stem_kernel_size": 7}, "neck": "involution"},
}


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    return semantic_fpn(19, "rednet50", **NETS[name]).eval().to(memory_format=torch.channels_last)


def image(width: int, height: int) -> Tensor:
    return torch.randn(1, 3, height, width).to(memory_format=torch.channels_last)


def check(name: str) -> float:
    """Return the largest difference to the reference backend's logits, relative to the largest logit."""
    net, x = build(name), image(129, 65)
    with torch.inference_mode():
        actual = net(x)
        with backends.use("reference"):
            expected = net(x)
    difference = ((actual - expected).abs().max() / expected.abs().max()).item()
    if not difference < 1e-4:
        raise RuntimeError(f"the logits of {name} differ by {difference:.1e} from the reference backend's")
    return difference


def peak_mib(name: str, width: int, height: int, threads: int) -> float:
    torch.set_num_threads(threads)
    net, x = build(name), image(width, height)
    before = resident_peak_mib()
    with torch.inference_mode():
        net(x)
    return resident_peak_mib() - before


def main() -> None:
    parser = commands.parser(__doc__, rounds=5)
    parser.add_argument("--sizes", nargs="+", default=["1024x512", "2048x1024"], help="WIDTHxHEIGHT")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    differences = {name: check(name) for name in NETS}
    nets = {name: build(name) for name in NETS}
    rows = []
    for size in arguments.sizes:
        width, height = map(int, size.split("x"))
        x = image(width, height)
        with torch.inference_mode():
            times = medians({name: lambda net=net, x=x: net(x) for name, net in nets.items()}, arguments.rounds)
        own = times[next(iter(NETS))]["median_ms"]
        for name in nets:
            with torch.device("meta"):
                cost = count(semantic_fpn(19, "rednet50", **NETS[name]), (3, height, width))
            peak = in_fresh_process(peak_mib, name, width, height, arguments.threads)
            ratio = times[name]["median_ms"] / own
            rows.append(
                {"size": size, "net": name, **times[name], "ratio": ratio, "peak_mib": peak, "macs_g": cost.macs / 1e9}
            )
            print(
                f"{size:>10} {name:28s} {times[name]['median_ms']:8.0f} ms  {ratio:.2f}  peak {peak:6.0f} MiB",
                flush=True,
            )
    commands.write("segmenters", arguments, difference_to_reference=differences, results=rows)


if __name__ == "__main__":
    main()
