"""The kernel of banded.py: which calls it serves, and how they are launched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..request import Request
from . import banded
from .launch import NARROW, options, power_of_two

# Each row of taps is padded to this many columns.
_COLUMNS = 8
# More channels or hidden channels do not fit into the registers.
_GROUP_CHANNELS = 16
_MOST_HIDDEN = 64 if torch.version.hip else 128
# Blocks of 16 pixels and warps of a program, and stages of its loads; groups are shared out between programs below this number of them.
_BLOCKS, _WARPS, _STAGES, _FEW_PROGRAMS = 2, 1, 2, 512


class BandedLaunch(NamedTuple):
    """The kernel's programs, what follows its five tensors, and the compiler's options."""

    programs: int
    arguments: tuple[int | bool, ...]
    options: dict[str, Any]
    kernel: Any = banded.forward


def unsupported(request: Request, hidden_channels: int) -> str | None:
    """Return why the kernel does not serve a call that the other kernels serve, None if it does."""
    if request.dtype not in (torch.float16, torch.bfloat16):
        return f"it computes in float16 and bfloat16, got {str(request.dtype).removeprefix('torch.')}"
    window = request.window
    if len(window.kernel_size) > 2:
        return f"it serves one and two dimensions, got {len(window.kernel_size)}"
    if any(s != 1 for s in (*window.stride, *window.dilation)):
        return f"it serves stride 1 and dilation 1, got stride {window.stride} and dilation {window.dilation}"
    kernel_size = window.kernel_size
    if any(k % 2 == 0 or k > _COLUMNS or p != k // 2 for k, p in zip(kernel_size, window.padding, strict=True)):
        return f"it serves odd kernels up to 7 with padding 'same', got {kernel_size} and padding {window.padding}"
    if request.group_channels != _GROUP_CHANNELS:
        return f"it serves {_GROUP_CHANNELS} channels per group, got {request.group_channels}"
    if hidden_channels > _MOST_HIDDEN:
        return f"it serves at most {_MOST_HIDDEN} hidden channels, got {hidden_channels}"
    return None


def plan(
    batch: int, size: Sequence[int], groups: int, group_channels: int, hidden: int, taps: Sequence[int]
) -> BandedLaunch:
    """Return the launch for maps of ``size`` ``(H, W)`` with ``taps`` ``(K_h, K_w)``."""
    programs = batch * -(-size[0] * size[1] // (16 * _BLOCKS))
    parts = 1
    while programs * parts < _FEW_PROGRAMS and groups % (2 * parts) == 0:
        parts *= 2
    block_hidden = max(16, power_of_two(hidden))
    # Rows of taps above and below an image are numbered as if they were in it.
    wide = (size[0] + taps[0]) * size[1] * max(groups * group_channels, hidden) > NARROW
    arguments = (*size, groups, group_channels, hidden, block_hidden, *taps, _BLOCKS, parts, wide)
    return BandedLaunch(programs * parts, arguments, options(_WARPS) | {"num_stages": _STAGES})


def span_and_contract(out: Tensor, input: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Write the forward of ``input`` and the field ``weight · hidden + bias``, which is never in memory.

    Args:
        out: ``(B, C, H, W)`` or ``(B, C, L)``.
        input: of the same shape.
        hidden: ``(B, C_hidden, H, W)``.
        weight: ``(G, K, K, C_hidden)``.
        bias: ``(G·K·K,)`` or None.
    """
    groups, *taps, hidden_channels = weight.shape
    if input.ndim == 3:
        taps, weight = [1, *taps], weight.unsqueeze(1)
        out, input, hidden = out.unsqueeze(2), input.unsqueeze(2), hidden.unsqueeze(2)
    offset = weight.new_zeros(weight.shape[:-1]) if bias is None else bias.view(weight.shape[:-1])
    missing = _COLUMNS - taps[1]
    x, r = (tensor.movedim(1, -1).contiguous() for tensor in (input, hidden))
    y = out.movedim(1, -1)
    target = y if y.is_contiguous() else torch.empty_like(y, memory_format=torch.contiguous_format)
    launch = plan(x.shape[0], x.shape[1:3], groups, x.shape[3] // groups, hidden_channels, taps)
    span = F.pad(weight, (0, 0, 0, missing)).contiguous()
    launch.kernel[(launch.programs,)](
        x, r, span, F.pad(offset, (0, missing)), target, *launch.arguments, **launch.options
    )
    if target is not y:
        y.copy_(target)
