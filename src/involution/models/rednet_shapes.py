"""Which RedNet weights are of: depth, widths, stem and kernels, read off the names and shapes of its tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isqrt
from typing import Any

from torch import Tensor

from ..errors import CheckpointError

__all__ = ["architecture"]

_DEPTHS: dict[tuple[int, ...], int] = {
    (1, 2, 4, 1): 26,
    (2, 3, 5, 2): 38,
    (3, 4, 6, 3): 50,
    (3, 4, 23, 3): 101,
    (3, 8, 36, 3): 152,
}
# What a RedNet has where its arguments say nothing else, see `RedNet`.
_CHANNELS, _STEM_WIDTH, _GROUP_CHANNELS, _IMAGE_CHANNELS = (64, 128, 256, 512), 32, 16, 3


def architecture(state: Mapping[str, Tensor]) -> tuple[str, dict[str, Any]]:
    """Return timm's name of the net that our weights are of, and its arguments: classes, kernel sizes, and what is unusual.

    Args:
        state: under our names; whether it has all that the net has, and no more, is not looked at.

    Raises:
        CheckpointError: there are no stages, one has no blocks, or an involution no matrix that its kernels come from.
    """
    found = [{int(m[1]) for key in state if (m := re.match(rf"layer{i}\.(\d+)\.", key))} for i in range(1, 5)]
    blocks = tuple(map(len, found))
    if not any(blocks):
        raise CheckpointError(
            "these are not the weights of a RedNet: expected keys such as 'layer1.0.conv1.weight', got "
            f"{', '.join(map(repr, list(state)[:3]))}, …; of one inside another net, take off what stands in front of its names"
        )
    if not all(blocks):
        raise CheckpointError(f"no RedNet has {blocks} blocks; expected one of {', '.join(map(str, _DEPTHS))}")
    channels = tuple(_size(state, f"layer{stage}.0.conv1.weight", 0) for stage in range(1, 5))
    stem = _stem(state)
    first = "conv1.weight" if stem in ("plain", "small") else "conv1.0.weight"
    stem_width, image_channels = _size(state, first, 0), _size(state, first, 1)
    group_channels = _group_channels(_rows(state, "layer1.0.conv2"), channels[0])
    arguments: dict[str, Any] = {"num_classes": _size(state, "fc.bias", 0)}
    if stem == "involution":
        arguments["stem_kernel_size"] = _kernel_size(_rows(state, "conv1.3"), stem_width, group_channels)
    arguments["kernel_size"] = _kernel_size(_rows(state, "layer1.0.conv2"), channels[0], group_channels)
    unusual: dict[str, Any] = {}
    if blocks not in _DEPTHS:
        unusual["layers"] = blocks
    # Of what is missing, the comparison with the net tells.
    if all(channels) and channels != _CHANNELS:
        unusual["channels"] = channels
    if group_channels != _GROUP_CHANNELS:
        unusual["group_channels"] = group_channels
    if stem != "involution":
        unusual["stem"] = stem
    if first == "conv1.0.weight" and stem_width not in (0, _STEM_WIDTH):
        unusual["stem_width"] = stem_width
    if image_channels not in (0, _IMAGE_CHANNELS):
        unusual["in_chans"] = image_channels
    return f"rednet{_DEPTHS.get(blocks, 26)}", arguments | unusual


def _size(state: Mapping[str, Tensor], name: str, dim: int) -> int:
    """Return a size of a tensor, 0 where there is no such tensor or dimension."""
    value = state.get(name)
    return 0 if value is None or value.ndim <= dim else value.shape[dim]


def _stem(state: Mapping[str, Tensor]) -> str:
    if "conv1.weight" in state:
        return "small" if _size(state, "conv1.weight", 2) == 3 else "plain"
    return "deep" if "conv1.3.weight" in state else "involution"


def _rows(state: Mapping[str, Tensor], layer: str) -> int:
    """Return how many numbers an involution makes for a pixel: those of a kernel for each of its groups."""
    if f"{layer}.kernel_generator.span.weight" not in state:
        raise CheckpointError(f"the weights of {layer}.kernel_generator.span are missing")
    return _size(state, f"{layer}.kernel_generator.span.weight", 0)


def _group_channels(rows: int, channels: int) -> int:
    """Return how many channels share a kernel: with the usual number if that leaves an odd square, else the largest that does."""
    for number in (_GROUP_CHANNELS, *range(channels, 0, -1)):
        groups, rest = divmod(channels, number)
        taps = rows // groups if groups and not rest and rows % groups == 0 else 0
        if taps % 2 and isqrt(taps) ** 2 == taps:
            return number
    return _GROUP_CHANNELS


def _kernel_size(rows: int, channels: int, group_channels: int) -> int:
    return max(1, round((rows / max(1, channels // group_channels)) ** 0.5))
