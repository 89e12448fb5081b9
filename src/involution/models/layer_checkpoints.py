"""Weights of nets of yours whose involutions are other people's layers: the layers renamed to ours, all else untouched.

Known are the layer of the authors' code (d-li14/involution) and that of ChristophReich1996/Involution. The layer of the
Keras example is read by `involution.keras`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import CheckpointError

__all__ = ["ConvertedLayers", "ForeignLayer", "find", "to_ours"]

_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_PHI = "kernel_generator"

# Their parameter of a layer, and ours.
_AUTHORS = {
    "conv1.conv.weight": f"{_PHI}.reduce.weight",
    "conv2.conv.weight": f"{_PHI}.span.weight",
    "conv2.conv.bias": f"{_PHI}.span.bias",
    **{f"conv1.bn.{name}": f"{_PHI}.norm.{name}" for name in _NORM},
}
_REICH = {
    "reduce_mapping.weight": f"{_PHI}.reduce.weight",
    "reduce_mapping.bias": f"{_PHI}.reduce.bias",
    "span_mapping.weight": f"{_PHI}.span.weight",
    "span_mapping.bias": f"{_PHI}.span.bias",
    **{f"sigma_mapping.0.{name}": f"{_PHI}.norm.{name}" for name in _NORM},
    "initial_mapping.weight": "value.weight",
    "initial_mapping.bias": "value.bias",
}
# What tells a layer: the keys that it has, the first two of 1×1 convolutions one after the other, and those that it has not.
# conv1 and conv2 are mmcv's names in many a block; only the authors' layer has a norm after the first and none after the second.
_SIGNS: tuple[tuple[dict[str, str], tuple[str, ...], tuple[str, ...]], ...] = (
    (
        _AUTHORS,
        ("conv1.conv.weight", "conv2.conv.weight", "conv1.bn.running_mean", "conv2.conv.bias"),
        ("conv2.bn.weight", "conv2.bn.running_mean"),
    ),
    (_REICH, ("reduce_mapping.weight", "span_mapping.weight", "sigma_mapping.0.running_mean"), ()),
)


@dataclass(frozen=True)
class ForeignLayer:
    """An involution in a state dict, as far as its weights tell.

    Attributes:
        name: of the module, ``""`` where the state dict is that of the layer itself.
        in_channels: C of its input.
        out_channels: C of its output.
        hidden_channels: between the two matrices of φ.
        rows: K²·G, of the last matrix.
    """

    name: str
    in_channels: int
    out_channels: int
    hidden_channels: int
    rows: int


@dataclass(frozen=True)
class ConvertedLayers:
    """A state dict whose involutions have our names.

    Attributes:
        state: all tensors of the file.
        renamed: key in the file to our key, of the involutions alone.
        layers: the involutions.
        notes: what our layer needs beside its usual arguments, a sentence each.
    """

    state: dict[str, Tensor]
    renamed: dict[str, str]
    layers: tuple[ForeignLayer, ...]
    notes: tuple[str, ...] = field(default=())


def find(state: Mapping[str, Tensor]) -> dict[str, dict[str, str]]:
    """Return by the name of every involution of other people's code the table of its parameters, theirs to ours."""
    found = {}
    for table, signs, absent in _SIGNS:
        for key in state:
            if not key.endswith(signs[0]):
                continue
            name = key.removesuffix(signs[0])
            if (
                all(f"{name}{sign}" in state for sign in signs)
                and not any(f"{name}{sign}" in state for sign in absent)
                and _are_matrices(state[key], state[f"{name}{signs[1]}"])
            ):
                found[name] = table
    return found


def _are_matrices(first: Tensor, second: Tensor) -> bool:
    """Whether these are weights of 1×1 convolutions, of which the second takes what the first gives."""
    pointwise = all(weight.ndim >= 3 and weight[0, 0].numel() == 1 for weight in (first, second))
    return pointwise and len(first) == second.shape[1]


def to_ours(state: Mapping[str, Tensor]) -> ConvertedLayers:
    """Rename the involutions of a net; every other tensor keeps its name.

    A bias before φ's norm, which our layer has none for, goes into the mean that the norm subtracts: the layer computes
    the same. A last matrix without bias gets one of zeros.

    Args:
        state: of a net, or of a single layer.

    Raises:
        CheckpointError: there are no involutions, or one has no batch norm in φ.

    Example:
        >>> import torch
        >>> from involution import Involution2d
        >>> from involution.models import layer_checkpoints
        >>> theirs = {
        ...     "reduce_mapping.weight": torch.randn(16, 64, 1, 1),
        ...     **{f"sigma_mapping.0.{name}": torch.ones(16) for name in ("weight", "bias", "running_mean", "running_var")},
        ...     "sigma_mapping.0.num_batches_tracked": torch.tensor(0),
        ...     "span_mapping.weight": torch.randn(196, 16, 1, 1),
        ... }
        >>> layer = Involution2d(64, 64, kernel_size=7, groups=4)
        >>> layer.load_state_dict(layer_checkpoints.to_ours(theirs).state)
        <All keys matched successfully>
    """
    tables = find(state)
    if not tables:
        raise CheckpointError(
            "there is no involution in these weights: expected keys that end in 'conv1.conv.weight', 'conv2.conv.weight' and "
            "'conv2.conv.bias' (the authors' layer) or 'reduce_mapping.weight' and 'span_mapping.weight' "
            f"(ChristophReich1996's), each φ with a batch norm after the first alone, got {', '.join(map(repr, list(state)[:3]))}, …"
        )
    new = dict(state)
    renamed, layers, notes = {}, [], []
    for name, table in tables.items():
        ours = {}
        for theirs, parameter in table.items():
            if f"{name}{theirs}" in new:
                ours[parameter] = new.pop(f"{name}{theirs}")
                renamed[f"{name}{theirs}"] = f"{name}{parameter}"
        bias = ours.pop(f"{_PHI}.reduce.bias", None)
        if bias is not None:
            ours[f"{_PHI}.norm.running_mean"] = ours[f"{_PHI}.norm.running_mean"] - bias
        span = ours[f"{_PHI}.span.weight"]
        ours.setdefault(f"{_PHI}.span.bias", torch.zeros(len(span), dtype=span.dtype))
        ours.setdefault(f"{_PHI}.norm.num_batches_tracked", torch.tensor(0))
        new |= {f"{name}{parameter}": value for parameter, value in ours.items()}
        layer = _describe(name.removesuffix("."), ours)
        layers.append(layer)
        notes += _notes(layer, ours)
    return ConvertedLayers(new, renamed, tuple(layers), tuple(notes))


def _describe(name: str, ours: Mapping[str, Tensor]) -> ForeignLayer:
    hidden, channels = ours[f"{_PHI}.reduce.weight"].shape[:2]
    value = ours.get("value.weight")
    out = channels if value is None else len(value)
    return ForeignLayer(name, channels, out, hidden, len(ours[f"{_PHI}.span.weight"]))


def _notes(layer: ForeignLayer, ours: Mapping[str, Tensor]) -> list[str]:
    """Say what a layer needs that an `involution.Involution2d` does not have by its arguments."""
    name, notes = layer.name or "the layer", []
    if all(max(1, layer.in_channels // r) != layer.hidden_channels for r in range(1, layer.in_channels + 1)):
        notes.append(
            f"{name}: the hidden width {layer.hidden_channels} is no part of {layer.in_channels} channels; give the layer "
            f"kernel_generator=BottleneckKernelGenerator({layer.in_channels}, kernel_size, groups, "
            f"hidden_channels={layer.hidden_channels})"
        )
    if "value.bias" in ours:
        notes.append(
            f"{name}: its first 1×1 convolution has a bias; after building the layer, set its value to "
            f"nn.Conv2d({layer.in_channels}, {layer.out_channels}, 1)"
        )
    return notes
