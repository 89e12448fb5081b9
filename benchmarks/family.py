"""Involution and its relatives on the CPU: time and memory of every layer at RedNet-50's four stage shapes.

Every layer is timed once per round, forward and backward, in channels_last; figures are medians over the rounds. Memory
is what the forward pass keeps for the backward pass, and by how much both raise the peak of a process of the layer's own.
The small nets of ``involution study family`` are timed as well: inference and training step of 128 images.

    python -m benchmarks.family [--threads 2] [--batch 1] [--rounds 20] [--output results]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from involution import Involution2d, records
from involution.backends import native
from involution.models.axial import AlongAxis, AxialAttention, PositionSensitiveAttention
from involution.studies.declared import reading
from involution.studies.latency.clock import forget_peak, peak_mib, resident_mib
from involution.studies.search.evaluate import build
from involution.upsampling import CARAFE

from .memory import in_fresh_process, saved_mib
from .operator import SHAPES, backward_of
from .timing import medians

IMAGES, STUDY = 128, Path("recipes/studies/family.yaml")


def _axial(channels: int, size: int, attention: Callable[[int], nn.Module]) -> nn.Module:
    return nn.Sequential(*(AlongAxis(attention(size), axis) for axis in (0, 1)))


def _involution(name: str, channels: int, kernel_size: int = 7, group_channels: int = 8) -> nn.Module:
    return Involution2d(channels, None, kernel_size, group_channels=group_channels, kernel_generator=name)


# By name, from channels and height (the width is the same); the kernels, heads and groups of the papers' nets.
LAYERS: dict[str, Callable[[int, int], nn.Module]] = {
    "convolution 3×3": lambda c, n: nn.Conv2d(c, c, 3, padding=1, bias=False),
    "depthwise 7×7": lambda c, n: nn.Conv2d(c, c, 7, padding=3, groups=c, bias=False),
    "bottleneck": lambda c, n: _involution("bottleneck", c, group_channels=16),
    "linear": lambda c, n: _involution("linear", c, group_channels=16),
    "attention": lambda c, n: _involution("attention", c, group_channels=c // 8),
    "sasa": lambda c, n: _involution("sasa", c, group_channels=c // 8),
    "local_relation": lambda c, n: _involution("local_relation", c),
    "san_patchwise": lambda c, n: _involution("san_patchwise", c),
    "san_pairwise": lambda c, n: _involution("san_pairwise", c),
    "outlook": lambda c, n: _involution("outlook", c, 5, 32),
    "axial attention": lambda c, n: _axial(c, n, lambda span: PositionSensitiveAttention(c, 8, span)),
    "axial attention, no positions": lambda c, n: _axial(c, n, lambda span: AxialAttention(c, 8)),
    "CARAFE to twice the size": lambda c, n: CARAFE(c, 2),
}


def layer(name: str, channels: int, size: int) -> nn.Module:
    """Return one of `LAYERS`, the same weights every time, as it is in training."""
    torch.manual_seed(0)
    return LAYERS[name](channels, size).to(memory_format=torch.channels_last)


def image(batch: int, channels: int, size: int) -> Tensor:
    """Return a map in channels_last, the same every time."""
    x = torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(1))
    return x.to(memory_format=torch.channels_last)


def peaks_of(name: str, batch: int, threads: int) -> list[float]:
    """Return by how much a forward and a backward pass raise this process's peak memory at each shape, in MiB."""
    torch.set_num_threads(threads)
    found = []
    # From the smallest map to the largest: what an allocator kept of one shape is too little for the next.
    for channels, size in reversed(SHAPES):
        module, x = layer(name, channels, size), image(batch, channels, size).requires_grad_()
        forget_peak()
        before = resident_mib()
        module(x).sum().backward()
        peak = peak_mib()
        if before is None or peak is None:
            raise RuntimeError("this system does not say how much memory a process takes; measure on Linux")
        found.append(peak - before)
    return found[::-1]


def measure(channels: int, size: int, batch: int, rounds: int) -> dict[str, Any]:
    """Return times and saved memory of all layers at one shape."""
    x = image(batch, channels, size)
    layers = {name: layer(name, channels, size) for name in LAYERS}
    with torch.no_grad():
        forward = medians({name: partial(module, x) for name, module in layers.items()}, rounds)
    backward = medians({name: backward_of(module, x) for name, module in layers.items()}, rounds)
    saved = {name: saved_mib(module, x.clone().requires_grad_()) for name, module in layers.items()}
    return {
        "channels": channels,
        "size": size,
        "batch": batch,
        "forward": forward,
        "backward": backward,
        "saved_mib": saved,
    }


def small_nets(rounds: int) -> dict[str, dict[str, float]]:
    """Return how long the small nets take for inference and for a training step of 128 images of 32×32 pixels."""
    images = torch.randn(IMAGES, 3, 32, 32).to(memory_format=torch.channels_last)
    labels = torch.randint(10, (IMAGES,))
    trainings = {entry.net: entry.plan for entry in reading.read(STUDY).entries()}
    nets = {name: build(plan).to(memory_format=torch.channels_last) for name, plan in trainings.items()}
    with torch.no_grad():
        inference = medians({name: partial(net.eval(), images) for name, net in nets.items()}, rounds)

    def step(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        F.cross_entropy(net(images), labels).backward()
        optimizer.step()

    steps = {name: partial(step, net.train(), torch.optim.Adam(net.parameters())) for name, net in nets.items()}
    training = medians(steps, rounds)
    return {
        name: {"inference_ms": inference[name]["median_ms"], "training_ms": training[name]["median_ms"]}
        for name in nets
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--output", type=Path, default=Path("results"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = [measure(channels, size, arguments.batch, arguments.rounds) for channels, size in SHAPES]
    for name in LAYERS:
        for row, peak in zip(rows, in_fresh_process(peaks_of, name, arguments.batch, arguments.threads), strict=True):
            row.setdefault("peak_mib", {})[name] = peak
    for row in rows:
        print(f"\n{row['batch']}×{row['channels']}×{row['size']}×{row['size']}")
        for name in LAYERS:
            times = ", ".join(f"{part} {row[part][name]['median_ms']:.2f} ms" for part in ("forward", "backward"))
            print(f"  {name:26s} {times}, saved {row['saved_mib'][name]:.1f}, peak {row['peak_mib'][name]:.1f} MiB")
    nets = small_nets(max(3, arguments.rounds // 4))
    for name, times in nets.items():
        print(f"  {name:16s} {', '.join(f'{key} {value:.1f}' for key, value in times.items())}")
    name = f"family-cpu-{arguments.threads}-thread{'s' if arguments.threads > 1 else ''}"
    payload = {"seed": 0, "instruction_set": native.instruction_set(), "results": rows, "nets": nets}
    print(f"\n{records.write(name, payload, arguments.output)}")


if __name__ == "__main__":
    main()
