"""The three contractions as PyTorch operators, each the derivative of the others.

Involution is bilinear in input and kernel, so forward, input gradient and kernel gradient close under differentiation
and derivatives of every order exist. The operators are opaque to tracers: backends are chosen when they run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.library import register_fake, register_vmap

from .. import backends
from ..geometry import Window
from ..memory_layout import empty_field, empty_map, is_channels_last, is_field_channels_last
from .contract import check_correlation, check_input_gradient, check_involution
from .flops import register_flop_formula
from .registration import OPERATORS, Gradients, call, define, differentiate, saved_primals

WINDOW = "SymInt[] stride, SymInt[] padding, SymInt[] dilation, str backend"


# What the rest of the library calls.


def forward(input: Tensor, kernel: Tensor, window: Window, backend: str) -> Tensor:
    """Return ``Y[b, c, i, j] = Σ_{u,v} H[b, ⌊cG/C⌋, u, v, i, j] · X[b, c, s·i + d·u − p, s·j + d·v − p]``."""
    return _call_forward(input, kernel, *window[1:], backend)


def input_gradient(
    grad_output: Tensor, kernel: Tensor, input_size: Sequence[int], window: Window, backend: str
) -> Tensor:
    """Return the gradient of `forward` for its input of ``input_size`` pixels."""
    return _call_input_gradient(grad_output, kernel, input_size, *window[1:], backend)


def kernel_gradient(grad_output: Tensor, input: Tensor, groups: int, window: Window, backend: str) -> Tensor:
    """Return the gradient of `forward` for its kernel: the correlation of ``grad_output`` with ``input``."""
    return _call_kernel_gradient(grad_output, input, groups, *window, backend)


# Outputs: shape, dtype and layout are decided here, once, for real and fake tensors alike.


def _forward_output(input: Tensor, kernel: Tensor, window: Window) -> Tensor:
    check_involution(input, kernel, window)
    size = (*input.shape[:2], *kernel.shape[input.ndim :])
    return empty_map(input, size, is_channels_last(input))


def _input_gradient_output(grad_output: Tensor, kernel: Tensor, input_size: Sequence[int], window: Window) -> Tensor:
    check_input_gradient(grad_output, kernel, input_size, window)
    channels_last = is_channels_last(grad_output) or is_field_channels_last(kernel)
    return empty_map(grad_output, (*grad_output.shape[:2], *input_size), channels_last)


def _kernel_gradient_output(grad_output: Tensor, input: Tensor, groups: int, window: Window) -> Tensor:
    check_correlation(grad_output, input, groups, window)
    size = (input.shape[0], groups, *window.kernel_size, *grad_output.shape[2:])
    return empty_field(input, size, is_channels_last(grad_output) or is_channels_last(input))


def _window_of(kernel: Tensor, *geometry: Sequence[int]) -> Window:
    taps = kernel.shape[2 : 2 + (kernel.ndim - 2) // 2]
    return Window.of(taps, *geometry)


# Shapes without numbers, for tracing; they also say what is wrong with arguments that C++ refused.


def _forward_fake(
    input: Tensor, kernel: Tensor, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], backend: str
) -> Tensor:
    return _forward_output(input, kernel, _window_of(kernel, stride, padding, dilation))


def _input_gradient_fake(
    grad_output: Tensor,
    kernel: Tensor,
    input_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    backend: str,
) -> Tensor:
    return _input_gradient_output(grad_output, kernel, input_size, _window_of(kernel, stride, padding, dilation))


def _kernel_gradient_fake(
    grad_output: Tensor,
    input: Tensor,
    groups: int,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    backend: str,
) -> Tensor:
    window = Window.of(kernel_size, stride, padding, dilation)
    return _kernel_gradient_output(grad_output, input, groups, window)


# Implementations.


def _forward(
    input: Tensor, kernel: Tensor, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], backend: str
) -> Tensor:
    window = _window_of(kernel, stride, padding, dilation)
    out = _forward_output(input, kernel, window)
    if out.numel():
        backends.choose_for(backend, input, kernel.shape[1], window).forward(out, input, kernel, window)
    return out


def _input_gradient(
    grad_output: Tensor,
    kernel: Tensor,
    input_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    backend: str,
) -> Tensor:
    window = _window_of(kernel, stride, padding, dilation)
    out = _input_gradient_output(grad_output, kernel, input_size, window)
    if out.numel():
        chosen = backends.choose_for(backend, grad_output, kernel.shape[1], window)
        chosen.input_gradient(out, grad_output, kernel, window)
    return out


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
    window = Window.of(kernel_size, stride, padding, dilation)
    out = _kernel_gradient_output(grad_output, input, groups, window)
    if out.numel():
        backends.choose_for(backend, input, groups, window).kernel_gradient(out, grad_output, input, window)
    return out


define("forward", f"(Tensor input, Tensor kernel, {WINDOW}) -> Tensor", _forward)
define(
    "input_gradient", f"(Tensor grad_output, Tensor kernel, SymInt[] input_size, {WINDOW}) -> Tensor", _input_gradient
)
define(
    "kernel_gradient",
    f"(Tensor grad_output, Tensor input, SymInt groups, SymInt[] kernel_size, {WINDOW}) -> Tensor",
    _kernel_gradient,
)


# Derivatives: with A(X, H) the forward, B(dY, H) the input gradient and C(dY, X) the kernel gradient,
# <dY, A(X, H)> = <X, B(dY, H)> = <H, C(dY, X)>, so each one's gradients are the other two.


def _save(ctx: Any, first: Tensor, second: Tensor, *rest: Any) -> None:
    ctx.save_for_backward(first, second)
    ctx.save_for_forward(first, second)
    ctx.rest, ctx.geometry, ctx.backend = rest, rest[-4:-1], rest[-1]


def _forward_backward(ctx: Any, dy: Tensor) -> Gradients:
    x, h = ctx.saved_tensors
    window = _window_of(h, *ctx.geometry)
    dx = input_gradient(dy, h, x.shape[2:], window, ctx.backend) if ctx.needs_input_grad[0] else None
    dh = kernel_gradient(dy, x, h.shape[1], window, ctx.backend) if ctx.needs_input_grad[1] else None
    return dx, dh, None, None, None, None


def _input_gradient_backward(ctx: Any, gx: Tensor) -> Gradients:
    dy, h = ctx.saved_tensors
    window = _window_of(h, *ctx.geometry)
    gy = forward(gx, h, window, ctx.backend) if ctx.needs_input_grad[0] else None
    gh = kernel_gradient(dy, gx, h.shape[1], window, ctx.backend) if ctx.needs_input_grad[1] else None
    return gy, gh, None, None, None, None, None


def _kernel_gradient_backward(ctx: Any, gh: Tensor) -> Gradients:
    dy, x = ctx.saved_tensors
    window = _window_of(gh, *ctx.geometry)
    gy = forward(x, gh, window, ctx.backend) if ctx.needs_input_grad[0] else None
    gx = input_gradient(dy, gh, x.shape[2:], window, ctx.backend) if ctx.needs_input_grad[1] else None
    return gy, gx, None, None, None, None, None, None


def fold_into_batch(tensor: Tensor, dim: int | None, size: int) -> Tensor:
    """Let a dimension that ``torch.func.vmap`` maps over join the batch, the first dimension of what remains."""
    return to_front(tensor, dim, size).flatten(0, 1)


def to_front(tensor: Tensor, dim: int | None, size: int) -> Tensor:
    """Return ``tensor`` with the dimension that is mapped over as its first; it is repeated where it has none."""
    return tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


def _differentiable(
    name: str, fake: Callable[..., Tensor], backward_rule: Callable[..., Gradients]
) -> Callable[..., Tensor]:
    """Give an operator its shapes, its derivatives and its rule for vmap; return the function that calls it."""
    operator = getattr(torch.ops.involution, name).default

    def jvp_rule(ctx: Any, first_tangent: Tensor | None, second_tangent: Tensor | None, *_: Any) -> Tensor:
        """Apply the product rule: ``d op(a, b) = op(da, b) + op(a, db)``."""
        first, second = saved_primals(ctx)
        terms = []
        if first_tangent is not None:
            terms.append(operator(first_tangent, second, *ctx.rest))
        if second_tangent is not None:
            terms.append(operator(first, second_tangent, *ctx.rest))
        tangent: Tensor = sum(terms[1:], terms[0])
        return tangent

    def vmap_rule(
        info: Any, in_dims: Sequence[int | None], first: Tensor, second: Tensor, *rest: Any
    ) -> tuple[Tensor, int]:
        first, second = (
            fold_into_batch(tensor, dim, info.batch_size)
            for tensor, dim in zip((first, second), in_dims[:2], strict=True)
        )
        out = operator(first, second, *rest)
        return out.unflatten(0, (info.batch_size, out.shape[0] // info.batch_size)), 0

    register_fake(f"involution::{name}", fake, lib=OPERATORS)
    differentiate(name, _save, backward_rule, jvp_rule)
    register_vmap(f"involution::{name}", vmap_rule, lib=OPERATORS)
    return partial(call, operator, fake)


_call_forward = _differentiable("forward", _forward_fake, _forward_backward)
_call_input_gradient = _differentiable("input_gradient", _input_gradient_fake, _input_gradient_backward)
_call_kernel_gradient = _differentiable("kernel_gradient", _kernel_gradient_fake, _kernel_gradient_backward)


# Floating-point operations, two per multiply-add: K² per output value, in all three contractions.


@register_flop_formula(torch.ops.involution.forward)
def _forward_flops(input_shape: Sequence[int], kernel_shape: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * input_shape[1] * prod(kernel_shape) // kernel_shape[1]


@register_flop_formula(torch.ops.involution.input_gradient)
def _input_gradient_flops(grad_shape: Sequence[int], kernel_shape: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * grad_shape[1] * prod(kernel_shape) // kernel_shape[1]


@register_flop_formula(torch.ops.involution.kernel_gradient)
def _kernel_gradient_flops(
    grad_shape: Sequence[int], input_shape: Sequence[int], groups: int, kernel_size: Sequence[int], *_: Any, **__: Any
) -> int:
    return 2 * prod(grad_shape) * prod(kernel_size)
