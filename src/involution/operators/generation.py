"""Kernel generation and multiply-add in one operator, for a φ whose last step is one matrix.

``Y = involution(value, W · hidden + b)``: the kernel field, the largest tensor of an involution by far, is not kept.
Where the backend can (``span_and_contract``), the forward pass makes it tile by tile and consumes it at once. Nothing
but the arguments is saved for the backward pass, which makes the field again in pieces of bounded size. Derivatives of
higher order go through the unfused operators.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.library import register_autograd, register_fake
from torch.utils.flop_counter import register_flop_formula

from .. import backends
from ..backends import Request, Window, native
from ..functional import autocast
from ..geometry import check_contraction, check_span, empty_map, is_channels_last
from ..inference import LAST, READY, Last, contiguous
from . import contraction as library

_LIBRARY = library.LIBRARY
_ARGUMENTS = (
    "Tensor value, Tensor hidden, Tensor weight, Tensor? bias, SymInt groups, SymInt[] kernel_size, "
    'SymInt[] stride, SymInt[] padding, SymInt[] dilation, str backend="auto"'
)
_LIBRARY.define(f"fused_forward({_ARGUMENTS}) -> Tensor")
_LIBRARY.define(f"fused_backward(Tensor grad_output, {_ARGUMENTS}) -> (Tensor, Tensor, Tensor, Tensor)")
_LIBRARY.define(f"fused_inference(Tensor(a!) out, {_ARGUMENTS.partition(', str backend')[0]}, {LAST}) -> ()")

forward = torch.ops.involution.fused_forward.default
backward = torch.ops.involution.fused_backward.default
inference = torch.ops.involution.fused_inference.default

# The backward pass holds a piece of the field of about this size: what a cache holds, and what keeps a GPU busy.
_PIECE_BYTES = 2 << 20
_GPU_PIECE_BYTES = 128 << 20


def serves(backend: str, value: Tensor, weight: Tensor) -> bool:
    """Whether the fused operator can stand for generation and multiply-add of these tensors on ``backend``."""
    if value.device != weight.device or torch.compiler.is_exporting():
        return False
    if value.dtype != weight.dtype and not (
        torch.is_autocast_enabled(value.device.type) and torch.float64 not in (value.dtype, weight.dtype)
    ):
        return False
    if backend == "triton" or (backend == "auto" and value.device.type == "cuda"):
        return not library.is_transformed()
    if not (READY and value.device.type == "cpu" and value.dtype in native.DTYPES and backend in ("auto", "native")):
        return False
    if torch.compiler.is_compiling():
        return backends.preferred() in (None, "native")
    # torch.func and forward mode have rules for the unfused operators.
    if library.is_transformed():
        return False
    ones = (1,) * (value.ndim - 2)
    return backends.choose(backend, Request(value.device, value.dtype, value.ndim - 2, 1, ones, ones, ones)) is native


def involution_of_span(
    value: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    groups: int,
    kernel_size: tuple[int, ...],
    *,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    backend: str = "auto",
) -> Tensor:
    """Return the involution of ``value`` with the field ``weight · hidden + bias``.

    The arguments have to fit (`involution.Involution2d` sees to it); under autocast they are cast to its dtype.

    Args:
        value: ``(B, C, H, W)``.
        hidden: ``(B, C_hidden, H', W')``.
        weight: ``(G·K·K, C_hidden, 1, 1)``, as in a 1×1 convolution.
        bias: ``(G·K·K,)`` or None.
        groups: G.
        kernel_size: K, taps per dimension.
        stride: pixels between two windows.
        padding: zeros around the map.
        dilation: pixels between two taps.
        backend: a backend's name, or ``"auto"``.

    Returns:
        ``(B, C, H', W')``, equal to the unfused result within rounding.
    """
    from torch.overrides import handle_torch_function, has_torch_function
    ts = (value, hidden, weight, bias)
    if has_torch_function(ts):
        return handle_torch_function(involution_of_span, ts, *ts, groups, kernel_size, stride=stride, padding=padding, dilation=dilation, backend=backend)
    if not serves(backend, value, weight):
        from .. import functional
        field = getattr(torch.nn.functional, f"conv{len(stride)}d")(hidden, weight, bias).unflatten(1, (groups, *kernel_size))
        return getattr(functional, f"involution{len(stride)}d")(value, field, stride=stride, padding=padding, dilation=dilation, backend=backend)
    value, hidden, weight = autocast(value, hidden, weight)
    if bias is not None:
        bias = bias.to(weight.dtype)
    return forward(value, hidden, weight, bias, groups, kernel_size, stride, padding, dilation, backend)


def _output(value: Tensor, hidden: Tensor) -> Tensor:
    return empty_map(value, (*value.shape[:2], *hidden.shape[2:]), is_channels_last(value))


def infer(
    value: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    groups: int,
    kernel_size: Sequence[int],
    window: Window,
    last: Last,
) -> Tensor:
    """Return ``last`` of `involution_of_span`'s result: no derivative, float32 and float64 only."""
    out = _output(value, hidden)
    run = inference if torch.compiler.is_compiling() else _infer
    run(out, value, hidden, weight, bias, groups, kernel_size, *window, *last)
    return out


def _infer(
    out: Tensor,
    value: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    groups: int,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    *last: Any,
) -> None:
    window = Window(tuple(stride), tuple(padding), tuple(dilation))
    # What follows from shapes is known after the first call.
    _check(value, hidden, weight, bias, groups, kernel_size, out, window)
    if out.numel():
        span = weight.reshape(groups, *kernel_size, -1).contiguous()
        offset = contiguous(bias)
        native.span_and_contract(out, value, hidden, span, offset, window, last)


def _checked_infer(out: Tensor, value: Tensor, *rest: Any) -> None:
    library.check_together(out, value, *rest[-7:-2])
    _infer(out, value, *rest)


@register_fake("involution::fused_inference", lib=_LIBRARY)
def _(*_: Any) -> None:
    return None


def _check(
    value: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    groups: int,
    kernel_size: Sequence[int],
    out: Tensor,
    window: Window,
) -> None:
    library.check_together(value, hidden, weight, bias)
    field = (value.shape[0], groups, *kernel_size, *hidden.shape[2:])
    check_span(value.shape, hidden.shape, weight.shape, None if bias is None else bias.shape, field)
    check_contraction(value.shape, field, out.shape, *window)


@register_fake("involution::fused_forward", lib=_LIBRARY)
def _(value: Tensor, hidden: Tensor, *_: Any) -> Tensor:
    return _output(value, hidden)


def _gradients(value: Tensor, hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        empty_map(value, value.shape, is_channels_last(value)),
        empty_map(hidden, hidden.shape, True),
        torch.empty_like(weight, memory_format=torch.contiguous_format),
        weight.new_empty(weight.shape[0]),
    )


@register_fake("involution::fused_backward", lib=_LIBRARY)
def _(grad_output: Tensor, value: Tensor, hidden: Tensor, weight: Tensor, *_: Any) -> tuple[Tensor, ...]:
    return _gradients(value, hidden, weight)


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
    backend: str = "auto",
) -> Tensor:
    out = _output(value, hidden)
    window = Window(tuple(stride), tuple(padding), tuple(dilation))
    _check(value, hidden, weight, bias, groups, kernel_size, out, window)
    if out.numel():
        span = weight.reshape(groups, *kernel_size, -1).contiguous()
        offset = contiguous(bias)
        chosen = library.backend_for(backend, value, groups, kernel_size, stride, dilation)
        fuse = getattr(chosen, "span_and_contract", None)
        if fuse is None or not fuse(out, value, hidden, span, offset, window):
            chosen.forward(out, value, _field(hidden, span.flatten(0, -2), offset, groups, kernel_size)[1], window)
    return out


def _field(
    hidden: Tensor, matrix: Tensor, bias: Tensor | None, groups: int, kernel_size: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Return the field as the product ``(pixels, G·K·K)`` and as a view of it ``(B, G, K, K, H', W')``."""
    dims = len(kernel_size)
    pixels = hidden.movedim(1, -1).reshape(-1, hidden.shape[1])
    product = pixels @ matrix.t() if bias is None else torch.addmm(bias, pixels, matrix.t())
    view = product.view(hidden.shape[0], *hidden.shape[2:], groups, *kernel_size)
    return product, view.permute(0, *range(1 + dims, 2 + 2 * dims), *range(1, 1 + dims))


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
    backend: str = "auto",
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    library.check_together(grad_output, value)
    window = Window(tuple(stride), tuple(padding), tuple(dilation))
    _check(value, hidden, weight, bias, groups, kernel_size, grad_output, window)
    dvalue, dhidden, dweight, dbias = gradients = _gradients(value, hidden, weight)
    chosen = library.backend_for(backend, value, groups, kernel_size, stride, dilation)
    fuse = getattr(chosen, "span_gradients", None)
    if fuse is not None and grad_output.numel():
        span = weight.reshape(groups, *kernel_size, -1).contiguous()
        offset = contiguous(bias)
        fuse(dvalue, dhidden, dweight, dbias, grad_output, value, hidden, span, offset, window)
        return gradients
    field_channels, hidden_channels = weight.shape[:2]
    matrix = weight.reshape(field_channels, hidden_channels)
    # Sums over pieces are kept in float32 at least.
    wide = torch.promote_types(weight.dtype, torch.float32)
    dmatrix, dvector = matrix.new_zeros(matrix.shape, dtype=wide), matrix.new_zeros((1, field_channels), dtype=wide)
    whole = tuple(padding)
    piece_bytes = _GPU_PIECE_BYTES if value.is_cuda else _PIECE_BYTES
    row_bytes = prod(hidden.shape[3:]) * field_channels * value.element_size()
    pieces = list(_pieces(hidden.shape[0], hidden.shape[2], row_bytes, piece_bytes)) if grad_output.numel() else []
    cut = any(rows != slice(0, hidden.shape[2]) for _, rows in pieces)
    if cut or not pieces:
        dvalue.zero_()
    for images, rows in pieces:
        inputs, window = slice(None), Window(tuple(stride), whole, tuple(dilation))
        if cut:
            first = rows.start * stride[0] - whole[0]
            last = (rows.stop - 1) * stride[0] - whole[0] + (kernel_size[0] - 1) * dilation[0]
            inputs = slice(max(0, first), max(0, min(value.shape[2], last + 1)))
            window = window._replace(padding=(inputs.start - first, *whole[1:]))
            if inputs.start >= inputs.stop:
                # Windows that lie wholly outside the map give nothing, and no gradient to anything.
                dhidden[images, :, rows] = 0
                continue
        x, dy, z = value[images, :, inputs], grad_output[images, :, rows], hidden[images, :, rows]
        pixels = z.movedim(1, -1).reshape(-1, hidden_channels)
        field, kernel = _field(z, matrix, bias, groups, kernel_size)
        if cut:
            dx = empty_map(x, x.shape, is_channels_last(value))
            chosen.input_gradient(dx, dy, kernel, window)
            dvalue[images, :, inputs] += dx
        else:
            chosen.input_gradient(dvalue[images], dy, kernel, window)
        # The field has served; its gradient takes its place.
        chosen.kernel_gradient(kernel, dy, x, window)
        dhidden[images, :, rows] = (field @ matrix).view(z.shape[0], *z.shape[2:], -1).movedim(-1, 1)
        dmatrix += field.t() @ pixels
        dvector += pixels.new_ones(1, pixels.shape[0]) @ field
    dweight.copy_(dmatrix.view(weight.shape))
    dbias.copy_(dvector[0])
    return dvalue, dhidden, dweight, dbias


def _pieces(batch: int, rows: int, row_bytes: int, piece_bytes: int) -> Iterator[tuple[slice, slice]]:
    """Cut a batch of output grids into pieces: several images, or rows of one."""
    images = max(1, piece_bytes // (rows * row_bytes))
    band = rows if images > 1 or rows * row_bytes <= 2 * piece_bytes else max(1, piece_bytes // row_bytes)
    for image in range(0, batch, images):
        for row in range(0, rows, band):
            yield slice(image, min(batch, image + images)), slice(row, min(rows, row + band))


_LIBRARY.impl("fused_forward", _forward, "CompositeExplicitAutograd")
_LIBRARY.impl("fused_inference", _checked_infer, "CPU")
_LIBRARY.impl("fused_backward", _backward, "CompositeExplicitAutograd")


def _save(ctx: Any, inputs: tuple, output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.geometry = inputs[4:]


def _autograd(ctx: Any, dy: Tensor) -> tuple:
    value, hidden, weight, bias = ctx.saved_tensors
    groups, kernel_size, *window = ctx.geometry
    if torch.is_grad_enabled():
        gradients = _differentiable_backward(dy, value, hidden, weight, bias, groups, kernel_size, window)
    else:
        gradients = backward(dy, value, hidden, weight, bias, *ctx.geometry)
    needed = [gradient if need else None for gradient, need in zip(gradients, ctx.needs_input_grad[:4], strict=True)]
    return (*needed, None, None, None, None, None, None)


def _differentiable_backward(
    dy: Tensor,
    value: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    groups: int,
    kernel_size: Sequence[int],
    window: Sequence[Any],
) -> tuple[Tensor, ...]:
    """Return the same gradients by operators that have derivatives themselves."""
    matrix, dims = weight.flatten(1), value.ndim - 2
    field = torch.einsum("nc,bc...->bn...", matrix, hidden)
    if bias is not None:
        field = field + bias.view(-1, *[1] * dims)
    kernel = field.unflatten(1, (groups, *kernel_size))
    dvalue = library.input_gradient(dy, kernel, value.shape[2:], *window)
    dfield = library.kernel_gradient(dy, value, groups, kernel_size, *window).flatten(1, 1 + dims)
    dhidden = torch.einsum("nc,bn...->bc...", matrix, dfield)
    dweight = torch.einsum("bnp,bcp->nc", dfield.flatten(2), hidden.flatten(2)).view(weight.shape)
    return dvalue, dhidden, dweight, dfield.flatten(2).sum((0, 2))


register_autograd("involution::fused_forward", _autograd, setup_context=_save, lib=_LIBRARY)


# Two floating-point operations per multiply-add, as for the unfused operators and their matrix products.


def macs(
    value: Sequence[int], hidden: Sequence[int], weight: Sequence[int], kernel_size: Sequence[int]
) -> tuple[int, int]:
    """Return the multiply-adds of the window and of the span, from the shapes of value, hidden and weight."""
    pixels = hidden[0] * prod(hidden[2:])
    return pixels * value[1] * prod(kernel_size), pixels * weight[0] * weight[1]


@register_flop_formula(torch.ops.involution.fused_forward)
def _forward_flops(
    value: Any, hidden: Any, weight: Any, bias: Any, groups: int, kernel_size: Any, *_: Any, **__: Any
) -> int:
    return 2 * sum(macs(value, hidden, weight, kernel_size))


@register_flop_formula(torch.ops.involution.fused_inference)
def _inference_flops(out: Any, *arguments: Any, **__: Any) -> int:
    return _forward_flops(*arguments)


@register_flop_formula(torch.ops.involution.fused_backward)
def _backward_flops(
    dy: Any, value: Any, hidden: Any, weight: Any, bias: Any, groups: int, kernel_size: Any, *_: Any, **__: Any
) -> int:
    window, span = macs(value, hidden, weight, kernel_size)
    # The span once more, then both gradients of each.
    return 2 * (2 * window + 3 * span)
