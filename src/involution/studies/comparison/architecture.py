"""What a network consists of, read from its modules while an image passes through them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ...counting import count
from ...kernel_generation import BottleneckKernelGenerator, SpanMatrix
from ...modules import Involution2d

__all__ = ["Layer", "trace"]


@dataclass(frozen=True)
class Layer:
    """One step of a network.

    Attributes:
        kind: ``"convolution"`` (of a neighbourhood), ``"involution"``, ``"projection"`` (1×1 convolution), ``"linear"``,
            ``"pooling"``, ``"reshape"``, ``"norm"``, ``"activation"`` or ``"other"``.
        title: what it is, for print.
        output_shape: of one image, without the batch.
        params: parameters of the step itself.
        macs: multiply-adds for one image.
        followers: short names of the norms, activations and dropouts that follow it.
        follower_params: their parameters.
        generator: the steps of φ, for an involution.
        groups: kernels per pixel of an involution, weights sharing groups of a convolution, 0 otherwise.
        kernel_size: (K, K), empty where there is none.
    """

    kind: str
    title: str
    output_shape: tuple[int, ...]
    params: int
    macs: int
    followers: tuple[str, ...] = ()
    follower_params: int = 0
    generator: tuple[str, ...] = ()
    groups: int = 0
    kernel_size: tuple[int, ...] = ()

    @property
    def is_spatial(self) -> bool:
        """Whether it mixes neighbouring pixels with weights of its own."""
        return self.kind in ("convolution", "involution")


def trace(model: nn.Module, input_shape: Sequence[int]) -> list[Layer]:
    """Return the steps of ``model`` in the order of their calls; involutions are one step.

    Args:
        model: any network of modules; it is run in evaluation mode and left as it was.
        input_shape: of one image, ``(C, H, W)``.

    Example:
        >>> from torch import nn
        >>> from involution.studies.comparison.architecture import trace
        >>> [layer.title for layer in trace(nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU()), (1, 8, 8))]
        ['3×3 convolution, 1 → 8']
    """
    calls: list[tuple[nn.Module, torch.Size, torch.Size]] = []

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls.append((module, inputs[0].shape[1:], output.shape[1:]))

    handles = [unit.register_forward_hook(hook) for unit in _units(model)]
    try:
        count(model, input_shape)
    finally:
        for handle in handles:
            handle.remove()
    layers: list[Layer] = []
    for module, before, after in calls:
        layer = _describe(module, before, after)
        if layer.kind in ("norm", "activation") and layers:
            last = layers[-1]
            layers[-1] = replace(
                last,
                followers=(*last.followers, layer.title),
                output_shape=layer.output_shape,
                follower_params=last.follower_params + layer.params,
            )
        else:
            layers.append(layer)
    return layers


def _units(module: nn.Module) -> list[nn.Module]:
    if isinstance(module, Involution2d) or not list(module.children()):
        return [] if isinstance(module, nn.Identity) else [module]
    return [unit for child in module.children() for unit in _units(child)]


def _describe(module: nn.Module, before: torch.Size, after: torch.Size) -> Layer:
    cost = count(module, before)
    for type_, describe in _DESCRIPTIONS.items():
        if isinstance(module, type_):
            return Layer(output_shape=tuple(after), params=cost.params, macs=cost.macs, **describe(module))
    return Layer("other", type(module).__name__, tuple(after), cost.params, cost.macs)


def _times(size: Any) -> str:
    return "×".join(map(str, size)) if isinstance(size, Sequence) else f"{size}×{size}"


def _involution(module: Involution2d) -> dict[str, Any]:
    generator = module.kernel_generator
    return {
        "kind": "involution",
        "title": f"{_times(module.kernel_size)} involution, {module.in_channels} → {module.out_channels}",
        "groups": module.groups,
        "kernel_size": module.kernel_size,
        "generator": _generator(generator) if isinstance(generator, nn.Module) else ("a function",),
    }


def _generator(generator: nn.Module) -> tuple[str, ...]:
    if isinstance(generator, BottleneckKernelGenerator):
        # In the order of the calls; children stand in the order of their creation.
        steps = [generator.reduce, generator.norm, generator.act, generator.span]
    else:
        steps = _units(generator)
    described = []
    for step in steps:
        if isinstance(step, nn.Conv2d):
            described.append(f"{_times(step.kernel_size)}, {step.in_channels} → {step.out_channels}")
        elif isinstance(step, SpanMatrix):
            rows, hidden_channels = step.weight.shape[:2]
            described.append(f"1×1, {hidden_channels} → {rows}")
        else:
            described.append(_short(step))
    return tuple(described)


def _convolution(module: nn.Conv2d) -> dict[str, Any]:
    spatial = any(k > 1 for k in module.kernel_size)
    return {
        "kind": "convolution" if spatial else "projection",
        "title": f"{_times(module.kernel_size)} convolution, {module.in_channels} → {module.out_channels}",
        "groups": module.groups,
        "kernel_size": module.kernel_size,
    }


_SHORT = {"BatchNorm2d": "BN", "SyncBatchNorm": "BN", "GroupNorm": "GN", "LayerNorm": "LN"}


def _short(module: nn.Module) -> str:
    return _SHORT.get(type(module).__name__, type(module).__name__)


def _following(kind: str) -> Callable[[Any], dict[str, Any]]:
    return lambda module: {"kind": kind, "title": _short(module)}


_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
_DESCRIPTIONS: dict[Any, Callable[[Any], dict[str, Any]]] = {
    Involution2d: _involution,
    nn.Conv2d: _convolution,
    nn.Linear: lambda m: {"kind": "linear", "title": f"fully connected, {m.in_features} → {m.out_features}"},
    nn.MaxPool2d: lambda m: {"kind": "pooling", "title": f"{_times(m.kernel_size)} max pooling"},
    nn.AvgPool2d: lambda m: {"kind": "pooling", "title": f"{_times(m.kernel_size)} average pooling"},
    nn.AdaptiveAvgPool2d: lambda m: {"kind": "pooling", "title": "average pooling"},
    nn.Flatten: lambda m: {"kind": "reshape", "title": "flatten"},
    nn.Dropout: lambda m: {"kind": "activation", "title": f"dropout {m.p:g}"},
    nn.Softmax: lambda m: {"kind": "activation", "title": "softmax"},
    (*_BATCH_NORMS, *_INSTANCE_NORMS, nn.GroupNorm, nn.LayerNorm): _following("norm"),
    (nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.LeakyReLU, nn.Hardswish): _following("activation"),
}
