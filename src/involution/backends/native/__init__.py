"""The CPU backend: vectorised C++ kernels for every floating dtype, layout and geometry, on torch's own threads.

channels_last maps and fields (a pixel's G·K·K weights together) of float32 and float64 are read and written in place;
other layouts and half precision pass through scratch memory of at most a few hundred KiB per thread. The kernels are
compiled for several instruction sets and the best one the machine has is used; the environment variable
``INVOLUTION_NATIVE_ISA`` names another one.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor

from ...geometry import Window
from ..request import Epilogue, Fault, Request
from . import layouts, loader

__all__ = [
    "forward",
    "input_gradient",
    "instruction_set",
    "instruction_sets",
    "kernel_gradient",
    "name",
    "span_and_contract",
    "span_gradients",
    "unsupported",
]

name = "native"

instruction_set = loader.instruction_set
instruction_sets = loader.instruction_sets

DTYPES = layouts.DTYPES
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
    epilogue: Epilogue,
) -> bool:
    """See `SpanBackend.span_and_contract`: the field exists only in scratch memory.

    Args:
        out: ``(B, C, H', W')``, any layout.
        input: ``(B, C, H, W)``.
        hidden: ``(B, C_hidden, H', W')``.
        weight: ``(G, K, K, C_hidden)``, contiguous.
        bias: ``(G·K·K,)``, contiguous, or None.
        window: kernel size, stride, padding and dilation.
        epilogue: what happens to the output.
    """
    # The kernels apply it in the dtype of their sums.
    inside = epilogue if out.dtype in (torch.float32, torch.float64) else Epilogue()
    problem = layouts.contraction_of_span(
        input.dtype, input.shape, input.stride(), weight.shape, out.shape, out.stride(), window
    )
    layout = layouts.hidden(hidden.shape, hidden.stride())
    kernels = loader.kernels()
    status = kernels.span_and_contract(
        kernels.isa,
        problem,
        layout,
        input.data_ptr(),
        hidden.data_ptr(),
        weight.data_ptr(),
        layouts.pointer(bias),
        layouts.epilogue(inside),
        out.data_ptr(),
        threads(),
    )
    _check(status)
    if inside is not epilogue:
        epilogue.apply_(out)
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
    """See `SpanBackend.span_gradients`; neither the field nor its gradient is ever whole in memory.

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
        window: kernel size, stride, padding and dilation.
    """
    problem = layouts.contraction_of_span(
        input.dtype, input.shape, input.stride(), weight.shape, grad_output.shape, grad_output.stride(), window
    )
    steps = (
        layouts.hidden(hidden.shape, hidden.stride())
        + layouts.strides(grad_hidden.ndim, grad_hidden.stride())
        + layouts.strides(grad_input.ndim, grad_input.stride())
    )
    kernels = loader.kernels()
    status = kernels.span_gradients(
        kernels.isa,
        problem,
        steps,
        input.data_ptr(),
        grad_output.data_ptr(),
        hidden.data_ptr(),
        weight.data_ptr(),
        layouts.pointer(bias),
        grad_input.data_ptr(),
        grad_hidden.data_ptr(),
        grad_weight.data_ptr(),
        grad_bias.data_ptr(),
        threads(),
    )
    _check(status)


def threads() -> int:
    """Return how many threads the kernels may use: torch's number, one in a forked child."""
    return 1 if _forked else torch.get_num_threads()


def _run(contraction: int, x: Tensor, field: Tensor, y: Tensor, window: Window) -> None:
    problem = layouts.contraction(
        x.dtype, x.shape, x.stride(), field.shape, field.stride(), y.shape, y.stride(), window
    )
    kernels = loader.kernels()
    status = kernels.contract(
        kernels.isa, contraction, problem, x.data_ptr(), field.data_ptr(), y.data_ptr(), threads()
    )
    _check(status)


def _check(status: int) -> None:
    if status:
        raise MemoryError("the native backend could not allocate its scratch memory of a few hundred KiB per thread")
