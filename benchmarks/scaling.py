"""How time and memory grow on the CPU: with pixels, with the batch, and how they shrink with threads.

Time is that of a forward and a backward pass of `Involution2d` (64 channels, K = 7), memory the peak of a fresh process
above what it had before, beside the unfold form of the same layer. Threads: one against all, for the operator at the
stage shapes of RedNet-50 and for the whole net. Writes a record and a picture.

    python -m benchmarks.scaling [--threads 2] [--rounds 12] [--name NAME] [--run N] [--output results]
                                 [--picture docs/images/scaling.png]
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

import involution.models  # noqa: F401
from involution import Involution2d, involution2d
from involution.files import write_atomically
from involution.memory_layout import empty_field

from . import commands
from .gpu.baselines import unfold
from .memory import in_fresh_process, resident_peak_mib
from .shapes import GROUP_CHANNELS, KERNEL, SHAPES
from .timing import medians

CHANNELS = 64
SIZES = [16, 32, 64, 128, 256, 512]
BATCHES = [1, 2, 4, 8, 16, 32]
BATCH_MAP = 56


def step(size: int, batch: int, unfolded: bool = False) -> Callable[[], None]:
    """Return a function that runs one forward and one backward pass of the layer."""
    layer = Involution2d(CHANNELS)
    x = torch.randn(batch, CHANNELS, size, size).to(memory_format=torch.channels_last).requires_grad_()

    def run() -> None:
        y: Tensor = unfold(x, layer.generate_kernel(x).field()) if unfolded else layer(x)
        y.sum().backward()

    return run


def peak_mib(size: int, batch: int, unfolded: bool, threads: int) -> float:
    """Return by how much a step raises the peak of resident memory of this process."""
    torch.set_num_threads(threads)
    # What the libraries allocate once is not the layer's.
    step(16, 1, unfolded)()
    run = step(size, batch, unfolded)
    before = resident_peak_mib()
    run()
    return resident_peak_mib() - before


def slope(xs: list[float], ys: list[float]) -> float:
    """Return the exponent of growth: the slope of a straight line through the logarithms (1 is linear)."""
    lx, ly = [math.log(x) for x in xs], [math.log(y) for y in ys]
    mx, my = sum(lx) / len(lx), sum(ly) / len(ly)
    return sum((a - mx) * (b - my) for a, b in zip(lx, ly, strict=True)) / sum((a - mx) ** 2 for a in lx)


def with_threads(threads: int, function: Callable[[], Any]) -> Callable[[], None]:
    def run() -> None:
        torch.set_num_threads(threads)
        function()

    return run


def thread_rows(threads: int, rounds: int) -> list[dict[str, Any]]:
    """Return the times of one thread and of all, and their ratio."""
    works: dict[str, Callable[[], Any]] = {}
    for channels, size in SHAPES:
        x = torch.randn(8, channels, size, size).to(memory_format=torch.channels_last)
        field = empty_field(x, (8, channels // GROUP_CHANNELS, KERNEL, KERNEL, size, size), True).normal_()
        works[f"operator, 8×{channels}×{size}²"] = lambda x=x, field=field: involution2d(x, field)
    net = timm.create_model("rednet50").eval().to(memory_format=torch.channels_last)
    for batch in (1, 8):
        images = torch.randn(batch, 3, 224, 224).to(memory_format=torch.channels_last)
        works[f"RedNet-50, inference, batch {batch}"] = lambda images=images: net(images)
    rows = []
    with torch.inference_mode():
        for name, work in works.items():
            times = medians({str(n): with_threads(n, work) for n in (1, threads)}, rounds)
            ratio = times["1"]["median_ms"] / times[str(threads)]["median_ms"]
            rows.append({"work": name, "times": times, "speedup": ratio})
            print(f"  {name}: {ratio:.2f}×", flush=True)
    torch.set_num_threads(threads)
    return rows


def draw(payload: dict[str, Any], path: Path) -> None:
    """Draw time and memory over pixels, and time over the batch, on logarithmic axes beside a straight line."""
    from matplotlib.figure import Figure

    from involution.pictures.plots import LIGHT, png, style_axes

    figure = Figure(figsize=(12, 3.6), facecolor=LIGHT.paper)
    axes = figure.subplots(1, 3)
    panels = (
        ("time of forward and backward, ms", "pixels", payload["pixels"], "median_ms"),
        ("peak memory of forward and backward, MiB", "pixels", payload["memory"], "peak_mib"),
        ("time of forward and backward, ms", "images of 56×56", payload["batch"], "median_ms"),
    )
    for panel, (title, label, rows, key) in zip(axes, panels, strict=True):
        for form, colour in (("involution", LIGHT.involution), ("unfold", LIGHT.convolution)):
            points = [(row["x"], row[key]) for row in rows if row["form"] == form]
            if not points:
                continue
            xs, ys = zip(*points, strict=True)
            panel.loglog(xs, ys, color=colour, marker="o", label=form)
            panel.loglog(
                [xs[0], xs[-1]], [ys[-1] * xs[0] / xs[-1], ys[-1]], color=LIGHT.muted, linestyle=":", linewidth=1
            )
        style_axes(panel, LIGHT)
        panel.minorticks_off()
        panel.set_title(title, loc="left", fontsize=9, color=LIGHT.ink)
        panel.set_xlabel(label, fontsize=9, color=LIGHT.muted)
    axes[0].legend(frameon=False, fontsize=9, labelcolor=LIGHT.ink)
    axes[0].text(
        0.98, 0.04, "dotted: exactly linear", transform=axes[0].transAxes, ha="right", fontsize=8, color=LIGHT.muted
    )
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, png(figure, dpi=110))


def main() -> None:
    parser = commands.parser(__doc__, rounds=12)
    parser.add_argument("--picture", type=Path, default=Path("docs/images/scaling.png"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    payload: dict[str, Any] = {"channels": CHANNELS, "pixels": [], "memory": [], "batch": []}
    for size in SIZES:
        rounds = max(3, min(arguments.rounds, arguments.rounds * 128**2 // size**2))
        # The unfolded map of 512² pixels alone would take 3 GiB.
        forms = {"involution": step(size, 1)} | ({"unfold": step(size, 1, True)} if size <= 256 else {})
        for form, time in medians(forms, rounds).items():
            payload["pixels"].append({"form": form, "x": size**2, **time})
        if size >= 64:
            for form in forms:
                peak = in_fresh_process(peak_mib, size, 1, form == "unfold", arguments.threads)
                payload["memory"].append({"form": form, "x": size**2, "peak_mib": peak})
        print(f"{size}²: {payload['pixels'][-len(forms)]['median_ms']:.2f} ms", flush=True)
    for batch in BATCHES:
        time = medians({"involution": step(BATCH_MAP, batch)}, max(3, arguments.rounds))["involution"]
        payload["batch"].append({"form": "involution", "x": batch, **time})
    ours = {
        part: [row for row in payload[part] if row["form"] == "involution"] for part in ("pixels", "memory", "batch")
    }
    payload["exponents"] = {
        "time over pixels, from 64²": slope(
            [row["x"] for row in ours["pixels"][2:]], [row["median_ms"] for row in ours["pixels"][2:]]
        ),
        "memory over pixels, from 64²": slope(
            [row["x"] for row in ours["memory"]], [row["peak_mib"] for row in ours["memory"]]
        ),
        "time over the batch": slope([row["x"] for row in ours["batch"]], [row["median_ms"] for row in ours["batch"]]),
    }
    print(", ".join(f"{name}: exponent {value:.2f}" for name, value in payload["exponents"].items()))
    payload["threads"] = thread_rows(arguments.threads, arguments.rounds)
    draw(payload, arguments.picture)
    commands.write("scaling", arguments, **payload)


if __name__ == "__main__":
    main()
