"""The operator boundary: three PyTorch operators, each the derivative of the others.

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
from torch.utils.flop_counter import register_flop_formula

from .. import backends
from ..backends import Backend, Request, Window
from ..geometry import check_contraction, empty_field, empty_map, is_channels_last, is_field_channels_last

LIBRARY = Library("involution", "DEF")
_WINDOW = "SymInt[] stride, SymInt[] padding, SymInt[] dilation, str backend"
LIBRARY.define(f"forward(Tensor input, Tensor kernel, {_WINDOW}) -> Tensor")
LIBRARY.define(f"input_gradient(Tensor grad_output, Tensor kernel, SymInt[] input_size, {_WINDOW}) -> Tensor")
LIBRARY.define(
    f"kernel_gradient(Tensor grad_output, Tensor input, SymInt groups, SymInt[] kernel_size, {_WINDOW}) -> Tensor"
)

# Outputs: shape, dtype and layout are decided here, once, for real and fake tensors alike.


def _forward_output(input: Tensor, kernel: Tensor) -> Tensor:
    size = (*input.shape[:2], *kernel.shape[input.ndim :])
    return empty_map(input, size, is_channels_last(input))


def _input_gradient_output(grad_output: Tensor, kernel: Tensor, input_size: Sequence[int]) -> Tensor:
    channels_last = is_channels_last(grad_output) or is_field_channels_last(kernel)
    return empty_map(grad_output, (*grad_output.shape[:2], *input_size), channels_last)


def _kernel_gradient_output(grad_output: Tensor, input: Tensor, groups: int, kernel_size: Sequence[int]) -> Tensor:
    size = (input.shape[0], groups, *kernel_size, *grad_output.shape[2:])
    return empty_field(input, size, is_channels_last(grad_output) or is_channels_last(input))


@register_fake("involution::forward", lib=LIBRARY)
def _(input: Tensor, kernel: Tensor, stride: Any, padding: Any, dilation: Any, backend: str) -> Tensor:
    return _forward_output(input, kernel)


@register_fake("involution::input_gradient", lib=LIBRARY)
def _(
    grad_output: Tensor, kernel: Tensor, input_size: Any, stride: Any, padding: Any, dilation: Any, backend: str
) -> Tensor:
    return _input_gradient_output(grad_output, kernel, input_size)


@register_fake("involution::kernel_gradient", lib=LIBRARY)
def _(
    grad_output: Tensor,
    input: Tensor,
    groups: Any,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    backend: str,
) -> Tensor:
    return _kernel_gradient_output(grad_output, input, groups, kernel_size)


# Implementations


def backend_for(
    name: str,
    input: Tensor,
    groups: int,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
) -> Backend:
    """Return the backend that serves this call.

    Raises:
        RuntimeError: the named backend cannot serve it; the message gives its reason.
    """
    group_channels = input.shape[1] // groups
    request = Request(
        input.device, input.dtype, input.ndim - 2, group_channels, tuple(kernel_size), tuple(stride), tuple(dilation)
    )
    return backends.choose(name, request)


def _window(stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]) -> Window:
    return Window(tuple(stride), tuple(padding), tuple(dilation))


def _forward(
    input: Tensor,
    kernel: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    backend: str,
) -> Tensor:
    window = _window(stride, padding, dilation)
    out = _forward_output(input, kernel)
    if out.numel():
        chosen = backend_for(backend, input, kernel.shape[1], kernel.shape[2 : input.ndim], stride, dilation)
        chosen.forward(out, input, kernel, window)
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
    window = _window(stride, padding, dilation)
    out = _input_gradient_output(grad_output, kernel, input_size)
    if out.numel():
        chosen = backend_for(backend, grad_output, kernel.shape[1], kernel.shape[2 : out.ndim], stride, dilation)
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
    window = _window(stride, padding, dilation)
    out = _kernel_gradient_output(grad_output, input, groups, kernel_size)
    if out.numel():
        chosen = backend_for(backend, input, groups, kernel_size, stride, dilation)
        chosen.kernel_gradient(out, grad_output, input, window)
    return out


# Behind the dispatcher, anybody may call them with anything.


def check_together(first: Tensor, *others: Tensor | None) -> None:
    """Refuse tensors of different dtypes or devices.

    Raises:
        TypeError: they differ.
    """
    dtype, device = first.dtype, first.device
    for other in others:
        if other is not None and (other.dtype != dtype or other.device != device):
            raise TypeError(
                f"all tensors of an involution need one dtype and device, got {dtype} on {device} and "
                f"{other.dtype} on {other.device}"
            )


def _checked_forward(input: Tensor, kernel: Tensor, *rest: Any) -> Tensor:
    check_together(input, kernel)
    out = (*input.shape[:2], *kernel.shape[input.ndim :])
    check_contraction(input.shape, kernel.shape, out, *map(tuple, rest[:3]))
    return _forward(input, kernel, *rest)


def _checked_input_gradient(grad_output: Tensor, kernel: Tensor, input_size: Sequence[int], *rest: Any) -> Tensor:
    check_together(grad_output, kernel)
    size = (*grad_output.shape[:2], *input_size)
    check_contraction(size, kernel.shape, grad_output.shape, *map(tuple, rest[:3]))
    return _input_gradient(grad_output, kernel, input_size, *rest)


def _checked_kernel_gradient(
    grad_output: Tensor, input: Tensor, groups: int, kernel_size: Sequence[int], *rest: Any
) -> Tensor:
    check_together(grad_output, input)
    field = (input.shape[0], groups, *kernel_size, *grad_output.shape[2:])
    check_contraction(input.shape, field, grad_output.shape, *map(tuple, rest[:3]))
    return _kernel_gradient(grad_output, input, groups, kernel_size, *rest)


LIBRARY.impl("forward", _checked_forward, "CompositeExplicitAutograd")
LIBRARY.impl("input_gradient", _checked_input_gradient, "CompositeExplicitAutograd")
LIBRARY.impl("kernel_gradient", _checked_kernel_gradient, "CompositeExplicitAutograd")


# Derivatives: with A(X, H) the forward, B(dY, H) the input gradient and C(dY, X) the kernel gradient,
# <dY, A(X, H)> = <X, B(dY, H)> = <H, C(dY, X)>, so each one's gradients are the other two.
# The rules are given twice: to the dispatcher, where autograd and the tracers find them, and as autograd functions,
# which torch.func (grad, jacrev, jvp) and forward mode need.


def _save(ctx: Any, inputs: tuple, output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.window = inputs[-4:]


def _forward_backward(ctx: Any, dy: Tensor) -> tuple:
    x, h = ctx.saved_tensors
    dx = input_gradient(dy, h, x.shape[2:], *ctx.window) if ctx.needs_input_grad[0] else None
    dh = kernel_gradient(dy, x, h.shape[1], h.shape[2 : x.ndim], *ctx.window) if ctx.needs_input_grad[1] else None
    return dx, dh, None, None, None, None


def _input_gradient_backward(ctx: Any, gx: Tensor) -> tuple:
    dy, h = ctx.saved_tensors
    gy = forward(gx, h, *ctx.window) if ctx.needs_input_grad[0] else None
    gh = kernel_gradient(dy, gx, h.shape[1], h.shape[2 : dy.ndim], *ctx.window) if ctx.needs_input_grad[1] else None
    return gy, gh, None, None, None, None, None


def _kernel_gradient_backward(ctx: Any, gh: Tensor) -> tuple:
    dy, x = ctx.saved_tensors
    gy = forward(x, gh, *ctx.window) if ctx.needs_input_grad[0] else None
    gx = input_gradient(dy, gh, x.shape[2:], *ctx.window) if ctx.needs_input_grad[1] else None
    return gy, gx, None, None, None, None, None, None


def is_transformed() -> bool:
    """Whether torch.func or forward-mode differentiation is at work."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def _is_unobserved(first: Any, second: Any) -> bool:
    """Whether an operator on these tensors may run without the dispatcher: nobody would notice but the clock."""
    return (
        type(first) is Tensor
        and type(second) is Tensor
        and not ((first.requires_grad or second.requires_grad) and torch.is_grad_enabled())
        and not torch._C._len_torch_dispatch_stack()
        and not torch._C._len_torch_function_stack()
        and not torch.autograd._profiler_enabled()
        and not torch.jit.is_tracing()
        and first.device.type in ("cpu", "cuda")
    )


def _differentiable(
    name: str, implementation: Callable[..., Tensor], backward_rule: Callable[..., tuple]
) -> Callable[..., Tensor]:
    """Give an operator its derivative and its rule for vmap; return the function that applies it."""
    operator = getattr(torch.ops.involution, name).default

    def vmap_rule(info: Any, in_dims: tuple, first: Tensor, second: Tensor, *rest: Any) -> tuple[Tensor, int]:
        """Let the mapped dimension join the batch."""

        def fold(tensor: Tensor, dim: int | None) -> Tensor:
            mapped = tensor.expand(info.batch_size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
            return mapped.flatten(0, 1)

        out = apply(fold(first, in_dims[0]), fold(second, in_dims[1]), *rest)
        return out.unflatten(0, (info.batch_size, out.shape[0] // info.batch_size)), 0

    def setup(ctx: Any, inputs: tuple, output: Tensor) -> None:
        _save(ctx, inputs, output)
        ctx.save_for_forward(*inputs[:2])
        ctx.rest = inputs[2:]

    def jvp_rule(ctx: Any, first_tangent: Tensor | None, second_tangent: Tensor | None, *_: Any) -> Tensor | None:
        """Apply the product rule, forward mode: ``d op(a, b) = op(da, b) + op(a, db)``."""
        first, second = ctx.saved_tensors
        terms = []
        if first_tangent is not None:
            terms.append(apply(first_tangent, second, *ctx.rest))
        if second_tangent is not None:
            terms.append(apply(first, second_tangent, *ctx.rest))
        return sum(terms[1:], terms[0]) if terms else None

    class Operator(torch.autograd.Function):
        @staticmethod
        def forward(*arguments: Any) -> Tensor:
            return operator(*arguments)

        setup_context = staticmethod(setup)
        backward = staticmethod(backward_rule)
        jvp = staticmethod(jvp_rule)
        vmap = staticmethod(vmap_rule)

    Operator.__name__ = Operator.__qualname__ = f"involution_{name}"
    register_autograd(f"involution::{name}", backward_rule, setup_context=_save, lib=LIBRARY)
    register_vmap(f"involution::{name}", vmap_rule, lib=LIBRARY)

    def apply(*arguments: Any) -> Tensor:
        if torch.compiler.is_compiling():
            return operator(*arguments)
        # The operator itself costs a third less than the autograd function, which also serves forward mode, and its
        # implementation alone half of that.
        if not is_transformed():
            return (implementation if _is_unobserved(*arguments[:2]) else operator)(*arguments)
        return Operator.apply(*arguments)

    return apply


forward = _differentiable("forward", _forward, _forward_backward)
input_gradient = _differentiable("input_gradient", _input_gradient, _input_gradient_backward)
kernel_gradient = _differentiable("kernel_gradient", _kernel_gradient, _kernel_gradient_backward)


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
