"""The GPU backend: Triton kernels for half and single precision, every layout and geometry, NVIDIA and AMD.

Products are summed in float32, by one program per result in a fixed order: the same call gives the same bits. Tensors
are used where they lie, through their strides; only a map that every tap reads again is first copied to channels_last
order if it has another, so that a load takes 16 bytes. Triton is imported when the first GPU tensor comes. With
``TRITON_INTERPRET=1`` in the environment the kernels run in Triton's interpreter, on CPU tensors: slow, for tests.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from ...geometry import Window
from ...memory_layout import empty_map
from ..request import Epilogue, Request
from . import probe

__all__ = ["forward", "input_gradient", "kernel_gradient", "name", "on_device", "span_and_contract", "unsupported"]

name = "triton"

_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
# The taps of a row are unrolled: beyond this the code only grows.
_LONGEST_ROW = 32


def unsupported(request: Request) -> str | None:
    """Return why this backend cannot serve ``request``."""
    device = request.device
    if device.type != ("cpu" if probe.interpreting() else "cuda"):
        return f"it serves GPU tensors (NVIDIA CUDA or AMD ROCm), got a tensor on {device}"
    if request.dtype not in _DTYPES:
        return f"it computes in float16, bfloat16 and float32, got {str(request.dtype).removeprefix('torch.')}"
    if request.window.kernel_size[-1] > _LONGEST_ROW:
        return f"it serves kernels of at most {_LONGEST_ROW} columns, got a kernel of {request.window.kernel_size}"
    return probe.fault(device)


def forward(out: Tensor, input: Tensor, kernel: Tensor, window: Window) -> None:
    """See `Backend.forward`."""
    _run("forward", _channels_last(input, kernel.shape[1]), kernel, out, window)


def input_gradient(out: Tensor, grad_output: Tensor, kernel: Tensor, window: Window) -> None:
    """See `Backend.input_gradient`."""
    _run("input_gradient", out, kernel, _channels_last(grad_output, kernel.shape[1]), window)


def kernel_gradient(out: Tensor, grad_output: Tensor, input: Tensor, window: Window) -> None:
    """See `Backend.kernel_gradient`."""
    _run("kernel_gradient", _channels_last(input, out.shape[1]), out, grad_output, window)


def span_and_contract(
    out: Tensor,
    input: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    window: Window,
    epilogue: Epilogue,
) -> bool:
    """See `SpanBackend.span_and_contract`; it is done where ``INVOLUTION_TRITON_FUSED=1`` asks for it and banded_launch.py allows.

    It is not the default: its kernel spreads NaN to the other pixels of a block of 16 (see banded.py), and where it
    wins has not been measured yet.
    """
    if os.environ.get("INVOLUTION_TRITON_FUSED") != "1":
        return False
    from . import banded_launch

    request = Request(input.device, input.dtype, input.shape[1] // weight.shape[0], window)
    if banded_launch.unsupported(request, weight.shape[-1]) is not None:
        return False
    with on_device(input):
        banded_launch.span_and_contract(out, input, hidden, weight, bias)
    epilogue.apply_(out)
    return True


def _run(kernel: str, x: Tensor, field: Tensor, y: Tensor, window: Window) -> None:
    from .launch import plan

    launch = plan(kernel, x, field, y, window)
    with on_device(x):
        launch.run(x, field, y)


def _channels_last(x: Tensor, groups: int) -> Tensor:
    """Return ``x``, or a copy of it whose channels lie together; single channels never lie together."""
    if x.stride(1) == 1 or x.shape[1] == groups:
        return x
    return empty_map(x, x.shape, True).copy_(x)


def on_device(tensor: Tensor) -> AbstractContextManager[object]:
    """Return a context in which Triton launches on the device of ``tensor``, on its current stream."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()
