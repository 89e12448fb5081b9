"""The CPU backend: vectorised C++ kernels for every floating dtype, layout and geometry, on torch's own threads.

channels_last maps and fields (a pixel's G·K·K weights together) of float32 and float64 are read and written in place,
and maps of half precision where the operator makes its own field; other layouts, and fields of half precision, pass
through scratch memory of at most a few hundred KiB per thread. The kernels are
compiled for several instruction sets and the best one the machine has is used; the environment variable
``INVOLUTION_NATIVE_ISA`` names another one.

They are registered with PyTorch from C++ (csrc/operators.cpp) and serve ``torch.ops.involution`` on the CPU directly,
without coming through here. The functions below are for calls in which Python chose among several backends.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ...geometry import Window
from ..request import Epilogue, Fault, Request
from . import loader

__all__ = [
    "forward",
    "input_gradient",
    "instruction_set",
    "instruction_sets",
    "kernel_gradient",
    "library",
    "name",
    "span_and_contract",
    "span_gradients",
    "unsupported",
]

name = "native"

instruction_set = loader.instruction_set
instruction_sets = loader.instruction_sets


def library() -> Path | None:
    """Return the file of the compiled kernels, for programs without Python; None where they were not built."""
    return loader.file()


def serve_auto(serve: bool) -> None:
    """Say whether the backend ``"auto"`` means these kernels on the CPU; if not, Python chooses at every call.

    The first call loads the kernels and registers them.
    """
    kernels = loader.registered()
    if not isinstance(kernels, str):
        kernels.handle.involution_serve_auto(int(serve))


def unsupported(request: Request) -> str | None:
    """Return why this backend cannot serve ``request``."""
    if request.device.type != "cpu":
        return f"it serves CPU tensors, got a tensor on {request.device}"
    missing = loader.missing()
    return None if missing is None else Fault(missing)


def forward(out: Tensor, input: Tensor, kernel: Tensor, window: Window) -> None:
    """See `Backend.forward`."""
    out.copy_(torch.ops.involution.forward.default(input, kernel, *window[1:], name))


def input_gradient(out: Tensor, grad_output: Tensor, kernel: Tensor, window: Window) -> None:
    """See `Backend.input_gradient`."""
    size = out.shape[2:]
    out.copy_(torch.ops.involution.input_gradient.default(grad_output, kernel, size, *window[1:], name))


def kernel_gradient(out: Tensor, grad_output: Tensor, input: Tensor, window: Window) -> None:
    """See `Backend.kernel_gradient`."""
    out.copy_(torch.ops.involution.kernel_gradient.default(grad_output, input, out.shape[1], *window, name))


def span_and_contract(
    out: Tensor,
    input: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    window: Window,
    epilogue: Epilogue,
) -> bool:
    """See `SpanBackend.span_and_contract`: the field exists only in scratch memory."""
    out.copy_(
        torch.ops.involution.forward_of_span.default(
            input, hidden, _convolution(weight, window), bias, weight.shape[0], *window, name, *epilogue
        )
    )
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
    """See `SpanBackend.span_gradients`; neither the field nor its gradient is ever whole in memory."""
    found = torch.ops.involution.gradients_of_span.default(
        grad_output, input, hidden, _convolution(weight, window), bias, weight.shape[0], *window, name
    )
    for target, gradient in zip((grad_input, grad_hidden, grad_weight, grad_bias), found, strict=True):
        target.copy_(gradient.view(target.shape))


def _convolution(weight: Tensor, window: Window) -> Tensor:
    """Return the matrix of a span, ``(G, K, K, C_hidden)``, in the shape that a 1×1 convolution has."""
    return weight.reshape(-1, weight.shape[-1], *[1] * len(window.kernel_size))
