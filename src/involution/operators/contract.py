"""The one check of what an involution is given: dtypes, devices, layouts and sizes, for real and fake tensors alike."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from ..geometry import Window, describe

MAP = {1: "(B, C, L)", 2: "(B, C, H, W)", 3: "(B, C, D, H, W)"}
FIELD = {1: "(B, G, K, L')", 2: "(B, G, K_h, K_w, H', W')", 3: "(B, G, K_d, K_h, K_w, D', H', W')"}

# The largest stride, padding or dilation, and the largest number of taps: kernels compute with products of two of them in
# 64 bits (csrc/description.h).
_LARGEST = 2**31 - 1

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_tensor(name: str, tensor: object, rank: int, shape: str) -> None:
    """Refuse what is no tensor of this rank.

    Raises:
        TypeError: it is no tensor.
        ValueError: it has another rank.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor of shape {shape}, got {type(tensor).__name__}")
    if tensor.ndim != rank:
        raise ValueError(f"{name} must have shape {shape}, got {describe(tensor)}")


def check_involution(input: Tensor, kernel: Tensor, window: Window) -> None:
    """Refuse an input ``(B, C, H, W)`` and a kernel field ``(B, G, K_h, K_w, H', W')`` that do not fit one another."""
    dims = check_window(window)
    check_tensor("input", input, dims + 2, MAP[dims])
    check_tensor("kernel", kernel, 2 * dims + 2, FIELD[dims])
    check_together(input=input, kernel=kernel)
    check_groups(input.shape[1], kernel.shape[1])
    expected = window.output_size(input.shape[2:])
    if _differ(kernel.shape[2 + dims :], expected) or _differ(kernel.shape[2 : 2 + dims], window.kernel_size):
        raise ValueError(
            f"kernel must hold one kernel per output pixel, {FIELD[dims]} with an output grid of {tuple(expected)} for "
            f"an input of {tuple(input.shape[2:])}, stride {window.stride}, padding {window.padding}, dilation "
            f"{window.dilation}; got {describe(kernel)}"
        )


def check_input_gradient(grad_output: Tensor, kernel: Tensor, input_size: Sequence[int], window: Window) -> None:
    """Refuse an output gradient ``(B, C, H', W')``, a field and the size of an input that do not fit one another."""
    dims = check_window(window)
    check_tensor("grad_output", grad_output, dims + 2, MAP[dims])
    check_tensor("kernel", kernel, 2 * dims + 2, FIELD[dims])
    check_together(grad_output=grad_output, kernel=kernel)
    check_groups(grad_output.shape[1], kernel.shape[1])
    if len(input_size) != dims:
        raise ValueError(f"input_size must have {dims} numbers, got {tuple(input_size)}")
    _check_grid("grad_output", grad_output, input_size, window)
    if _differ(kernel.shape[2:], (*window.kernel_size, *grad_output.shape[2:])):
        raise ValueError(
            f"kernel must hold {window.kernel_size} taps per pixel of grad_output, got {describe(kernel)} and "
            f"{describe(grad_output)}"
        )


def check_correlation(query: Tensor, key: Tensor, groups: int, window: Window) -> None:
    """Refuse a query ``(B, C, H', W')`` and a key ``(B, C, H, W)`` that do not fit one another."""
    dims = check_window(window)
    check_tensor("query", query, dims + 2, MAP[dims])
    check_tensor("key", key, dims + 2, MAP[dims])
    check_together(query=query, key=key)
    if query.shape[1] != key.shape[1]:
        raise ValueError(f"query and key need the same number of channels, got {describe(query)} and {describe(key)}")
    check_groups(key.shape[1], groups)
    _check_grid("query", query, key.shape[2:], window)


def check_span(
    value: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    groups: int,
    window: Window,
    scale: Tensor | None = None,
    offset: Tensor | None = None,
) -> None:
    """Refuse a value, and a hidden map ``(B, C_hidden, H', W')`` with the matrix that makes the field of it."""
    dims = check_window(window)
    check_tensor("value", value, dims + 2, MAP[dims])
    check_tensor("hidden", hidden, dims + 2, "(B, C_hidden, ...)")
    check_together(value=value, hidden=hidden)
    check_groups(value.shape[1], groups)
    rows = groups
    for taps in window.kernel_size:
        rows = rows * taps
    ones = (1,) * dims
    check_tensor("weight", weight, dims + 2, f"{(rows, hidden.shape[1], *ones)}")
    if _differ(weight.shape, (rows, hidden.shape[1], *ones)):
        raise ValueError(
            f"weight must be that of a 1×1 convolution from {hidden.shape[1]} channels to {groups} groups of "
            f"{window.kernel_size} taps, {(rows, hidden.shape[1], *ones)}, got {describe(weight)}"
        )
    _check_beside("weight", weight, value)
    check_parameter("bias", bias, value, rows)
    check_parameter("scale", scale, value, value.shape[1])
    check_parameter("offset", offset, value, value.shape[1])
    _check_grid("hidden", hidden, value.shape[2:], window)


def check_parameter(name: str, parameter: Tensor | None, value: Tensor, length: int) -> None:
    """Refuse a vector of parameters for a value that has not ``length`` numbers of the value's dtype and device.

    Raises:
        TypeError: it is no tensor, or of another dtype or device.
        ValueError: it has another shape.
    """
    if parameter is None:
        return
    check_tensor(name, parameter, 1, f"({length},)")
    _check_beside(name, parameter, value)
    if parameter.shape[0] != length:
        raise ValueError(f"{name} must have shape ({length},), got {describe(parameter)}")


def _check_beside(name: str, parameter: Tensor, value: Tensor) -> None:
    if parameter.dtype != value.dtype or parameter.device != value.device or parameter.layout != torch.strided:
        raise TypeError(
            f"{name} and value must have the same dtype and device, got {describe(parameter)} and {describe(value)}"
        )


def check_window(window: Window) -> int:
    """Refuse numbers that are no window; return how many dimensions it has."""
    dims = len(window.kernel_size)
    if dims not in MAP or any(len(numbers) != dims for numbers in window):
        raise ValueError(
            f"kernel size, stride, padding and dilation must have one number for each of 1 to 3 dimensions, got {window}"
        )
    if any(k < 1 for k in window.kernel_size):
        raise ValueError(f"kernel must have at least one tap per dimension, got {window.kernel_size}")
    if prod(window.kernel_size) > _LARGEST:
        raise ValueError(f"kernel must have at most {_LARGEST} taps, got {window.kernel_size}")
    for name, minimum in (("stride", 1), ("padding", 0), ("dilation", 1)):
        if any(n < minimum or n > _LARGEST for n in getattr(window, name)):
            raise ValueError(f"{name} must be from {minimum} to {_LARGEST}, got {getattr(window, name)}")
    return dims


def check_groups(channels: int, groups: int) -> None:
    """Refuse channels that cannot be split into the groups."""
    if groups < 1 or channels < 1 or channels % groups:
        raise ValueError(
            f"the channels must be divisible by the groups, got {channels} channels and {groups} groups; "
            "choose a number of groups that divides the channels"
        )


def check_together(**tensors: Tensor) -> None:
    """Refuse two maps or fields of different dtype, device or batch, and those that are no plain arrays of numbers.

    Raises:
        TypeError: a dtype or a memory layout is not served, or the dtypes differ.
        ValueError: the devices or batch sizes differ.
    """
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPES:
            raise TypeError(
                f"{name} must be float16, bfloat16, float32 or float64, got {describe(tensor)}; convert it, e.g. with "
                ".float()"
            )
        if tensor.layout != torch.strided:
            raise TypeError(
                f"{name} must be a dense tensor, got {describe(tensor)} in the layout "
                f"{str(tensor.layout).removeprefix('torch.')}; convert it with .to_dense()"
            )
    (name_a, a), (name_b, b) = tensors.items()
    if a.dtype != b.dtype:
        raise TypeError(
            f"{name_a} and {name_b} must have the same dtype, got {describe(a)} and {describe(b)}; convert one with .to()"
        )
    if a.device != b.device:
        raise ValueError(
            f"{name_a} and {name_b} must be on the same device, got {describe(a)} and {describe(b)}; move one with .to()"
        )
    if a.shape[0] != b.shape[0]:
        raise ValueError(f"{name_a} and {name_b} must have the same batch size, got {describe(a)} and {describe(b)}")


def _check_grid(name: str, tensor: Tensor, size: Sequence[int], window: Window) -> None:
    expected = window.output_size(size)
    if _differ(tensor.shape[2:], expected):
        raise ValueError(
            f"{name} must lie on the output grid {tuple(expected)} of a map of {tuple(size)} with stride "
            f"{window.stride}, padding {window.padding}, dilation {window.dilation}; got {describe(tensor)}"
        )


def _differ(sizes: Sequence[int], expected: Sequence[int]) -> bool:
    return any(n != m for n, m in zip(sizes, expected, strict=True))
