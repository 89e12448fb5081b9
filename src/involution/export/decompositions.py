"""The operators in terms of PyTorch's own, for consumers of exported programs that know no others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..functional import finish
from ..span import Span

__all__ = ["decompositions"]


def decompositions() -> dict[Any, Callable[..., Tensor]]:
    """Return involution's operators in terms of PyTorch's, as ``ExportedProgram.run_decompositions`` takes them.

    The result has K² slices per involution and works with dynamic batch and spatial sizes. A kernel value over the
    border is multiplied by a zero of the padding instead of being skipped, so infinite values there give NaN.
    """
    return {
        torch.ops.involution.forward.default: _forward,
        torch.ops.involution.forward_of_span.default: _forward_of_span,
        torch.ops.involution.kernel_gradient.default: _kernel_gradient,
    }


def _shifts(
    x: Tensor, kernel_size: Sequence[int], out_size: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> list[Tensor]:
    """Return for each tap the pixels of the padded ``x`` that it reads, ``(B, C, H', ...)``."""
    shifts = []
    for tap in product(*map(range, kernel_size)):
        shifted = x
        for axis, (t, n, s, d) in enumerate(zip(tap, out_size, stride, dilation, strict=True)):
            shifted = shifted[(slice(None),) * (2 + axis) + (slice(t * d, t * d + (n - 1) * s + 1, s),)]
        shifts.append(shifted)
    return shifts


def _padded(x: Tensor, padding: Sequence[int]) -> Tensor:
    return F.pad(x, [p for p in reversed(padding) for _ in range(2)])


def _forward(
    input: Tensor, kernel: Tensor, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], backend: str
) -> Tensor:
    dims, groups = input.ndim - 2, kernel.shape[1]
    kernel_size, out_size = kernel.shape[2 : 2 + dims], kernel.shape[2 + dims :]
    weights = kernel.flatten(2, 1 + dims)
    total = None
    for tap, x in enumerate(_shifts(_padded(input, padding), kernel_size, out_size, stride, dilation)):
        term = x.unflatten(1, (groups, input.shape[1] // groups)) * weights[:, :, tap].unsqueeze(2)
        total = term if total is None else total + term
    if total is None:
        raise ValueError("an involution needs at least one tap")
    return total.flatten(1, 2)


def _forward_of_span(
    value: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    groups: int,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    backend: str,
    scale: Tensor | None = None,
    offset: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    kernel = Span(hidden, weight, bias, groups, tuple(kernel_size)).field()
    return finish(_forward(value, kernel, stride, padding, dilation, backend), scale, offset, relu, len(kernel_size))


def _kernel_gradient(
    grad_output: Tensor,
    input: Tensor,
    groups: int,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    backend: str,
) -> Tensor:
    out_size = grad_output.shape[2:]
    query = grad_output.unflatten(1, (groups, input.shape[1] // groups))
    products = [
        (query * x.unflatten(1, query.shape[1:3])).sum(2)
        for x in _shifts(_padded(input, padding), kernel_size, out_size, stride, dilation)
    ]
    return torch.stack(products, 2).unflatten(2, tuple(kernel_size))
