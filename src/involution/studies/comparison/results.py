"""The figures of a comparison: what was measured of each net, and the table they make."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import Any

from torch import Tensor

from .architecture import Layer

__all__ = ["REPORTED", "Comparison", "NetResult", "Reported", "Samples", "TableRow", "duration", "headline", "table"]


@dataclass(frozen=True)
class NetResult:
    """What was measured of one trained net.

    Attributes:
        operator: ``"convolution"`` or ``"involution"``.
        seed: of its weights and its training.
        test_accuracy_percent: after the last epoch.
        training_s: seconds spent on training batches, without evaluation.
        training_cpu_s: seconds that processors worked on them, all threads together.
        params: trainable parameters.
        spatial_params: those of the convolutions of neighbourhoods, or of the involutions with φ.
        macs: multiply-adds for one image.
        spatial_macs: those of the same layers.
        history: a row an epoch, see `involution.tasks.callbacks.History`.
        finished: date and time (UTC).
    """

    operator: str
    seed: int
    test_accuracy_percent: float
    training_s: float
    training_cpu_s: float
    params: int
    spatial_params: int
    macs: int
    spatial_macs: int
    history: list[dict[str, Any]]
    finished: str


@dataclass(frozen=True)
class Reported:
    """A row of the student report: Keras, 10 epochs (its text says 15 for MNIST), accuracy on the test images."""

    test_accuracy_percent: float
    params: int
    gpu_s: float
    cpu_s: float


REPORTED = {
    ("mnist", "convolution"): Reported(98.97, 34_826, 65.26, 502.75),
    ("mnist", "involution"): Reported(88.82, 544, 73.35, 323.23),
    ("fashion_mnist", "convolution"): Reported(91.91, 257_162, 86.23, 982.03),
    ("fashion_mnist", "involution"): Reported(82.34, 3_916, 479.08, 621.97),
    ("cifar10", "convolution"): Reported(64.78, 319_178, 142.44, 1077.86),
    ("cifar10", "involution"): Reported(31.10, 13_074, 203.27, 922.53),
}


@dataclass(frozen=True)
class Samples:
    """Test images and what the trained involution net makes of them.

    Attributes:
        images: uint8 ``(N, C, H, W)``.
        labels: their classes in print.
        heat_maps: ``(N, G, H', W')`` by layer.
        kernels: kernel fields ``(N, G, K, K, H', W')`` by layer.
    """

    images: Tensor
    labels: list[str]
    heat_maps: dict[str, Tensor]
    kernels: dict[str, Tensor]


@dataclass(frozen=True)
class Comparison:
    """Everything that a report shows.

    Attributes:
        dataset: key of the data set.
        title: the data set's name in print.
        variant: ``"published"`` or ``"fair"``.
        setting: a sentence on data and recipe.
        results: of all nets; every operator and seed once.
        layers: the nets' steps by operator.
        samples: what the involution net of the first seed makes of some images.
        quirks: what is unusual about the nets, by operator; empty lists for fair nets.
    """

    dataset: str
    title: str
    variant: str
    setting: str
    results: Sequence[NetResult]
    layers: dict[str, list[Layer]]
    samples: Samples
    quirks: dict[str, list[str]] = field(default_factory=dict)

    def of(self, operator: str) -> list[NetResult]:
        """Return the results of one operator, by seed."""
        return sorted((r for r in self.results if r.operator == operator), key=lambda result: result.seed)


@dataclass(frozen=True)
class TableRow:
    """One line of the table: numbers to compare, and how they are printed.

    Attributes:
        label: what was measured.
        values: by operator.
        texts: the same in print.
        detail: whether it explains the line above it.
    """

    label: str
    values: dict[str, float]
    texts: dict[str, str]
    detail: bool = False


def table(comparison: Comparison) -> list[TableRow]:
    """Return the comparison's table; with several seeds means, and the accuracy's standard deviation."""

    def row(label: str, key: str, text: Callable[[float], str], detail: bool = False) -> TableRow:
        values = {o: mean(float(getattr(r, key)) for r in comparison.of(o)) for o in comparison.layers}
        return TableRow(label, values, {o: text(v) for o, v in values.items()}, detail)

    rows = [
        row("test accuracy", "test_accuracy_percent", lambda v: f"{v:.2f} %"),
        row("parameters", "params", lambda v: f"{v:,.0f}"),
        row("in the spatial layers", "spatial_params", lambda v: f"{v:,.0f}", detail=True),
        row("multiply-adds", "macs", millions),
        row("in the spatial layers", "spatial_macs", millions, detail=True),
        row("training time", "training_s", duration),
    ]
    seeds = {result.seed for result in comparison.results}
    if len(seeds) > 1:
        spread = {o: stdev(r.test_accuracy_percent for r in comparison.of(o)) for o in comparison.layers}
        label = f"standard deviation over {len(seeds)} seeds"
        rows.insert(1, TableRow(label, spread, {o: f"{v:.2f}" for o, v in spread.items()}, True))
    if comparison.variant == "published" and (comparison.dataset, "involution") in REPORTED:
        reported = {o: REPORTED[comparison.dataset, o] for o in comparison.layers}
        accuracies = {o: r.test_accuracy_percent for o, r in reported.items()}
        times = {o: r.cpu_s for o, r in reported.items()}
        rows.insert(1, TableRow("in the report", accuracies, {o: f"{v:.2f} %" for o, v in accuracies.items()}, True))
        rows.append(TableRow("in the report, CPU", times, {o: duration(v) for o, v in times.items()}, True))
    return rows


def headline(comparison: Comparison) -> str:
    """Return one sentence that sums the comparison up in its own figures."""
    accuracy, params = (
        next(r for r in table(comparison) if r.label == label) for label in ("test accuracy", "parameters")
    )
    involution, convolution = accuracy.values["involution"], accuracy.values["convolution"]
    share = 100 * params.values["involution"] / params.values["convolution"]
    seeds = len({result.seed for result in comparison.results})
    return (
        f"{f'On average over {seeds} seeds, the' if seeds > 1 else 'The'} involution net classifies {involution:.1f} % of "
        f"the test images correctly, the convolution net {convolution:.1f} %; it has {share:.0f} % of its parameters."
    )


def duration(seconds: float) -> str:
    """Return ``"9.4 s"``, ``"63 s"`` or ``"12 min 3 s"``."""
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 20 else f"{seconds:.0f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60} s"


def millions(value: float) -> str:
    """Return ``"0.0014 M"``, ``"0.30 M"``, ``"12.3 M"`` or ``"1,234 M"``."""
    if value < 1e5:
        return f"{value / 1e6:.2g} M"
    return f"{value / 1e6:,.{2 if value < 1e7 else 1 if value < 1e8 else 0}f} M"
