"""The CPU backend: vectorised C++ kernels for every floating dtype, layout and geometry, on torch's own threads.

channels_last maps and fields (a pixel's G·K·K weights together) of float32 and float64 are read and written in place;
other layouts and half precision pass through scratch memory of at most a few hundred KiB per thread. The kernels are
compiled for several instruction sets and the best one the machine has is used; the environment variable
``INVOLUTION_NATIVE_ISA`` names another one.
"""

from __future__ import annotations

import os
from functools import lru_cache
from struct import Struct
from typing import Any

import torch
from torch import Tensor

from ..request import Fault, Request, Window
from . import loader

__all__ = [
    "affine_of_norm",
    "forward",
    "input_gradient",
    "instruction_set",
    "instruction_sets",
    "kernel_gradient",
    "name",
    "norm_backward",
    "norm_forward",
    "pointwise",
    "span_and_contract",
    "span_gradients",
    "unsupported",
]

name = "native"

instruction_set = loader.instruction_set
instruction_sets = loader.instruction_sets

DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
Affine = tuple[Tensor | None, Tensor | None, bool]
_FORWARD, _INPUT_GRADIENT, _KERNEL_GRADIENT = range(3)

# A forked child has none of its parent's OpenMP threads, and waiting for them would never end.
_forked = False


def _after_fork() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def unsupported(request: Request) -> str | None:
    """Return why this backend cannot serve ``request``."""
    if request.device.type != "cpu":
        return f"it serves CPU tensors, got a tensor on {request.device}"
    missing = loader.missing()
    return None if missing is None else Fault(missing)


def forward(out: Tensor, input: Tensor, kernel: Tensor, window: Window) -> None:
    """See `Backend.forward`."""
    _run(_FORWARD, input, kernel, out, window)


def input_gradient(out: Tensor, grad_output: Tensor, kernel: Tensor, window: Window) -> None:
    """See `Backend.input_gradient`."""
    _run(_INPUT_GRADIENT, out, kernel, grad_output, window)


def kernel_gradient(out: Tensor, grad_output: Tensor, input: Tensor, window: Window) -> None:
    """See `Backend.kernel_gradient`."""
    _run(_KERNEL_GRADIENT, input, out, grad_output, window)


def span_and_contract(
    out: Tensor,
    input: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    window: Window,
    last: Affine = (None, None, False),
) -> bool:
    """See `Fusing.span_and_contract`: the field exists only in scratch memory.

    Args:
        out: ``(B, C, H', W')``, any layout.
        input: ``(B, C, H, W)``.
        hidden: ``(B, C_hidden, H', W')``.
        weight: ``(G, K, K, C_hidden)``, contiguous.
        bias: ``(G·K·K,)``, contiguous, or None.
        window: stride, padding and dilation.
        last: scale and offset per channel and whether to cut at zero, in this order, float32 and float64 only.
    """
    scale, offset, relu = last
    problem = _fused_problem(input.dtype, input.shape, input.stride(), weight.shape, out.shape, out.stride(), window)
    layout = _hidden_layout(hidden.shape, hidden.stride())
    library = loader.library()
    status = library.span_and_contract(
        library.isa,
        problem,
        layout,
        input.data_ptr(),
        hidden.data_ptr(),
        weight.data_ptr(),
        _pointer(bias),
        _pointer(scale),
        _pointer(offset),
        relu,
        out.data_ptr(),
        threads(),
    )
    _check(status)
    return True


def span_gradients(
    grad_input: Tensor,
    grad_hidden: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_output: Tensor,
    input: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    window: Window,
) -> None:
    """See `Fusing.span_gradients`; neither the field nor its gradient is ever whole in memory.

    Args:
        grad_input: as ``input``, any layout.
        grad_hidden: as ``hidden``, any layout.
        grad_weight: as ``weight``.
        grad_bias: ``(G·K·K,)``, contiguous.
        grad_output: ``(B, C, H', W')``, any layout.
        input: ``(B, C, H, W)``.
        hidden: ``(B, C_hidden, H', W')``.
        weight: ``(G, K, K, C_hidden)``, contiguous.
        bias: ``(G·K·K,)``, contiguous, or None.
        window: stride, padding and dilation.
    """
    problem = _fused_problem(
        input.dtype, input.shape, input.stride(), weight.shape, grad_output.shape, grad_output.stride(), window
    )
    layouts = (
        _hidden_layout(hidden.shape, hidden.stride())
        + _strides(grad_hidden.ndim, grad_hidden.stride())
        + _strides(grad_input.ndim, grad_input.stride())
    )
    library = loader.library()
    status = library.span_gradients(
        library.isa,
        problem,
        layouts,
        input.data_ptr(),
        grad_output.data_ptr(),
        hidden.data_ptr(),
        weight.data_ptr(),
        _pointer(bias),
        grad_input.data_ptr(),
        grad_hidden.data_ptr(),
        grad_weight.data_ptr(),
        grad_bias.data_ptr(),
        threads(),
    )
    _check(status)


def pointwise(
    out: Tensor, input: Tensor, weight: Tensor, stride: tuple[int, ...], last: Affine, residual: Tensor | None
) -> None:
    """Write the 1×1 convolution of ``input``, its scale and offset, ``residual`` added, cut at zero.

    Args:
        out: ``(B, C', H', W')``, any layout, float32 or float64.
        input: ``(B, C, H, W)``.
        weight: ``(C', C)`` or with sizes of one behind, contiguous.
        stride: pixels between two pixels that are read.
        last: scale and offset per channel and whether to cut at zero.
        residual: as ``out``, or None.
    """
    scale, offset, relu = last
    beside = None if residual is None else (residual.shape, residual.stride())
    problem = _pointwise_problem(
        out.dtype, input.shape, input.stride(), weight.shape, out.shape, out.stride(), beside, stride, relu
    )
    library = loader.library()
    status = library.pointwise(
        library.isa,
        problem,
        input.data_ptr(),
        weight.data_ptr(),
        _pointer(scale),
        _pointer(offset),
        _pointer(residual),
        out.data_ptr(),
        threads(),
    )
    _check(status)


def affine_of_norm(
    mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None, epsilon: float
) -> tuple[Tensor, Tensor]:
    """Return scale and offset per channel of a batch norm in evaluation; float32 or float64, contiguous."""
    scale, offset = torch.empty_like(mean), torch.empty_like(mean)
    loader.library().affine_of_norm(
        DTYPES[mean.dtype],
        mean.shape[0],
        mean.data_ptr(),
        variance.data_ptr(),
        _pointer(weight),
        _pointer(bias),
        epsilon,
        scale.data_ptr(),
        offset.data_ptr(),
    )
    return scale, offset


def norm_forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    running: tuple[Tensor | None, Tensor | None],
    momentum: float,
    epsilon: float,
    relu: bool,
) -> tuple[Tensor, Tensor]:
    """Return ``relu(norm(x) + residual)`` of a batch norm with batch statistics, and update the running ones.

    Args:
        x: ``(B, C, ...)``, dense channels_last, float32 or float64.
        weight: ``(C,)``, contiguous.
        bias: likewise.
        residual: as ``x``, or None.
        running: mean and variance, ``(C,)``, or None.
        momentum: share of the batch in the running statistics.
        epsilon: added to the variance.
        relu: whether negative values become zero.

    Returns:
        The result, and for `norm_backward` the rows mean, 1 / standard deviation, scale and offset ``(4, C)``.
    """
    y, statistics = torch.empty_like(x), x.new_empty(4, x.shape[1])
    tensors = _pointers(x, residual, weight, bias, *running, y, *statistics)
    library = loader.library()
    norm = _norm(x, relu, epsilon, momentum)
    _check(library.norm_forward(library.isa, norm, tensors, threads()))
    return y, statistics


def norm_backward(
    grad_output: Tensor, x: Tensor, y: Tensor | None, statistics: Tensor, residual: bool, relu: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return the gradients of `norm_forward` for ``x``, weight, bias and, if there was one, the residual.

    Args:
        grad_output: as ``x``, any layout.
        x: what the forward pass was given.
        y: what it returned, where there were a residual and ReLU; None otherwise.
        statistics: what it returned beside it.
        residual: whether there was one.
        relu: as there.
    """
    dx = torch.empty_like(x)
    dy = grad_output if grad_output.stride() == x.stride() else torch.empty_like(x).copy_(grad_output)
    dresidual = torch.empty_like(x) if residual else None
    dweight, dbias = torch.empty_like(statistics[0]), torch.empty_like(statistics[0])
    tensors = _pointers(dy, x, y, *statistics, dx, dresidual, dweight, dbias)
    library = loader.library()
    _check(library.norm_backward(library.isa, _norm(x, relu, 0.0, 0.0), tensors, threads()))
    return dx, dweight, dbias, dresidual


def _norm(x: Tensor, relu: bool, epsilon: float, momentum: float) -> bytes:
    channels = x.shape[1]
    return Struct("=4q2d").pack(DTYPES[x.dtype], x.numel() // channels, channels, relu, epsilon, momentum)


def _pointers(*tensors: Tensor | None) -> bytes:
    return Struct(f"={len(tensors)}Q").pack(*(0 if t is None else t.data_ptr() for t in tensors))


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


@lru_cache(maxsize=4096)
def _pointwise_problem(
    dtype: torch.dtype, x: Any, x_stride: Any, weight: Any, y: Any, y_stride: Any, beside: Any, stride: Any, relu: bool
) -> bytes:
    """Return the call as csrc/problem.h lays it out.

    Raises:
        ValueError: the sizes are not those of a 1×1 convolution.
    """
    fits = weight[1:] == (x[1], *weight[2:]) and all(n == 1 for n in weight[2:]) and len(stride) == len(x) - 2
    fits = fits and min(stride) > 0 and len(x) <= 5
    size = (x[0], weight[0], *((n - 1) // s + 1 for n, s in zip(x[2:], stride, strict=True))) if fits else None
    if size != y or (beside is not None and beside[0] != y):
        raise ValueError(
            f"a map {tuple(x)} and a weight {tuple(weight)} with stride {stride} do not give a map {tuple(y)} by a 1×1 "
            f"convolution{'' if beside is None else f', or a residual {tuple(beside[0])} cannot be added to it'}"
        )
    residual_stride = None if beside is None else beside[1]
    missing = 5 - len(x)

    def steps(strides: Any) -> tuple[int, ...]:
        return (*strides[:2], *(0,) * missing, *strides[2:])

    return Struct("=26q").pack(
        DTYPES[dtype],
        x[0],
        x[1],
        y[1],
        *(1,) * missing,
        *y[2:],
        *(1,) * missing,
        *stride,
        *steps(x_stride),
        *steps(y_stride),
        *((0,) * 5 if residual_stride is None else steps(residual_stride)),
        relu,
    )


@lru_cache(maxsize=4096)
def _fused_problem(
    dtype: torch.dtype, x: Any, x_stride: Any, weight: Any, y: Any, y_stride: Any, window: Window
) -> bytes:
    field = (x[0], *weight[:-1], *y[2:])
    return _problem(dtype, x, x_stride, field, (0,) * len(field), y, y_stride, window)


@lru_cache(maxsize=4096)
def _hidden_layout(hidden: Any, stride: Any) -> bytes:
    return Struct("=q").pack(hidden[1]) + _strides(len(hidden), stride)


@lru_cache(maxsize=4096)
def _strides(dims: int, stride: Any) -> bytes:
    return Struct("=5q").pack(*stride[:2], *(0,) * (5 - dims), *stride[2:])


def threads() -> int:
    """Return how many threads the kernels may use: torch's number, one in a forked child."""
    return 1 if _forked else torch.get_num_threads()


def _run(operator: int, x: Tensor, field: Tensor, y: Tensor, window: Window) -> None:
    problem = _problem(x.dtype, x.shape, x.stride(), field.shape, field.stride(), y.shape, y.stride(), window)
    library = loader.library()
    status = library.contract(library.isa, operator, problem, x.data_ptr(), field.data_ptr(), y.data_ptr(), threads())
    _check(status)


def _check(status: int) -> None:
    if status:
        raise MemoryError("the native backend could not allocate its scratch memory of a few hundred KiB per thread")


_PROBLEM = Struct("=40q")


@lru_cache(maxsize=4096)
def _problem(
    dtype: torch.dtype, x: Any, x_stride: Any, field: Any, field_stride: Any, y: Any, y_stride: Any, window: Window
) -> bytes:
    """Return the call as csrc/problem.h lays it out: maps of fewer dimensions get leading sizes of one."""
    dims = len(x) - 2
    groups = field[1]

    def padded(values: Any, fill: int) -> tuple[int, ...]:
        return (fill,) * (3 - dims) + tuple(values)

    return _PROBLEM.pack(
        DTYPES[dtype],
        x[0],
        groups,
        x[1] // groups,
        *padded(x[2:], 1),
        *padded(y[2:], 1),
        *padded(field[2 : 2 + dims], 1),
        *padded(window.stride, 1),
        *padded(window.padding, 0),
        *padded(window.dilation, 1),
        *x_stride[:2],
        *padded(x_stride[2:], 0),
        *field_stride[:2],
        *padded(field_stride[2 : 2 + dims], 0),
        *padded(field_stride[2 + dims :], 0),
        *y_stride[:2],
        *padded(y_stride[2:], 0),
    )
