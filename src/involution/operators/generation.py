"""Kernel generation and multiply-add in one operator, for a φ whose last step is one matrix.

``Y = involution(value, W · hidden + b)``: the kernel field, the largest tensor of an involution by far, is not kept.
Where the backend can, the forward pass makes it tile by tile and consumes it at once. Nothing but the arguments is
saved for the backward pass, which makes the field again. Derivatives of higher order, and forward mode, go through the
field and the operators of `involution.operators.contraction`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.library import register_autograd, register_fake, register_vmap

from .. import backends
from ..backends import Epilogue, spans
from ..geometry import Window, describe
from ..memory_layout import empty_map, is_channels_last
from . import contraction
from .contract import check_span, check_together
from .flops import register_flop_formula

_OPERATORS = contraction.OPERATORS
_ARGUMENTS = (
    "Tensor value, Tensor hidden, Tensor weight, Tensor? bias, SymInt groups, SymInt[] kernel_size, "
    + contraction.WINDOW
)


def forward_of_span(
    value: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    groups: int,
    window: Window,
    backend: str,
    epilogue: Epilogue | None = None,
) -> Tensor:
    """Return ``epilogue(involution(value, weight · hidden + bias))``; with an epilogue there is no backward pass."""
    arguments = (value, hidden, weight, bias, groups, *window, backend, *(epilogue or Epilogue()))
    operator = torch.ops.involution.forward_of_span.default
    return contraction.call(operator, _ForwardOfSpan, _forward_fake, *arguments)


# Outputs: shape, dtype and layout are decided here, once, for real and fake tensors alike.


def _output(
    value: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    groups: int,
    window: Window,
    scale: Tensor | None = None,
    offset: Tensor | None = None,
) -> Tensor:
    check_span(value, hidden, weight, bias, groups, window, scale, offset)
    return empty_map(value, (*value.shape[:2], *hidden.shape[2:]), is_channels_last(value))


def _gradients(value: Tensor, hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        empty_map(value, value.shape, is_channels_last(value)),
        empty_map(hidden, hidden.shape, True),
        torch.empty_like(weight, memory_format=torch.contiguous_format),
        weight.new_empty(weight.shape[0]),
    )


def _forward_fake(
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
    window = Window.of(kernel_size, stride, padding, dilation)
    return _output(value, hidden, weight, bias, groups, window, scale, offset)


def _backward_fake(
    grad_output: Tensor, value: Tensor, hidden: Tensor, weight: Tensor, *_: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _gradients(value, hidden, weight)


# Implementations.


def _forward(
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
    window = Window.of(kernel_size, stride, padding, dilation)
    out = _output(value, hidden, weight, bias, groups, window, scale, offset)
    if out.numel():
        chosen = backends.choose_for(backend, value, groups, window)
        matrix = weight.reshape(groups, *window.kernel_size, -1).contiguous()
        spans.forward(
            chosen, out, value, hidden, matrix, _dense(bias), window, Epilogue(_dense(scale), _dense(offset), relu)
        )
    return out


def _backward(
    grad_output: Tensor,
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
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    window = Window.of(kernel_size, stride, padding, dilation)
    expected = _output(value, hidden, weight, bias, groups, window)
    check_together(grad_output=grad_output, value=value)
    if grad_output.shape != expected.shape:
        raise ValueError(
            f"grad_output must have the shape of the output, {tuple(expected.shape)}, got {describe(grad_output)}"
        )
    gradients = _gradients(value, hidden, weight)
    if not grad_output.numel():
        for gradient in gradients:
            gradient.zero_()
        return gradients
    chosen = backends.choose_for(backend, value, groups, window)
    matrix = weight.reshape(groups, *window.kernel_size, -1).contiguous()
    spans.backward(chosen, gradients, grad_output, value, hidden, matrix, _dense(bias), window)
    return gradients


def _dense(vector: Tensor | None) -> Tensor | None:
    """Return the values of a vector one after the other in memory, as the backends read them."""
    return None if vector is None else vector.contiguous()


contraction.define(
    "forward_of_span", f"({_ARGUMENTS}, Tensor? scale=None, Tensor? offset=None, bool relu=False) -> Tensor", _forward
)
contraction.define(
    "gradients_of_span", f"(Tensor grad_output, {_ARGUMENTS}) -> (Tensor, Tensor, Tensor, Tensor)", _backward
)
register_fake("involution::forward_of_span", _forward_fake, lib=_OPERATORS)
register_fake("involution::gradients_of_span", _backward_fake, lib=_OPERATORS)


# Derivatives and vmap, given to the dispatcher and as an autograd function as in contraction.py.


def _field(hidden: Tensor, weight: Tensor, bias: Tensor | None, groups: int, window: Window) -> Tensor:
    """Return the field by operators that have derivatives of their own."""
    field = torch.einsum("nc,bc...->bn...", weight.flatten(1), hidden)
    if bias is not None:
        field = field + bias.view(-1, *[1] * (hidden.ndim - 2))
    kernel: Tensor = field.unflatten(1, (groups, *window.kernel_size))
    return kernel


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.groups, ctx.window, ctx.backend = inputs[4], Window.of(*inputs[5:9]), inputs[9]
    ctx.has_epilogue = Epilogue(*inputs[10:]) != Epilogue()


def _backward_rule(ctx: Any, dy: Tensor) -> contraction.Gradients:
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
    dhidden = torch.einsum("nc,bn...->bc...", matrix, dfield)
    dweight = torch.einsum("bnp,bcp->nc", dfield.flatten(2), hidden.flatten(2)).view(weight.shape)
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
        return tangent.clone()


def _vmap_rule(info: Any, in_dims: Sequence[int | None], *arguments: Any) -> tuple[Tensor, int]:
    """Let the mapped dimension join the batch; parameters that are mapped themselves make a field each."""
    value, hidden, weight, bias, groups, *geometry, backend, scale, offset, relu = arguments
    size, window = info.batch_size, Window.of(*geometry)
    value = contraction.fold_into_batch(value, in_dims[0], size)
    if all(dim is None for dim in (*in_dims[2:4], *in_dims[10:12])):
        hidden = contraction.fold_into_batch(hidden, in_dims[1], size)
        out = forward_of_span(value, hidden, weight, bias, groups, window, backend, Epilogue(scale, offset, relu))
        return out.unflatten(0, (size, out.shape[0] // size)), 0
    ones = [1] * (value.ndim - 2)
    hidden = contraction.to_front(hidden, in_dims[1], size)
    field = torch.einsum("vnc,vbc...->vbn...", contraction.to_front(weight, in_dims[2], size).flatten(2), hidden)
    if bias is not None:
        field = field + contraction.to_front(bias, in_dims[3], size).view(size, 1, -1, *ones)
    kernel = field.flatten(0, 1).unflatten(1, (groups, *window.kernel_size))
    out = contraction.forward(value, kernel, window, backend).unflatten(0, (size, hidden.shape[1]))
    if scale is not None:
        out = out * contraction.to_front(scale, in_dims[10], size).view(size, 1, -1, *ones)
    if offset is not None:
        out = out + contraction.to_front(offset, in_dims[11], size).view(size, 1, -1, *ones)
    return out.relu() if relu else out, 0


class _ForwardOfSpan(torch.autograd.Function):
    backward = staticmethod(_backward_rule)
    vmap = staticmethod(_vmap_rule)

    @staticmethod
    def forward(*arguments: Any) -> Tensor:
        output: Tensor = torch.ops.involution.forward_of_span.default(*arguments)
        return output

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _save(ctx, inputs, output)
        ctx.save_for_forward(*inputs[:4], *inputs[10:12])
        ctx.relu = inputs[12]

    @staticmethod
    def jvp(
        ctx: Any,
        dvalue: Tensor | None,
        dhidden: Tensor | None,
        dweight: Tensor | None,
        dbias: Tensor | None,
        *others: Any,
    ) -> Tensor:
        """Apply the product rule to the involution of the field, and to the epilogue."""
        value, hidden, weight, bias, scale, offset = ctx.saved_tensors
        groups, window, backend = ctx.groups, ctx.window, ctx.backend
        kernel = _field(hidden, weight, bias, groups, window)
        parts = []
        if dhidden is not None:
            parts.append(_field(dhidden, weight, None, groups, window))
        if dweight is not None:
            parts.append(_field(hidden, dweight, None, groups, window))
        if dbias is not None:
            parts.append(_field(torch.zeros_like(hidden), weight, dbias, groups, window))
        terms = []
        if dvalue is not None:
            terms.append(contraction.forward(dvalue, kernel, window, backend))
        if parts:
            terms.append(contraction.forward(value, sum(parts[1:], parts[0]), window, backend))
        if not ctx.has_epilogue:
            return sum(terms[1:], terms[0])
        y, ones = contraction.forward(value, kernel, window, backend), [1] * (value.ndim - 2)
        dy = sum(terms, torch.zeros_like(y))
        dscale, doffset = others[6:8]
        dy = dy if scale is None else dy * scale.view(-1, *ones)
        if dscale is not None:
            dy = dy + y * dscale.view(-1, *ones)
        if doffset is not None:
            dy = dy + doffset.view(-1, *ones)
        y = y if scale is None else y * scale.view(-1, *ones)
        y = y if offset is None else y + offset.view(-1, *ones)
        return dy * (y > 0) if ctx.relu else dy


register_autograd("involution::forward_of_span", _backward_rule, setup_context=_save, lib=_OPERATORS)
register_vmap("involution::forward_of_span", _vmap_rule, lib=_OPERATORS)


# Two floating-point operations per multiply-add, as for the contractions and matrix products that it stands for.


def macs(
    value: Sequence[int], hidden: Sequence[int], weight: Sequence[int], kernel_size: Sequence[int]
) -> tuple[int, int]:
    """Return the multiply-adds of the window and of the span, from the shapes of value, hidden and weight."""
    pixels = hidden[0] * prod(hidden[2:])
    return pixels * value[1] * prod(kernel_size), pixels * weight[0] * weight[1]


@register_flop_formula(torch.ops.involution.forward_of_span)
def _forward_flops(
    value: Sequence[int],
    hidden: Sequence[int],
    weight: Sequence[int],
    bias: Sequence[int] | None,
    groups: int,
    kernel_size: Sequence[int],
    *_: Any,
    **__: Any,
) -> int:
    return 2 * sum(macs(value, hidden, weight, kernel_size))


@register_flop_formula(torch.ops.involution.gradients_of_span)
def _backward_flops(
    dy: Sequence[int],
    value: Sequence[int],
    hidden: Sequence[int],
    weight: Sequence[int],
    bias: Sequence[int] | None,
    groups: int,
    kernel_size: Sequence[int],
    *_: Any,
    **__: Any,
) -> int:
    window, span = macs(value, hidden, weight, kernel_size)
    # The span once more, then both gradients of each.
    return 2 * (2 * window + 3 * span)
