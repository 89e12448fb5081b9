"""Weights of the code that SAN's authors released, to our names and order of channels and back.

Their channels that share a kernel lie G apart (channel c takes kernel c mod G), ours side by side, so that values, the
norm after them and the convolution that reads them are permuted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import CheckpointError
from .renaming import translate
from .san import BLOCKS, GROUP_CHANNELS

__all__ = ["architecture", "from_ours", "is_ours", "is_theirs", "to_ours"]

_PHI = "stage{n}.blocks.{n}.attention.kernel_generator"
_COMMON = (
    ("stem.0", "conv_in"),
    ("stem.1", "bn_in"),
    ("stage{n}.transition", "conv{n}"),
    ("stage{n}.norm", "bn{n}"),
    ("stage{n}.blocks.{n}.norm1", "layer{n}.{n}.bn1"),
    ("stage{n}.blocks.{n}.norm2", "layer{n}.{n}.bn2"),
    ("stage{n}.blocks.{n}.expand", "layer{n}.{n}.conv"),
    ("stage{n}.blocks.{n}.attention.value", "layer{n}.{n}.sam.conv3"),
    (f"{_PHI}.query", "layer{n}.{n}.sam.conv1"),
    (f"{_PHI}.key", "layer{n}.{n}.sam.conv2"),
    ("fc", "fc"),
)
_MODULES = {
    "pairwise": (
        *_COMMON,
        (f"{_PHI}.position", "layer{n}.{n}.sam.conv_p"),
        (f"{_PHI}.relation.{{n}}", "layer{n}.{n}.sam.conv_w.{n}"),
    ),
    "patchwise": (
        *_COMMON,
        (f"{_PHI}.patch_norm", "layer{n}.{n}.sam.conv_w.0"),
        (f"{_PHI}.reduce", "layer{n}.{n}.sam.conv_w.2"),
        (f"{_PHI}.norm", "layer{n}.{n}.sam.conv_w.3"),
        (f"{_PHI}.span", "layer{n}.{n}.sam.conv_w.5"),
    ),
}
# Our modules whose channels, of the first or second dimension, are those of the values.
_VALUES = ((r"stage\d+\.blocks\.\d+\.(attention\.value|norm2)", 0), (r"stage\d+\.blocks\.\d+\.expand", 1))


def is_theirs(state: Mapping[str, Tensor]) -> bool:
    """Tell whether a state dict has the names of the authors' code."""
    return any(".sam.conv_w." in key for key in state)


def is_ours(state: Mapping[str, Tensor]) -> bool:
    """Tell whether a state dict is that of a `involution.models.SAN`."""
    return any(".attention.kernel_generator." in key and key.startswith("stage") for key in state)


def to_ours(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the weights under our names, in our order, and our key by theirs.

    Raises:
        CheckpointError: a key is unknown.
    """
    new, renamed = {}, {}
    table = _MODULES[_form(state)]
    for key, value in state.items():
        module, _, parameter = key.rpartition(".")
        try:
            name = translate(table, module, to_ours=True)
        except KeyError:
            raise CheckpointError(f"unknown key {key!r} in the weights of a SAN") from None
        renamed[key] = f"{name}.{parameter}"
        new[renamed[key]] = _reordered(name, value, to_ours=True)
    return new, renamed


def from_ours(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return our weights under the authors' names, in their order: the inverse of `to_ours`."""
    new = {}
    table = _MODULES[_form(state)]
    for key, value in state.items():
        module, _, parameter = key.rpartition(".")
        name = translate(table, module, to_ours=False)
        new[f"{name}.{parameter}"] = _reordered(module, value, to_ours=False)
    return new


def architecture(state: Mapping[str, Tensor]) -> tuple[str, dict[str, int]]:
    """Return timm's name of the net that our weights are of, and its arguments.

    Raises:
        CheckpointError: no SAN has so many blocks.
    """
    keys = [re.match(r"stage(\d+)\.blocks\.(\d+)\.", key) for key in state]
    found = {(int(match[1]), int(match[2])) for match in keys if match}
    blocks = tuple(sum(stage == number for stage, _ in found) for number in range(5))
    depths = {layers: depth for depth, layers in BLOCKS.items()}
    if blocks not in depths:
        raise CheckpointError(f"no SAN has {blocks} blocks; expected one of {', '.join(map(str, depths))}")
    classes = len(state["fc.bias"]) if "fc.bias" in state else 0
    return f"san{depths[blocks]}_{_form(state)}", {"num_classes": classes}


def _form(state: Mapping[str, Tensor]) -> str:
    positions = any(".sam.conv_p." in key or ".kernel_generator.position." in key for key in state)
    return "pairwise" if positions else "patchwise"


def _reordered(module: str, value: Tensor, *, to_ours: bool) -> Tensor:
    dim = next((dim for pattern, dim in _VALUES if re.fullmatch(pattern, module)), None)
    # A convolution that reads the values has them in its second dimension, which its bias lacks.
    if dim is None or value.ndim <= dim:
        return value
    groups = value.shape[dim] // GROUP_CHANNELS
    sizes = (GROUP_CHANNELS, groups) if to_ours else (groups, GROUP_CHANNELS)
    order = torch.arange(value.shape[dim]).view(sizes).t().flatten()
    return value.index_select(dim, order.to(value.device))
