"""What each mechanism of the CPU backend brings to whole nets: their time with it and without it, interleaved.

A mechanism of the kernels (weights shared by a tile, vector conversions of half precision) is left out by a build of its
own into ``build/without``; one of Python by handing the operator less. RedNet-50 in inference (batch 1
and 8) and in a training step (batch 8), float32 and, for the conversions, float16; its first stage's involution by a
field in memory, as a φ of one's own gives it. The kernels of every build are handed over by the same call, "everything"
as well; it is timed twice in a round, and how far its second time is from its first says what of the others is chance.
What brings less than three percent of time or memory somewhere has no place.

    python -m benchmarks.without [--without NAME …] [--threads 2] [--rounds 15] [--model rednet50] [--name NAME] [--run N]
                                 [--output results]
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

import involution.models  # noqa: F401
from involution import Involution2d, backends, involution2d
from involution.backends import native
from involution.backends.native import loader
from involution.memory_layout import empty_field

from . import commands
from .memory import in_fresh_process, resident_peak_mib
from .nets import images, sgd_step
from .timing import medians

BUILDS = {
    "shared weights": "SHARED_WEIGHTS",
    "vector conversions": "VECTOR_CONVERSIONS",
}


def build(mechanism: str) -> Any:
    """Compile the kernels without a mechanism; return the address of their table."""
    folder = Path("build/without") / mechanism.replace(" ", "_")
    for command in (
        ["cmake", "-S", ".", "-B", str(folder), f"-DINVOLUTION_WITHOUT={BUILDS[mechanism]}"],
        ["cmake", "--build", str(folder), "--parallel"],
    ):
        subprocess.run(command, check=True, capture_output=True)
    library = loader.load(next(folder.glob("*involution_native.*")))
    if isinstance(library, str):
        raise SystemExit(library)
    return library.handle.involution_kernels()


def _handle() -> Any:
    library = loader.registered()
    if isinstance(library, str):
        raise SystemExit(library)
    return library.handle


def own_kernels() -> Any:
    """Return the address of the table of kernels in use."""
    return _handle().involution_kernels()


@contextmanager
def with_kernels(kernels: Any) -> Iterator[None]:
    """Let the operators use the kernels of another build for a while."""
    before = own_kernels()
    _handle().involution_use_kernels(kernels)
    try:
        yield
    finally:
        _handle().involution_use_kernels(before)


@contextmanager
def with_whole_field() -> Iterator[None]:
    """Let φ's last matrix be applied before the kernels are called."""
    before = Involution2d.generate_kernel
    Involution2d.generate_kernel = lambda module, input: before(module, input).field()
    try:
        yield
    finally:
        Involution2d.generate_kernel = before


class Contractions:
    """The native backend without those of its functions that make the field themselves."""

    name = "native contractions"
    unsupported = staticmethod(native.unsupported)
    forward = staticmethod(native.forward)
    input_gradient = staticmethod(native.input_gradient)
    kernel_gradient = staticmethod(native.kernel_gradient)


backends.register(Contractions(), first=False)

# By name, a context in which the mechanism is missing; those of BUILDS are made when they are asked for.
CONTEXTS: dict[str, Callable[[], Any]] = {
    # The field is made whole by a convolution, and kept for the backward pass.
    "generation in the operator": with_whole_field,
    # The field is made whole in the forward pass, and again in pieces in the backward pass.
    "field by tiles": lambda: backends.use(Contractions.name),
}


def contexts(names: list[str]) -> dict[str, Callable[[], Any]]:
    """Return for each mechanism how to be without it."""
    found = {}
    for name in names:
        if name in CONTEXTS:
            found[name] = CONTEXTS[name]
        elif name in BUILDS:
            found[name] = partial(with_kernels, build(name))
        else:
            raise SystemExit(f"no mechanism is called {name!r}; expected one of {', '.join([*CONTEXTS, *BUILDS])}")
    return found


def inference(model: nn.Module, batch: int, dtype: torch.dtype) -> Callable[[], None]:
    """Return a function that runs the net once in evaluation."""
    model = model.eval().to(dtype)
    x = images(batch, dtype)

    def run() -> None:
        with torch.inference_mode():
            model(x)

    return run


def field_in_memory(batch: int, dtype: torch.dtype) -> Callable[[], None]:
    """Return a function that runs the involution of RedNet's first stage by a field that is a tensor."""
    x = torch.randn(batch, 64, 56, 56, dtype=dtype).to(memory_format=torch.channels_last)
    h = empty_field(x, (batch, 4, 7, 7, 56, 56), True)
    h.copy_(torch.randn(h.shape))

    def run() -> None:
        with torch.inference_mode():
            involution2d(x, h)

    return run


def training_step(model: nn.Module, batch: int) -> Callable[[], None]:
    """Return a function that takes one step of SGD."""
    return sgd_step(model.train(), images(batch), 1000)


def measure(function: Callable[[], None], without: dict[str, Callable[[], Any]], rounds: int) -> dict[str, Any]:
    """Time a function with everything and without each mechanism, one after the other in every round."""

    def in_context(context: Callable[[], Any]) -> Callable[[], None]:
        def run() -> None:
            with context():
                function()

        return run

    own = partial(with_kernels, own_kernels())
    contexts = {"everything": own, **without, "everything again": own}
    times = medians({name: in_context(context) for name, context in contexts.items()}, rounds)
    whole = times["everything"]["median_ms"]
    return {"times": times, "ratios": {name: value["median_ms"] / whole for name, value in times.items()}}


def net(model: str) -> nn.Module:
    return timm.create_model(model).to(memory_format=torch.channels_last)


def _peak_of(model: str, name: str | None, threads: int) -> float:
    torch.set_num_threads(threads)
    step = training_step(net(model), 8)
    with contexts([name])[name]() if name else nullcontext():
        before = resident_peak_mib()
        for _ in range(2):
            step()
    return resident_peak_mib() - before


def main() -> None:
    parser = commands.parser(__doc__, rounds=15)
    parser.add_argument("--without", nargs="+", default=[*CONTEXTS, *BUILDS])
    parser.add_argument("--model", default="rednet50")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    without = contexts(arguments.without)

    of_builds = {name: context for name, context in without.items() if name in BUILDS}
    few, many = arguments.rounds, 20 * arguments.rounds
    rows = []
    for kind, function, mechanisms, rounds in (
        ("inference, batch 1", inference(net(arguments.model), 1, torch.float32), without, few),
        ("inference, batch 8", inference(net(arguments.model), 8, torch.float32), without, few),
        ("inference, batch 1, float16", inference(net(arguments.model), 1, torch.float16), without, few),
        ("field in memory, batch 1", field_in_memory(1, torch.float32), of_builds, many),
        ("field in memory, batch 8", field_in_memory(8, torch.float32), of_builds, many),
        ("field in memory, batch 8, float16", field_in_memory(8, torch.float16), of_builds, many),
        ("training step, batch 8", training_step(net(arguments.model), 8), without, few),
    ):
        row = {"kind": kind, **measure(function, mechanisms, rounds)}
        rows.append(row)
        print(f"\n{kind}: {row['times']['everything']['median_ms']:.1f} ms")
        for name, ratio in row["ratios"].items():
            if name != "everything":
                print(f"  {name if name == 'everything again' else f'without {name}':38s} {ratio:.3f}", flush=True)
    peak = {
        name or "everything": in_fresh_process(_peak_of, arguments.model, name, arguments.threads)
        for name in [None, *without]
    }
    rows[-1]["peak_mib"] = peak
    print("\nby how much two training steps raise the peak of memory")
    for name, mib in peak.items():
        print(f"  {name if name == 'everything' else f'without {name}':38s} {mib:.0f} MiB", flush=True)
    commands.write("without", arguments, model=arguments.model, results=rows)


if __name__ == "__main__":
    main()
