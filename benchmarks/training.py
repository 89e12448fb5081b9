"""Time and memory of training small nets on the CPU: the nets of involution compare, and the CIFAR-10 recipes.

A training that shares its machine says nothing about time; this does, on a machine that does nothing else. The two nets
of a pair are timed in turn, step by step, on random images of the right size; an epoch is the median step times the
number of steps. Peak memory is that of a fresh process per net.

    python -m benchmarks.training [--threads 2] [--rounds 12] [--name NAME] [--run N] [--output results]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from involution.counting import count
from involution.recipes import resolve
from involution.studies.comparison.nets import DESIGNS, OPERATORS, VARIANTS, comparison_net
from involution.studies.comparison.training import RECIPES
from involution.studies.search.evaluate import build

from . import commands
from .memory import in_fresh_process, resident_peak_mib
from .nets import sgd_step
from .timing import medians

TRAINING_IMAGES = {"digits": 1347, "mnist": 60_000, "fashion_mnist": 60_000, "cifar10": 50_000}
CIFAR = Path(__file__).parent.parent / "recipes" / "cifar10"
PAIR = ("resnet14_eighth", "rednet14_eighth")

Maker = Callable[[], nn.Module]


def recipe_net(recipe: str) -> nn.Module:
    """Build the net of a recipe in recipes/cifar10."""
    return build(resolve(CIFAR / f"{recipe}.yaml"))


def pairs() -> Iterator[tuple[str, str, int, dict[str, Maker]]]:
    """Yield data set, kind of nets, batch size and the makers of the nets that are compared."""
    for dataset in DESIGNS:
        for variant in VARIANTS:
            makers = {o: (lambda o=o, d=dataset, v=variant: comparison_net(d, v, o)) for o in OPERATORS}
            yield dataset, variant, RECIPES[dataset, variant].batch_size, makers
    yield "cifar10", "recipe", 128, {name: (lambda name=name: recipe_net(name)) for name in PAIR}


def images(dataset: str, batch: int) -> Tensor:
    return torch.randn(batch, *DESIGNS[dataset].input_shape).to(memory_format=torch.channels_last)


def training_step(net: nn.Module, dataset: str, batch: int) -> Callable[[], None]:
    """Return a function that takes one step."""
    net.train().to(memory_format=torch.channels_last)
    return sgd_step(net, images(dataset, batch), 10, momentum=0.9)


def inference(net: nn.Module, dataset: str, batch: int) -> Callable[[], None]:
    """Return a function that evaluates one batch."""
    net.eval().to(memory_format=torch.channels_last)
    x = images(dataset, batch)

    def forward() -> None:
        with torch.inference_mode():
            net(x)

    return forward


def _peak_of(name: str, dataset: str, batch: int, threads: int) -> float:
    torch.set_num_threads(threads)
    step = training_step(recipe_net(name), dataset, batch)
    before = resident_peak_mib()
    for _ in range(2):
        step()
    return resident_peak_mib() - before


def peak_mib(name: str, dataset: str, batch: int, threads: int) -> float:
    """Return by how much two training steps raise the peak of resident memory of a fresh process."""
    return in_fresh_process(_peak_of, name, dataset, batch, threads)


def main() -> None:
    parser = commands.parser(__doc__, rounds=12)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    rows = []
    for dataset, kind, batch, makers in pairs():
        nets = {name: make() for name, make in makers.items()}
        costs = {name: count(net, DESIGNS[dataset].input_shape) for name, net in nets.items()}
        steps = medians({n: training_step(net, dataset, batch) for n, net in nets.items()}, arguments.rounds)
        forward = medians({n: inference(net, dataset, batch) for n, net in nets.items()}, arguments.rounds)
        for name in nets:
            row = {
                "dataset": dataset,
                "kind": kind,
                "net": name,
                "batch": batch,
                "params": costs[name].params,
                "macs": costs[name].macs,
                "training_step": steps[name],
                "epoch_s": math.ceil(TRAINING_IMAGES[dataset] / batch) * steps[name]["median_ms"] / 1e3,
                "training_images_per_s": 1e3 * batch / steps[name]["median_ms"],
                "inference_images_per_s": 1e3 * batch / forward[name]["median_ms"],
            }
            if kind == "recipe":
                row["peak_mib"] = peak_mib(name, dataset, batch, arguments.threads)
            rows.append(row)
            print(
                f"{dataset:14s} {kind:10s} {name:16s} {row['epoch_s']:7.1f} s an epoch, training "
                f"{row['training_images_per_s']:7.0f}, inference {row['inference_images_per_s']:7.0f} images a second",
                flush=True,
            )
    commands.write("training", arguments, results=rows)


if __name__ == "__main__":
    main()
