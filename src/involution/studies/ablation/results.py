"""The paper's three ablations (kernel size, channels per group, φ) on small nets: what is varied, table, picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import Any

from torch import nn

from ...models.rednet import RedNet
from ..costs.published import ABLATIONS

__all__ = [
    "BASE",
    "CHANNELS",
    "LAYERS",
    "PARTS",
    "AblationResult",
    "Variant",
    "build",
    "figure",
    "markdown",
    "net_key",
    "nets",
]

# A block per stage and an eighth of RedNet's widths: small enough for a CPU.
LAYERS, CHANNELS = (1, 1, 1, 1), (8, 16, 32, 64)
BASE: dict[str, Any] = {
    "kernel_size": 7,
    "group_channels": 8,
    "groups": None,
    "reduction": 4,
    "kernel_generator": "bottleneck",
}


@dataclass(frozen=True)
class Variant:
    """A row of an ablation.

    Attributes:
        name: of the row here.
        paper: of the row of the paper's that it stands beside, a key of `involution.studies.costs.published.ABLATIONS`.
        options: arguments of RedNet that differ from `BASE`.
    """

    name: str
    paper: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def arguments(self) -> dict[str, Any]:
        """All of RedNet's arguments that the ablations vary."""
        return {**BASE, **self.options}

    @property
    def paper_top1(self) -> float:
        """The paper's accuracy on ImageNet, percent."""
        return float(ABLATIONS[self.paper].accuracy["top-1"])


# In a net of an eighth of the width the channels of a group and the reduction are scaled down where the paper's do not
# fit: the first stage has eight channels. The last row of a part that has the default's options is the default.
PARTS: dict[str, tuple[Variant, ...]] = {
    "kernel size": tuple(Variant(f"K={k}", f"K={k}", {"kernel_size": k}) for k in (3, 5, 7, 9)),
    "channels per group": (
        Variant("C/G=2", "C/G=1", {"group_channels": 2}),
        Variant("C/G=4", "C/G=4", {"group_channels": 4}),
        Variant("C/G=8", "C/G=16"),
        Variant("C/G=C", "C/G=C", {"groups": 1}),
    ),
    "φ": (
        Variant("φ=W", "φ=W", {"kernel_generator": "linear"}),
        Variant("r=1", "r=1", {"reduction": 1}),
        Variant("r=4", "r=4"),
        Variant("r=8", "r=16", {"reduction": 8}),
    ),
}


def net_key(arguments: Mapping[str, Any]) -> str:
    """Return a name for the net with these arguments; rows that mean the same net share it."""
    groups = "1group" if arguments["groups"] else f"cg{arguments['group_channels']}"
    generator = "linear" if arguments["kernel_generator"] == "linear" else f"r{arguments['reduction']}"
    return f"k{arguments['kernel_size']}-{groups}-{generator}"


def nets() -> dict[str, dict[str, Any]]:
    """Return RedNet's arguments for every net of `PARTS`, by name."""
    return {net_key(variant.arguments): variant.arguments for variants in PARTS.values() for variant in variants}


def build(arguments: Mapping[str, Any], in_chans: int, num_classes: int) -> nn.Module:
    """Return an untrained net for the arguments of one of `nets`."""
    return RedNet(LAYERS, stem="small", channels=CHANNELS, in_chans=in_chans, num_classes=num_classes, **arguments)


@dataclass(frozen=True)
class AblationResult:
    """What was measured of one trained net.

    Attributes:
        net: its name.
        seed: of its weights and its training.
        test_accuracy_percent: after the last epoch.
        training_s: seconds spent on training batches, without evaluation.
        training_cpu_s: seconds that processors worked on them, all threads together.
        params: parameters.
        macs: multiply-adds for one image.
        history: a row an epoch, see `involution.tasks.callbacks.History`.
        finished: date and time (UTC).
    """

    net: str
    seed: int
    test_accuracy_percent: float
    training_s: float
    training_cpu_s: float
    params: int
    macs: int
    history: list[dict[str, Any]]
    finished: str


def _accuracies(results: Sequence[AblationResult], variant: Variant) -> list[float]:
    key = net_key(variant.arguments)
    return [result.test_accuracy_percent for result in results if result.net == key]


def markdown(results: Sequence[AblationResult]) -> str:
    """Return the ablations as a table beside the paper's: means over the seeds, ± their standard deviation.

    Args:
        results: of every net of `PARTS`, with the same seeds.
    """
    seeds = len({result.seed for result in results})
    accuracy = "accuracy, %" if seeds == 1 else f"accuracy, % (mean of {seeds} seeds ± standard deviation)"
    lines = [
        f"| ablation | here | {accuracy} | parameters | multiply-adds, M | in the paper | top-1 on ImageNet, % |",
        "|---|---|---|---|---|---|---|",
    ]
    for part, variants in PARTS.items():
        for variant in variants:
            values = _accuracies(results, variant)
            spread = f" ± {stdev(values):.2f}" if seeds > 1 else ""
            result = next(r for r in results if r.net == net_key(variant.arguments))
            lines.append(
                f"| {part} | {variant.name} | {mean(values):.2f}{spread} | {result.params:,} | {result.macs / 1e6:.2f} "
                f"| {variant.paper} | {variant.paper_top1:.1f} |"
            )
    return "\n".join(lines) + "\n"


def figure(results: Sequence[AblationResult]) -> Any:
    """Draw how far every row is from the default one, here and in the paper, in points of accuracy."""
    from ...pictures.plots import LIGHT, new_figure, style_axes

    drawing = new_figure(10.5, 3.4)
    default = [r.test_accuracy_percent for r in results if r.net == net_key(BASE)]
    for axes, (part, variants) in zip(drawing.subplots(1, 3), PARTS.items()):
        style_axes(axes)
        base = next(v for v in variants if v.arguments == BASE)
        steps = range(len(variants))
        paper = [v.paper_top1 - base.paper_top1 for v in variants]
        ours = [[a - b for a, b in zip(_accuracies(results, v), default, strict=True)] for v in variants]
        for x, differences in zip(steps, ours, strict=True):
            if len(differences) > 1:
                axes.plot([x] * len(differences), differences, "o", color=LIGHT.involution, markersize=3, alpha=0.4)
        axes.plot(steps, paper, "o--", color=LIGHT.muted, linewidth=1.3, markersize=4, label="the paper, ImageNet")
        axes.plot(steps, list(map(mean, ours)), "o-", color=LIGHT.involution, linewidth=2.2, label="here")
        names = [v.name if v.name == v.paper else f"{v.name}\n({v.paper})" for v in variants]
        axes.set_xticks(list(steps), names)
        axes.axhline(0, color=LIGHT.grid, linewidth=1.2)
        axes.set_title(part, loc="left", color=LIGHT.ink, fontsize=10)
        axes.margins(x=0.1, y=0.15)
    first = drawing.axes[0]
    first.set_ylabel("points from the default", color=LIGHT.muted, fontsize=9)
    first.legend(frameon=False, labelcolor=LIGHT.ink, fontsize=9, loc="lower right")
    drawing.tight_layout(w_pad=2)
    return drawing
