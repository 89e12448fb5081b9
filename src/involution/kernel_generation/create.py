"""φ by name: which class it is, and which of a layer's arguments it takes."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import nn

from .attention import LocalAttentionKernelGenerator
from .base import KernelGenerator
from .bottleneck import BottleneckKernelGenerator, LinearKernelGenerator
from .local_relation import LocalRelationKernelGenerator
from .outlook import OutlookKernelGenerator
from .san import SANPairwiseKernelGenerator, SANPatchwiseKernelGenerator
from .stand_alone import StandAloneKernelGenerator

__all__ = ["create_kernel_generator"]


class _Entry(NamedTuple):
    generator: type[KernelGenerator]
    arguments: tuple[str, ...]


_COMMON = ("in_channels", "kernel_size", "groups", "dims")
_WINDOW = ("stride", "padding", "dilation")

_GENERATORS = {
    "bottleneck": _Entry(BottleneckKernelGenerator, ("reduction", "norm_layer", "act_layer")),
    "linear": _Entry(LinearKernelGenerator, ()),
    "attention": _Entry(LocalAttentionKernelGenerator, _WINDOW),
    "sasa": _Entry(StandAloneKernelGenerator, _WINDOW),
    "san_pairwise": _Entry(SANPairwiseKernelGenerator, ("norm_layer", "padding_mode", *_WINDOW)),
    "san_patchwise": _Entry(SANPatchwiseKernelGenerator, ("norm_layer", "padding_mode", *_WINDOW)),
    "local_relation": _Entry(LocalRelationKernelGenerator, _WINDOW),
    "outlook": _Entry(OutlookKernelGenerator, _WINDOW),
}


def create_kernel_generator(name: str, **arguments: Any) -> nn.Module:
    """Build φ by name, from the arguments of the layer that it belongs to.

    Args:
        name: ``"bottleneck"``, ``"linear"``, ``"attention"``, ``"sasa"``, ``"san_pairwise"``, ``"san_patchwise"``,
            ``"local_relation"`` or ``"outlook"``.
        **arguments: all that a layer knows: ``in_channels``, ``kernel_size``, ``groups``, ``dims``, ``reduction``,
            ``norm_layer``, ``act_layer``, ``stride``, ``padding``, ``dilation`` and ``padding_mode``; φ takes those that it has.

    Raises:
        TypeError: an argument is missing that φ cannot do without.
        ValueError: the name is unknown.
    """
    if name not in _GENERATORS:
        raise ValueError(
            f"unknown kernel generator {name!r}; expected one of {', '.join(map(repr, _GENERATORS))}, "
            "or pass a callable from (B, C, H, W) to the kernel field"
        )
    generator, names = _GENERATORS[name]
    return generator(**{key: arguments[key] for key in (*_COMMON, *names) if key in arguments})
