"""Involution and its relatives in one small net: same skeleton, same recipe, another layer in the bottlenecks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn

from ...kernel_generation import KernelGenerator, SANPairwiseKernelGenerator, SANPatchwiseKernelGenerator
from ...models.rednet import RedNet
from ...modules import Involution2d
from .results import CHANNELS, LAYERS, AblationResult
from .summaries import Summary, summaries

__all__ = ["NETS", "TITLES", "build", "figure", "markdown"]

KERNEL_SIZE, GROUP_CHANNELS = 7, 8
TITLES = {
    "resnet": "ResNet, 3×3 convolution",
    "depthwise": "7×7 depthwise convolution",
    "rednet": "RedNet",
    "sasa": "stand-alone self-attention",
    "san_pairwise": "SAN, pairwise",
    "san_patchwise": "SAN, patchwise",
    "local_relation": "local relation",
}
# What each net's layer is made of; where a finished net is kept, this is part of its name.
_SHARED = {"kernel_size": KERNEL_SIZE, "group_channels": GROUP_CHANNELS}
NETS: dict[str, dict[str, Any]] = {
    "resnet": {"layer": "resnet", "kernel_size": 3},
    "depthwise": {"layer": "depthwise", "kernel_size": KERNEL_SIZE},
    # Those that take longest come last.
    **{net: {"layer": net, **_SHARED} for net in ("rednet", "local_relation", "sasa", "san_patchwise", "san_pairwise")},
}


def build(arguments: Mapping[str, Any], in_chans: int, num_classes: int) -> nn.Module:
    """Return an untrained net for the arguments of one of `NETS`."""
    return RedNet(
        LAYERS,
        stem="small",
        channels=CHANNELS,
        spatial_layer=_layer(arguments["layer"]),
        in_chans=in_chans,
        num_classes=num_classes,
    )


def _layer(net: str) -> Any:
    if net == "resnet":
        return "convolution"
    if net == "depthwise":
        return _depthwise
    if net in _SAN:
        return partial(_san, _SAN[net])
    generator = "bottleneck" if net == "rednet" else net
    return partial(Involution2d, kernel_size=KERNEL_SIZE, group_channels=GROUP_CHANNELS, kernel_generator=generator)


def _depthwise(
    in_channels: int, out_channels: int, *, stride: Any, dilation: Any, device: Any, dtype: Any
) -> nn.Module:
    like = {"device": device, "dtype": dtype}
    return nn.Conv2d(
        in_channels, out_channels, KERNEL_SIZE, stride, KERNEL_SIZE // 2, groups=out_channels, bias=False, **like
    )


_SAN: dict[str, Callable[..., KernelGenerator]] = {
    "san_pairwise": SANPairwiseKernelGenerator,
    "san_patchwise": SANPatchwiseKernelGenerator,
}


def _san(
    generator: Callable[..., KernelGenerator],
    in_channels: int,
    out_channels: int,
    *,
    stride: Any,
    dilation: Any,
    device: Any,
    dtype: Any,
) -> nn.Module:
    # In SAN's nets query and key have a quarter of the values' channels; by name φ takes a sixteenth, for whole stages.
    phi = generator(
        in_channels,
        KERNEL_SIZE,
        out_channels // GROUP_CHANNELS,
        relation_channels=out_channels // 4,
        stride=stride,
        dilation=dilation,
    )
    layer = Involution2d(
        in_channels,
        out_channels,
        KERNEL_SIZE,
        stride=stride,
        dilation=dilation,
        group_channels=GROUP_CHANNELS,
        kernel_generator=phi,
    )
    return layer.to(device=device, dtype=dtype)


def markdown(results: Sequence[AblationResult], times: Mapping[str, Mapping[str, float]] | None = None) -> str:
    """Return the nets as a table, the most accurate first.

    Args:
        results: of the nets, with the same seeds.
        times: of the nets, milliseconds: ``inference_ms`` and ``training_ms``, by name; columns of their own.
    """
    found = sorted(summaries(results), key=lambda summary: -summary.mean_percent)
    seeds = max(summary.n for summary in found)
    head = f"accuracy, % (mean of {seeds} seeds and its 95 % interval)" if seeds > 1 else "accuracy, % (one seed)"
    columns = [
        "layer",
        head,
        "parameters",
        "multiply-adds, M",
        *(["inference, ms", "training step, ms"] if times else []),
    ]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for summary in found:
        cells = [TITLES[summary.net], _accuracy(summary), f"{summary.params:,}", f"{summary.macs / 1e6:.2f}"]
        if times:
            cells += [f"{times[summary.net][key]:.1f}" for key in ("inference_ms", "training_ms")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _accuracy(summary: Summary) -> str:
    if summary.interval_percent is None:
        return f"{summary.mean_percent:.2f}"
    low, high = summary.interval_percent
    return f"{summary.mean_percent:.2f} ({low:.2f} to {high:.2f})"


_COLOURS = {
    "resnet": "#3d405b",
    "depthwise": "#8a8fa3",
    "rednet": "#c1121f",
    "sasa": "#c08a3e",
    "san_pairwise": "#5e7ce2",
    "san_patchwise": "#2a9d8f",
    "local_relation": "#4c8c4a",
}


def figure(results: Sequence[AblationResult], times: Mapping[str, Mapping[str, float]] | None = None) -> Any:
    """Draw accuracy against parameters, multiply-adds and, where given, the time of a training step."""
    from ...pictures.plots import LIGHT, new_figure, style_axes

    found = summaries(results)
    panels: list[tuple[str, dict[str, float]]] = [
        ("parameters, thousands", {summary.net: summary.params / 1e3 for summary in found}),
        ("multiply-adds, millions", {summary.net: summary.macs / 1e6 for summary in found}),
    ]
    if times:
        panels.append(("training step of 128 images, ms", {net: times[net]["training_ms"] for net in times}))
    drawing = new_figure(4.1 * len(panels), 4.2)
    for axes, (title, costs) in zip(drawing.subplots(1, len(panels), sharey=True), panels, strict=True):
        style_axes(axes)
        for summary in found:
            colour = _COLOURS[summary.net]
            if summary.interval_percent is not None:
                axes.plot([costs[summary.net]] * 2, summary.interval_percent, color=colour, linewidth=1.2, alpha=0.6)
            axes.plot(
                costs[summary.net],
                summary.mean_percent,
                "o" if summary.net in ("resnet", "depthwise") else "D",
                color=colour,
                markersize=8,
                label=TITLES[summary.net],
            )
        axes.set_xlabel(title, color=LIGHT.ink, fontsize=9)
        axes.margins(0.15)
    first = drawing.axes[0]
    first.set_ylabel("accuracy on the test images, %", color=LIGHT.muted, fontsize=9)
    handles, labels = first.get_legend_handles_labels()
    drawing.legend(handles, labels, frameon=False, labelcolor=LIGHT.ink, fontsize=8.5, loc="lower center", ncols=4)
    drawing.tight_layout(w_pad=2, rect=(0, 0.13, 1, 1))
    return drawing
