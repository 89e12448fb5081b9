"""The derivatives of kernel generation and multiply-add in one operator, and its rule for vmap."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from ..backends import Epilogue
from ..geometry import Window
from . import contraction
from .registration import Gradients, forward_mode, saved_primals


def _einsum(equation: str, *operands: Tensor) -> Tensor:
    """Sum as `torch.einsum` does, also under autocast in the operands' dtype: the operator's arguments were cast before."""
    device = operands[0].device.type
    with torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext():
        return torch.einsum(equation, *operands)


def _field(hidden: Tensor, weight: Tensor, bias: Tensor | None, groups: int, window: Window) -> Tensor:
    """Return the field by operators that have derivatives of their own."""
    field = _einsum("nc,bc...->bn...", weight.flatten(1), hidden)
    if bias is not None:
        field = field + bias.view(-1, *[1] * (hidden.ndim - 2))
    kernel: Tensor = field.unflatten(1, (groups, *window.kernel_size))
    return kernel


Parsed = tuple[Tensor, Tensor, Tensor, Tensor | None, int, Window, str, Epilogue]


def parsed(arguments: Sequence[Any]) -> Parsed:
    """Return value, hidden, weight, bias, groups, window, backend and epilogue of a call of ``forward_of_span``.

    PyTorch leaves out arguments at the end that have their defaults: those of the epilogue.
    """
    value, hidden, weight, bias, groups, kernel_size, stride, padding, dilation, backend, *epilogue = arguments
    window = Window.of(kernel_size, stride, padding, dilation)
    return value, hidden, weight, bias, groups, window, backend, Epilogue(*epilogue)


def save(ctx: Any, *arguments: Any) -> None:
    """Save what the rules below need."""
    value, hidden, weight, bias, ctx.groups, ctx.window, ctx.backend, epilogue = parsed(arguments)
    ctx.save_for_backward(value, hidden, weight, bias)
    ctx.save_for_forward(value, hidden, weight, bias, epilogue.scale, epilogue.offset)
    ctx.has_epilogue, ctx.relu = epilogue != Epilogue(), epilogue.relu


def backward_rule(ctx: Any, dy: Tensor) -> Gradients:
    """Return the gradients of value, hidden, weight and bias; those of higher order go through the field."""
    if ctx.has_epilogue:
        raise RuntimeError("an involution with an epilogue has no backward pass; apply scale, offset and ReLU after it")
    value, hidden, weight, bias = ctx.saved_tensors
    if torch.is_grad_enabled():
        gradients = _differentiable_backward(dy, value, hidden, weight, bias, ctx.groups, ctx.window, ctx.backend)
    else:
        gradients = torch.ops.involution.gradients_of_span.default(
            dy, value, hidden, weight, bias, ctx.groups, *ctx.window, ctx.backend
        )
    needed = [gradient if need else None for gradient, need in zip(gradients, ctx.needs_input_grad[:4], strict=True)]
    return (*needed, *[None] * 9)


def _differentiable_backward(
    dy: Tensor,
    value: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    groups: int,
    window: Window,
    backend: str,
) -> tuple[Tensor, ...]:
    """Return the same gradients by operators that have derivatives themselves."""
    matrix, dims = weight.flatten(1), value.ndim - 2
    hidden = _ContiguousGradient.apply(hidden)
    kernel = _field(hidden, weight, bias, groups, window)
    dvalue = contraction.input_gradient(dy, kernel, value.shape[2:], window, backend)
    dfield = contraction.kernel_gradient(dy, value, groups, window, backend).flatten(1, 1 + dims)
    dhidden = _einsum("nc,bn...->bc...", matrix, dfield)
    dweight = _einsum("bnp,bcp->nc", dfield.flatten(2), hidden.flatten(2)).view(weight.shape)
    return dvalue, dhidden, dweight, dfield.flatten(2).sum((0, 2))


class _ContiguousGradient(torch.autograd.Function):
    """A copy whose gradient lies in memory as a contiguous tensor does.

    PyTorch's batch norm, which may have made the hidden map, misreads a gradient of one image whose channels come together
    in memory where the stride of the batch is not that of a whole image; einsum's derivatives give such strides.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.contiguous()

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        with forward_mode():
            return tangent.clone()


def vmap_rule(info: Any, in_dims: Sequence[int | None], *arguments: Any) -> tuple[Tensor, int]:
    """Let the mapped dimension join the batch; parameters that are mapped themselves make a field each."""
    value, hidden, weight, bias, groups, window, backend, (scale, offset, relu) = parsed(arguments)
    size = info.batch_size
    value = contraction.fold_into_batch(value, in_dims[0], size)
    if all(dim is None for dim in (*in_dims[2:4], *in_dims[10:12])):
        hidden = contraction.fold_into_batch(hidden, in_dims[1], size)
        out = torch.ops.involution.forward_of_span.default(
            value, hidden, weight, bias, groups, *window, backend, scale, offset, relu
        )
        return out.unflatten(0, (size, out.shape[0] // size)), 0
    ones = [1] * (value.ndim - 2)
    hidden = contraction.to_front(hidden, in_dims[1], size)
    field = _einsum("vnc,vbc...->vbn...", contraction.to_front(weight, in_dims[2], size).flatten(2), hidden)
    if bias is not None:
        field = field + contraction.to_front(bias, in_dims[3], size).view(size, 1, -1, *ones)
    kernel = field.flatten(0, 1).unflatten(1, (groups, *window.kernel_size))
    out = contraction.forward(value, kernel, window, backend).unflatten(0, (size, hidden.shape[1]))
    if scale is not None:
        out = out * contraction.to_front(scale, in_dims[10], size).view(size, 1, -1, *ones)
    if offset is not None:
        out = out + contraction.to_front(offset, in_dims[11], size).view(size, 1, -1, *ones)
    return out.relu() if relu else out, 0


def jvp_rule(
    ctx: Any,
    dvalue: Tensor | None,
    dhidden: Tensor | None,
    dweight: Tensor | None,
    dbias: Tensor | None,
    groups: None,
    kernel_size: None,
    stride: None,
    padding: None,
    dilation: None,
    backend: None,
    dscale: Tensor | None = None,
    doffset: Tensor | None = None,
    relu: None = None,
) -> Tensor:
    """Apply the product rule to the involution of the field, and to the epilogue."""
    value, hidden, weight, bias, scale, offset = saved_primals(ctx)
    window = ctx.window
    kernel = _field(hidden, weight, bias, ctx.groups, window)
    parts = []
    if dhidden is not None:
        parts.append(_field(dhidden, weight, None, ctx.groups, window))
    if dweight is not None:
        parts.append(_field(hidden, dweight, None, ctx.groups, window))
    if dbias is not None:
        parts.append(_field(torch.zeros_like(hidden), weight, dbias, ctx.groups, window))
    terms = []
    if dvalue is not None:
        terms.append(contraction.forward(dvalue, kernel, window, ctx.backend))
    if parts:
        terms.append(contraction.forward(value, sum(parts[1:], parts[0]), window, ctx.backend))
    if not ctx.has_epilogue:
        return sum(terms[1:], terms[0])
    y, ones = contraction.forward(value, kernel, window, ctx.backend), [1] * (value.ndim - 2)
    dy = sum(terms, torch.zeros_like(y))
    dy = dy if scale is None else dy * scale.view(-1, *ones)
    if dscale is not None:
        dy = dy + y * dscale.view(-1, *ones)
    if doffset is not None:
        dy = dy + doffset.view(-1, *ones)
    y = y if scale is None else y * scale.view(-1, *ones)
    y = y if offset is None else y + offset.view(-1, *ones)
    return dy * (y > 0) if ctx.relu else dy
