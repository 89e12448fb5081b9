"""The three contractions as PyTorch operators, each the derivative of the others.

Involution is bilinear in input and kernel, so forward, input gradient and kernel gradient close under differentiation
and derivatives of every order exist. The operators are opaque to tracers: backends are chosen when they run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.library import Library, register_autograd, register_fake, register_vmap

from .. import backends
from ..geometry import Window
from ..memory_layout import empty_field, empty_map, is_channels_last, is_field_channels_last
from .contract import check_correlation, check_input_gradient, check_involution
from .flops import register_flop_formula

OPERATORS = Library("involution", "DEF")
WINDOW = "SymInt[] stride, SymInt[] padding, SymInt[] dilation, str backend"


def define(name: str, schema: str, implementation: Callable[..., Any]) -> None:
    """Define an operator and what serves it where C++ does not (csrc/operators.cpp serves the CPU).

    Under a second name, with ``_in_python`` behind it, C++ hands on calls that another backend is to serve.
    """
    for full in (name, f"{name}_in_python"):
        OPERATORS.define(f"{full}{schema}")
        OPERATORS.impl(full, implementation, "CompositeExplicitAutograd")


# One for each argument of an operator.
Gradients = tuple[Tensor | None, ...]


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


def call(
    operator: Callable[..., Tensor],
    function: type[torch.autograd.Function],
    fake: Callable[..., Tensor],
    *arguments: Any,
) -> Tensor:
    """Call an operator, or the autograd function that stands for it.

    C++ finds that arguments do not fit, Python says why: then ``fake``, which checks them too, raises the sentence.
    """
    if is_transformed():
        output: Tensor = function.apply(*arguments)
        return output
    try:
        return operator(*arguments)
    except RuntimeError:
        fake(*arguments)
        raise


def is_transformed() -> bool:
    """Whether torch.func or forward-mode differentiation is at work.

    PyTorch's dispatcher takes an operator's rule for the backward pass, but neither that for forward mode nor those of
    torch.func: they are served by autograd functions alone, which cost a hundred microseconds more.
    """
    return not torch.compiler.is_compiling() and (
        torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
    )


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
# The rules are given twice: to the dispatcher, and as autograd functions, which `is_transformed` calls for.


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.geometry, ctx.backend = inputs[-4:-1], inputs[-1]


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
    """Give an operator its shapes, its derivative and its rule for vmap; return the function that calls it."""
    operator = getattr(torch.ops.involution, name).default

    def apply(*arguments: Any) -> Tensor:
        return call(operator, Function, fake, *arguments)

    def vmap_rule(
        info: Any, in_dims: Sequence[int | None], first: Tensor, second: Tensor, *rest: Any
    ) -> tuple[Tensor, int]:
        first, second = (
            fold_into_batch(tensor, dim, info.batch_size)
            for tensor, dim in zip((first, second), in_dims[:2], strict=True)
        )
        out = apply(first, second, *rest)
        return out.unflatten(0, (info.batch_size, out.shape[0] // info.batch_size)), 0

    class Function(torch.autograd.Function):
        backward = staticmethod(backward_rule)
        vmap = staticmethod(vmap_rule)

        @staticmethod
        def forward(*arguments: Any) -> Tensor:
            output: Tensor = operator(*arguments)
            return output

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
            _save(ctx, inputs, output)
            ctx.save_for_forward(*inputs[:2])
            ctx.rest = inputs[2:]

        @staticmethod
        def jvp(ctx: Any, first_tangent: Tensor | None, second_tangent: Tensor | None, *_: Any) -> Tensor | None:
            """Apply the product rule, forward mode: ``d op(a, b) = op(da, b) + op(a, db)``."""
            first, second = ctx.saved_tensors
            terms = []
            if first_tangent is not None:
                terms.append(apply(first_tangent, second, *ctx.rest))
            if second_tangent is not None:
                terms.append(apply(first, second_tangent, *ctx.rest))
            return sum(terms[1:], terms[0]) if terms else None

    Function.__name__ = Function.__qualname__ = f"involution_{name}"
    register_fake(f"involution::{name}", fake, lib=OPERATORS)
    register_autograd(f"involution::{name}", backward_rule, setup_context=_save, lib=OPERATORS)
    register_vmap(f"involution::{name}", vmap_rule, lib=OPERATORS)
    return apply


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
