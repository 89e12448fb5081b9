"""Batch norm in training, the addition of a residual and ReLU in one operator (CPU).

One after the other they pass over memory eleven times, forward and backward, where five do: ReLU's mask follows from
the input of the norm. The native kernels serve dense channels_last maps of float32 and float64; for everything else
the caller applies the modules. Derivatives of higher order go through PyTorch's own operators.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .backends import native

__all__ = ["train"]

_FORMATS = {nn.BatchNorm2d: torch.channels_last, nn.BatchNorm3d: torch.channels_last_3d}


def train(norm: Any, relu: bool, x: Tensor, residual: Tensor | None) -> Tensor | None:
    """Return ``relu(norm(x) + residual)`` and update the running statistics, or None where it cannot be done.

    The caller has seen to it that nobody watches the modules and that ``x`` is a plain CPU tensor without tracing or
    transformation.

    Args:
        norm: a batch norm in training.
        relu: whether negative values become zero.
        x: ``(B, C, H, W)`` or ``(B, C, D, H, W)``.
        residual: as ``x``, or None.
    """
    layout = _FORMATS.get(type(norm))
    if (
        layout is None
        or not norm.affine
        or norm.momentum is None
        or x.ndim != (4 if layout is torch.channels_last else 5)
    ):
        return None
    # Where there is one value per channel, the module has the words for it.
    if x.numel() <= x.shape[1] or x.shape[1] != norm.num_features or not x.is_contiguous(memory_format=layout):
        return None
    if residual is not None and (
        residual.shape != x.shape or residual.dtype != x.dtype or not residual.is_contiguous(memory_format=layout)
    ):
        return None
    vectors = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    for v in vectors:
        if v is not None and (
            v.shape != x.shape[1:2] or v.dtype != x.dtype or v.device != x.device or not v.is_contiguous()
        ):
            return None
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    return _NormReLU.apply(x, *vectors[:2], residual, *vectors[2:], norm.momentum, norm.eps, relu)


class _NormReLU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        residual: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        momentum: float,
        epsilon: float,
        relu: bool,
    ) -> Tensor:
        running = (running_mean, running_var)
        # Like PyTorch's own, it leaves the version of the running statistics: a norm that several maps share may have
        # been called through PyTorch before, whose backward pass keeps them without reading them.
        y, statistics = native.norm_forward(x, weight, bias, residual, running, momentum, epsilon, relu)
        # Without a residual the mask is made again from x.
        kept = y if relu and residual is not None else None
        ctx.save_for_backward(x, weight, bias, kept, statistics)
        ctx.has_residual, ctx.epsilon, ctx.relu = residual is not None, epsilon, relu
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple:
        x, weight, bias, y, statistics = ctx.saved_tensors
        if torch.is_grad_enabled():
            gradients = _differentiable(dy, x, weight, bias, y, ctx)
        else:
            gradients = native.norm_backward(dy, x, y, statistics, ctx.has_residual, ctx.relu)
        return (*gradients, None, None, None, None, None)


def _differentiable(dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor, y: Tensor | None, ctx: Any) -> tuple:
    """Return the same gradients by operators that have derivatives themselves."""
    with torch.enable_grad():
        result = F.batch_norm(x, None, None, weight, bias, True, 0.0, ctx.epsilon)
    if ctx.relu:
        dy = dy * ((result.detach() if y is None else y) > 0)
    dx, dweight, dbias = torch.autograd.grad(result, (x, weight, bias), dy, create_graph=True)
    return dx, dweight, dbias, dy if ctx.has_residual else None
