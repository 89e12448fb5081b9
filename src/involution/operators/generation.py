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
from torch.library import register_fake, register_vmap

from .. import backends
from ..backends import Epilogue, spans
from ..geometry import Window, describe
from ..memory_layout import empty_map, is_channels_last
from .contract import check_span, check_together
from .contraction import WINDOW
from .flops import register_flop_formula
from .registration import OPERATORS, call, define, differentiate
from .span_derivatives import backward_rule, jvp_rule, parsed, save, vmap_rule

_ARGUMENTS = "Tensor value, Tensor hidden, Tensor weight, Tensor? bias, SymInt groups, SymInt[] kernel_size, " + WINDOW


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
    return call(operator, _forward_fake, *arguments)


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
        # In the order of the weight: DistributedDataParallel keeps gradients as their parameters lie.
        empty_map(weight, weight.shape, is_channels_last(weight)),
        weight.new_empty(weight.shape[0]),
    )


def _forward_fake(*arguments: Any) -> Tensor:
    value, hidden, weight, bias, groups, window, _, epilogue = parsed(arguments)
    return _output(value, hidden, weight, bias, groups, window, epilogue.scale, epilogue.offset)


def _backward_fake(
    grad_output: Tensor, value: Tensor, hidden: Tensor, weight: Tensor, *_: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _gradients(value, hidden, weight)


# Implementations.


def _forward(*arguments: Any) -> Tensor:
    value, hidden, weight, bias, groups, window, backend, (scale, offset, relu) = parsed(arguments)
    out = _output(value, hidden, weight, bias, groups, window, scale, offset)
    if out.numel():
        chosen = backends.choose_for(backend, value, groups, window)
        matrix = weight.reshape(groups, *window.kernel_size, -1).contiguous()
        spans.forward(
            chosen, out, value, hidden, matrix, _dense(bias), window, Epilogue(_dense(scale), _dense(offset), relu)
        )
    return out


def _backward(grad_output: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    value, hidden, weight, bias, groups, window, backend, _ = parsed(arguments)
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


define(
    "forward_of_span", f"({_ARGUMENTS}, Tensor? scale=None, Tensor? offset=None, bool relu=False) -> Tensor", _forward
)
define("gradients_of_span", f"(Tensor grad_output, {_ARGUMENTS}) -> (Tensor, Tensor, Tensor, Tensor)", _backward)
register_fake("involution::forward_of_span", _forward_fake, lib=OPERATORS)
register_fake("involution::gradients_of_span", _backward_fake, lib=OPERATORS)
differentiate("forward_of_span", save, backward_rule, jvp_rule)
register_vmap("involution::forward_of_span", vmap_rule, lib=OPERATORS)


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
