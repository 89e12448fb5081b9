"""RedNets on the CPU against ResNets: latency of inference and of a training step, and the memory of training.

All nets of a batch size are timed once per round in one process, in channels_last; figures are medians over the rounds.
Every RedNet meets torchvision's ResNet of its depth (timm's where torchvision has none) and its own control: the same
definition with 3×3 convolutions. All are treated alike: as they are, folded (`involution.fold_batch_norms`), under
torch.compile, and folded under torch.compile with Inductor's freezing. Peak memory is that of a fresh process per net.

    python -m benchmarks.nets [--threads 2] [--batch 1 8] [--rounds 30] [--depths 26 38 50 101 152] [--quick]
                              [--compile] [--freeze] [--bfloat16] [--skip-training] [--name NAME] [--run N]
                              [--output results]

With ``--compile`` the nets are compiled, too, the training step among them. With ``--freeze`` the frozen nets alone are
timed. With ``--bfloat16`` inference is timed in bfloat16 too, and the training step under autocast. Machines have faster and
slower minutes: several runs (``--run 2`` adds to the record's name) say what a ratio is worth.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

import involution.models  # noqa: F401
from involution import fold_batch_norms

from . import commands
from .memory import in_fresh_process, resident_peak_mib, saved_mib
from .timing import medians

IMAGE, TRAINING_BATCH = 224, 8


def resnet(depth: int) -> nn.Module:
    """Return the convolutional net of the same depth, as its users build it."""
    if hasattr(torchvision.models, f"resnet{depth}"):
        return getattr(torchvision.models, f"resnet{depth}")()
    layers = {26: (1, 2, 4, 1), 38: (2, 3, 5, 2)}[depth]
    return timm.models.resnet.ResNet(timm.models.resnet.Bottleneck, layers)


def nets(depth: int) -> dict[str, Callable[[], nn.Module]]:
    """Return the makers of a RedNet and of what it is compared with."""
    return {
        f"resnet{depth}": lambda: resnet(depth),
        f"rednet{depth}": lambda: timm.create_model(f"rednet{depth}"),
        f"rednet{depth} with convolutions": lambda: timm.create_model(f"rednet{depth}", spatial_layer="convolution"),
    }


def images(batch: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(batch, 3, IMAGE, IMAGE, dtype=dtype).to(memory_format=torch.channels_last)


FOLDED = ", folded"


def ratios(times: dict[str, dict[str, float]], depth: int) -> dict[str, float]:
    """Return the time of every net over that of the ResNet of the same depth, of a folded one over the folded ResNet."""
    own = {suffix: times.get(f"resnet{depth}{suffix}", {}).get("median_ms") for suffix in ("", FOLDED)}
    return {
        name: value["median_ms"] / baseline
        for name, value in times.items()
        if (baseline := own[FOLDED if name.endswith(FOLDED) else ""])
    }


def inference(
    depth: int, batch: int, rounds: int, treatment: str, dtype: torch.dtype = torch.float32
) -> dict[str, dict[str, float]]:
    """Time the forward pass in evaluation: ``"plain"`` (and folded), ``"compiled"`` or ``"frozen"``."""
    models = {n: make().eval().to(dtype, memory_format=torch.channels_last) for n, make in nets(depth).items()}
    x = images(batch, dtype)
    # Dynamo looks at the setting itself: as an option of torch.compile freezing has no effect.
    with torch.no_grad(), torch._inductor.config.patch(freezing=treatment == "frozen"):
        if treatment == "plain":
            models |= {f"{name}{FOLDED}": fold_batch_norms(model)[0] for name, model in models.items()}
        else:
            # For this size alone; a second one would make the compiler's own kernels slower, for all nets.
            torch.compiler.reset()
            if treatment == "frozen":
                models = {name: fold_batch_norms(model)[0] for name, model in models.items()}
            models = {name: torch.compile(model, dynamic=False) for name, model in models.items()}
        return medians({name: lambda model=model: model(x) for name, model in models.items()}, rounds)


def sgd_step(model: nn.Module, x: Tensor, classes: int, autocast: bool = False, **options: Any) -> Callable[[], None]:
    """Return a function that takes one step of SGD with these ``options`` on a batch."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, **options)
    labels = torch.randint(classes, (len(x),))

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = F.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()

    return step


def training_step(make: Callable[[], nn.Module], autocast: bool = False, compiled: bool = False) -> Callable[[], None]:
    """Return a function that takes one step of SGD on one batch."""
    model: Any = make().train().to(memory_format=torch.channels_last)
    if compiled:
        model = torch.compile(model, dynamic=False)
    return sgd_step(model, images(TRAINING_BATCH), 1000, autocast, momentum=0.9, weight_decay=1e-4)


def _peak_of(depth: int, name: str, threads: int) -> float:
    torch.set_num_threads(threads)
    step = training_step(nets(depth)[name])
    before = resident_peak_mib()
    for _ in range(2):
        step()
    return resident_peak_mib() - before


def peak_mib(depth: int, name: str, threads: int) -> float:
    """Return by how much two training steps raise the peak of resident memory of a fresh process."""
    return in_fresh_process(_peak_of, depth, name, threads)


def show(title: str, times: dict[str, dict[str, float]], depth: int) -> None:
    """Print one line per net."""
    print(f"\n{title}")
    for name, ratio in ratios(times, depth).items():
        print(f"  {name:32s} {times[name]['median_ms']:9.1f} ms  {ratio:.2f}", flush=True)


def main() -> None:
    parser = commands.parser(__doc__, rounds=30)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--depths", type=int, nargs="+", default=[26, 38, 50, 101, 152])
    parser.add_argument("--quick", action="store_true", help="depth 50 only, ten rounds")
    parser.add_argument(
        "--compile", action="store_true", help="time depth 50 under torch.compile too, and its training step"
    )
    parser.add_argument(
        "--freeze", action="store_true", help="time depth 50 folded, compiled and frozen, and nothing else"
    )
    parser.add_argument("--bfloat16", action="store_true", help="time depth 50 in bfloat16 too")
    parser.add_argument("--skip-training", action="store_true", help="no training step, no memory")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.depths, arguments.rounds = [50], min(10, arguments.rounds)
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    rows = []

    def add(kind: str, depth: int, batch: int, times: dict[str, dict[str, float]], **more: object) -> None:
        show(f"{kind}, batch {batch}", times, depth)
        rows.append(
            {"kind": kind, "depth": depth, "batch": batch, "times": times, "ratios": ratios(times, depth), **more}
        )

    treatments = {"plain": "inference"} | ({"compiled": "inference, compiled"} if arguments.compile else {})
    if arguments.freeze:
        arguments.depths, arguments.skip_training = [50], True
        treatments = {"frozen": "inference, folded, compiled and frozen"}
    for depth in arguments.depths:
        for batch in arguments.batch:
            rounds = max(5, arguments.rounds // batch)
            for treatment, kind in treatments.items():
                if treatment == "plain" or depth == 50:
                    add(kind, depth, batch, inference(depth, batch, rounds, treatment))
                if arguments.bfloat16 and depth == 50:
                    times = inference(depth, batch, rounds, treatment, torch.bfloat16)
                    add(f"{kind}, bfloat16", depth, batch, times)
    if not arguments.skip_training:
        for depth in [50] if 50 in arguments.depths else arguments.depths[:1]:
            makers, rounds = nets(depth), max(5, arguments.rounds // 6)
            steps = {name: training_step(make) for name, make in makers.items()}
            times = medians(steps, rounds)
            del steps
            peak = {name: peak_mib(depth, name, arguments.threads) for name in makers}
            saved = {
                name: saved_mib(make().train().to(memory_format=torch.channels_last), images(TRAINING_BATCH))
                for name, make in makers.items()
            }
            add("training step", depth, TRAINING_BATCH, times, peak_mib=peak, saved_mib=saved)
            beside = [("training step, autocast to bfloat16", True, False)] if arguments.bfloat16 else []
            if arguments.compile:
                beside += [("training step, compiled", False, True)]
            if arguments.compile and arguments.bfloat16:
                beside += [("training step, compiled, autocast to bfloat16", True, True)]
            for kind, autocast, compiled in beside:
                steps = {name: training_step(make, autocast, compiled) for name, make in makers.items()}
                add(kind, depth, TRAINING_BATCH, medians(steps, rounds))
                # Before the next nets are made: they keep their gradients and their momentum.
                del steps
            for name in makers:
                print(f"  {name:32s} peak {peak[name]:7.0f} MiB, saved for backward {saved[name]:7.0f} MiB")
    # Latency alone, of all depths, stands beside the measurement of one depth in full.
    kind = "frozen" if arguments.freeze else "latency" if arguments.skip_training else "nets"
    commands.write(kind, arguments, results=rows)


if __name__ == "__main__":
    main()
