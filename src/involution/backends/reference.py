"""The truth: the three contractions in plain PyTorch, for every device and floating dtype.

Each tap visits only the output pixels whose input pixel lies inside the map, so what is outside contributes nothing:
no padded copy is made, and an infinite kernel value over the border cannot turn into ``inf · 0``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from types import EllipsisType

import torch
from torch import Tensor

from ..geometry import Window
from .request import Request

# An index of a map: all images, groups and channels, some of the pixels.
Pixels = tuple[EllipsisType | slice, ...]

name = "reference"


def unsupported(request: Request) -> str | None:
    """Return why this backend cannot serve ``request``: it always can."""
    return None


def forward(out: Tensor, input: Tensor, kernel: Tensor, window: Window) -> None:
    """See `Backend.forward`."""
    total = _accumulator(out).zero_()
    y, x = _grouped(total, kernel.shape[1]), _grouped(input.to(total.dtype), kernel.shape[1])
    for tap, outputs, inputs in _taps(input.shape[2:], out.shape[2:], window):
        y[outputs].addcmul_(x[inputs], _weights(kernel, tap)[outputs].to(y.dtype))
    if total is not out:
        out.copy_(total)


def input_gradient(out: Tensor, grad_output: Tensor, kernel: Tensor, window: Window) -> None:
    """See `Backend.input_gradient`."""
    total = _accumulator(out).zero_()
    dx, dy = _grouped(total, kernel.shape[1]), _grouped(grad_output.to(total.dtype), kernel.shape[1])
    for tap, outputs, inputs in _taps(out.shape[2:], grad_output.shape[2:], window):
        dx[inputs].addcmul_(dy[outputs], _weights(kernel, tap)[outputs].to(dx.dtype))
    if total is not out:
        out.copy_(total)


def kernel_gradient(out: Tensor, grad_output: Tensor, input: Tensor, window: Window) -> None:
    """See `Backend.kernel_gradient`."""
    groups, dtype = out.shape[1], torch.promote_types(out.dtype, torch.float32)
    dy, x = _grouped(grad_output.to(dtype), groups), _grouped(input.to(dtype), groups)
    out.zero_()
    for tap, outputs, inputs in _taps(input.shape[2:], grad_output.shape[2:], window):
        _at(out, tap)[outputs] = (dy[outputs] * x[inputs]).sum(2).to(out.dtype)


def _accumulator(out: Tensor) -> Tensor:
    """Return ``out`` itself, or a float32 map of its shape and layout where ``out`` has half precision."""
    return out if out.dtype in (torch.float32, torch.float64) else torch.empty_like(out, dtype=torch.float32)


def _grouped(x: Tensor, groups: int) -> Tensor:
    grouped: Tensor = x.unflatten(1, (groups, x.shape[1] // groups))
    return grouped


def _weights(kernel: Tensor, tap: tuple[int, ...]) -> Tensor:
    """Return the weights (B, G, 1, H', ...) of one tap."""
    return _at(kernel, tap).unsqueeze(2)


def _at(kernel: Tensor, tap: tuple[int, ...]) -> Tensor:
    for index in tap:
        kernel = kernel.select(2, index)
    return kernel


def _taps(
    size: Sequence[int], out_size: Sequence[int], window: Window
) -> Iterator[tuple[tuple[int, ...], Pixels, Pixels]]:
    """Yield each tap that reaches the map, with the output pixels it reaches and the input pixels they read."""
    for tap in product(*map(range, window.kernel_size)):
        outputs, inputs = [], []
        for t, n, n_out, s, p, d in zip(tap, size, out_size, *window[1:], strict=True):
            offset = t * d - p
            first = max(0, -(offset // s))
            last = min(n_out, (n - 1 - offset) // s + 1)
            outputs.append(slice(first, last))
            inputs.append(slice(first * s + offset, (last - 1) * s + offset + 1, s))
        if all(pixels.start < pixels.stop for pixels in outputs):
            yield tap, (..., *outputs), (..., *inputs)
