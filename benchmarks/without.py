"""What each mechanism of the CPU backend brings to whole nets: their time with it and without it, interleaved.

A mechanism of the kernels (prefetch, weights shared by a tile, vector conversions of half precision) is left out by a
build of its own into ``build/without``; one of Python by handing the operator less. RedNet-50 in inference (batch 1
and 8) and in a training step (batch 8), float32 and, for the conversions, float16; what brings less than three percent
of time or memory somewhere has no place.

    python -m benchmarks.without [--without NAME …] [--threads 2] [--rounds 15] [--model rednet50] [--output results]
"""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn
from torch.nn import functional as F

import involution.models  # noqa: F401
from involution import Involution2d, records
from involution.backends import native
from involution.backends.native import loader

from .timing import medians

IMAGE = 224
BUILDS = {
    "prefetch": "PREFETCH",
    "shared weights": "SHARED_WEIGHTS",
    "vector conversions": "VECTOR_CONVERSIONS",
}


def build(mechanism: str) -> loader.Kernels:
    """Compile the kernels without a mechanism and load them."""
    folder = Path("build/without") / mechanism.replace(" ", "_")
    for command in (
        ["cmake", "-S", ".", "-B", str(folder), f"-DINVOLUTION_WITHOUT={BUILDS[mechanism]}"],
        ["cmake", "--build", str(folder), "--parallel"],
    ):
        subprocess.run(command, check=True, capture_output=True)
    kernels = loader.load(next(folder.glob("*involution_native.*")))
    if isinstance(kernels, str):
        raise SystemExit(kernels)
    return kernels


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Let an attribute have another value for a while."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def without_attribute(owner: Any, name: str) -> Iterator[None]:
    """Let an attribute be missing for a while."""
    before = getattr(owner, name)
    delattr(owner, name)
    try:
        yield
    finally:
        setattr(owner, name, before)


_GENERATE = Involution2d.generate_kernel

# By name, a context in which the mechanism is missing; those of BUILDS are made when they are asked for.
CONTEXTS: dict[str, Callable[[], Any]] = {
    # The field is made whole by a convolution, and kept for the backward pass.
    "generation in the operator": lambda: replaced(
        Involution2d, "generate_kernel", lambda module, input: _GENERATE(module, input).field()
    ),
    # The field is made whole, not tile by tile.
    "field by tiles": lambda: without_attribute(native, "span_and_contract"),
    # The field is made again in pieces in Python, its gradient too.
    "span gradients in one call": lambda: without_attribute(native, "span_gradients"),
}


def contexts(names: list[str]) -> dict[str, Callable[[], Any]]:
    """Return for each mechanism how to be without it."""
    found = {}
    for name in names:
        if name in CONTEXTS:
            found[name] = CONTEXTS[name]
        elif name in BUILDS:
            kernels = build(name)
            found[name] = lambda kernels=kernels: replaced(loader, "kernels", lambda: kernels)
        else:
            raise SystemExit(f"no mechanism is called {name!r}; expected one of {', '.join([*CONTEXTS, *BUILDS])}")
    return found


def inference(model: nn.Module, batch: int, dtype: torch.dtype) -> Callable[[], None]:
    """Return a function that runs the net once in evaluation."""
    model = model.eval().to(dtype)
    x = torch.randn(batch, 3, IMAGE, IMAGE, dtype=dtype).to(memory_format=torch.channels_last)

    def run() -> None:
        with torch.inference_mode():
            model(x)

    return run


def training_step(model: nn.Module, batch: int) -> Callable[[], None]:
    """Return a function that takes one step of SGD."""
    model = model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    x = torch.randn(batch, 3, IMAGE, IMAGE).to(memory_format=torch.channels_last)
    labels = torch.randint(1000, (batch,))

    def run() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), labels).backward()
        optimizer.step()

    return run


def measure(function: Callable[[], None], without: dict[str, Callable[[], Any]], rounds: int) -> dict[str, Any]:
    """Time a function with everything and without each mechanism, one after the other in every round."""

    def in_context(context: Callable[[], Any]) -> Callable[[], None]:
        def run() -> None:
            with context():
                function()

        return run

    times = medians({n: in_context(c) for n, c in {"everything": nullcontext, **without}.items()}, rounds)
    whole = times["everything"]["median_ms"]
    return {"times": times, "ratios": {name: value["median_ms"] / whole for name, value in times.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--without", nargs="+", default=[*CONTEXTS, *BUILDS])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--model", default="rednet50")
    parser.add_argument("--output", type=Path, default=Path("results"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    without = contexts(arguments.without)

    def net() -> nn.Module:
        return timm.create_model(arguments.model).to(memory_format=torch.channels_last)

    rows = []
    for kind, function in (
        ("inference, batch 1", inference(net(), 1, torch.float32)),
        ("inference, batch 8", inference(net(), 8, torch.float32)),
        ("inference, batch 1, float16", inference(net(), 1, torch.float16)),
        ("training step, batch 8", training_step(net(), 8)),
    ):
        row = {"kind": kind, **measure(function, without, arguments.rounds)}
        rows.append(row)
        print(f"\n{kind}: {row['times']['everything']['median_ms']:.1f} ms")
        for name, ratio in row["ratios"].items():
            print(f"  without {name:30s} {ratio:.3f}" if name != "everything" else "", flush=True)
    payload = {"seed": 0, "instruction_set": native.instruction_set(), "model": arguments.model, "results": rows}
    name = f"without-cpu-{arguments.threads}-thread{'s' if arguments.threads > 1 else ''}"
    print(f"\n{records.write(name, payload, arguments.output)}")


if __name__ == "__main__":
    main()
