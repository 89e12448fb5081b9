"""The operator and its contract: equation, shapes, checks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from . import backends
from .geometry import IntOrTuple, Padding, describe, output_size, resolve_padding, to_tuple
from .operators import contraction as library

__all__ = [
    "correlation1d",
    "correlation2d",
    "correlation3d",
    "involution1d",
    "involution2d",
    "involution3d",
]


def involution2d(
    input: Tensor,
    kernel: Tensor,
    *,
    stride: IntOrTuple = 1,
    padding: Padding = "same",
    dilation: IntOrTuple = 1,
    backend: str = "auto",
) -> Tensor:
    r"""Multiply-add every pixel's neighbourhood with that pixel's own kernel.

    .. math::
        Y_{b,c,i,j} = \sum_{u,v} H_{b,\lfloor cG/C \rfloor,u,v,i,j} \, X_{b,c,\,si+du-p,\,sj+dv-p}

    The operator of Li et al., "Involution: Inverting the Inherence of Convolution for Visual Recognition" (CVPR 2021),
    with stride, zero padding and dilation. Half-precision inputs are accumulated in float32. Under autocast both
    tensors are cast to its dtype. Derivatives of every order exist.

    Args:
        input: feature map ``(B, C, H, W)``, floating point, any layout; a channels_last map gives a channels_last
            output and is the fast path.
        kernel: one kernel per output pixel and group, ``(B, G, K_h, K_w, H', W')``; the C / G channels of a group, a
            contiguous block, share it. Same dtype and device as ``input``.
        stride: pixels between two windows.
        padding: zeros around the map, ``"same"`` for ``d·(K − 1)/2`` (odd K; ``H' = ⌈H / s⌉``) or ``"valid"`` for none.
        dilation: pixels between two taps.
        backend: ``"auto"``, or the name of one of `involution.backends.available`.

    Returns:
        ``(B, C, H', W')`` with ``H' = ⌊(H + 2p − d·(K_h − 1) − 1) / s⌋ + 1``, dtype and device of ``input``.

    Raises:
        TypeError: ``input`` or ``kernel`` is not a floating-point tensor, or their dtypes differ.
        ValueError: a rank, a size, the group count, the output grid, the device or a parameter does not fit.
        RuntimeError: the named backend cannot serve this call.

    Example:
        >>> import torch
        >>> from involution import involution2d
        >>> input, kernel = torch.randn(2, 32, 14, 14), torch.randn(2, 2, 7, 7, 14, 14)
        >>> involution2d(input, kernel).shape
        torch.Size([2, 32, 14, 14])
    """
    if has_torch_function((input, kernel)):
        return handle_torch_function(involution2d, (input, kernel), input, kernel, stride=stride, padding=padding, dilation=dilation, backend=backend)
    return _involution(2, input, kernel, stride, padding, dilation, backend)


def involution1d(
    input: Tensor,
    kernel: Tensor,
    *,
    stride: IntOrTuple = 1,
    padding: Padding = "same",
    dilation: IntOrTuple = 1,
    backend: str = "auto",
) -> Tensor:
    """Involution of sequences: ``input`` ``(B, C, L)``, ``kernel`` ``(B, G, K, L')``, returns ``(B, C, L')``.

    Everything else as in `involution2d`.
    """
    if has_torch_function((input, kernel)):
        return handle_torch_function(involution1d, (input, kernel), input, kernel, stride=stride, padding=padding, dilation=dilation, backend=backend)
    return _involution(1, input, kernel, stride, padding, dilation, backend)


def involution3d(
    input: Tensor,
    kernel: Tensor,
    *,
    stride: IntOrTuple = 1,
    padding: Padding = "same",
    dilation: IntOrTuple = 1,
    backend: str = "auto",
) -> Tensor:
    """Involution of volumes: ``input`` ``(B, C, D, H, W)``, ``kernel`` ``(B, G, K_d, K_h, K_w, D', H', W')``.

    Returns ``(B, C, D', H', W')``; everything else as in `involution2d`.
    """
    if has_torch_function((input, kernel)):
        return handle_torch_function(involution3d, (input, kernel), input, kernel, stride=stride, padding=padding, dilation=dilation, backend=backend)
    return _involution(3, input, kernel, stride, padding, dilation, backend)


def correlation2d(
    query: Tensor,
    key: Tensor,
    kernel_size: IntOrTuple,
    *,
    groups: int = 1,
    stride: IntOrTuple = 1,
    padding: Padding = "same",
    dilation: IntOrTuple = 1,
    backend: str = "auto",
) -> Tensor:
    r"""Correlate every pixel of ``query`` with the neighbourhood of the same pixel in ``key``, group by group.

    .. math::
        H_{b,g,u,v,i,j} = \sum_{c \in g} Q_{b,c,i,j} \, K_{b,c,\,si+du-p,\,sj+dv-p}

    It is the adjoint of `involution2d` with respect to its kernel (involution's kernel gradient, and involution is
    its gradient), and the logits of local self-attention: groups are heads, the result is a kernel field.
    Neighbours outside the map give zero.

    Args:
        query: ``(B, C, H', W')``, on the output grid.
        key: ``(B, C, H, W)``, same dtype and device.
        kernel_size: taps of the neighbourhood.
        groups: number of groups G, a divisor of C.
        stride: as in `involution2d`.
        padding: as in `involution2d`.
        dilation: as in `involution2d`.
        backend: as in `involution2d`.

    Returns:
        The kernel field ``(B, G, K_h, K_w, H', W')``, dtype and device of ``key``.

    Raises:
        TypeError: as in `involution2d`.
        ValueError: as in `involution2d`.
        RuntimeError: as in `involution2d`.

    Example:
        >>> import torch
        >>> from involution import correlation2d
        >>> correlation2d(torch.randn(2, 32, 14, 14), torch.randn(2, 32, 14, 14), 7, groups=2).shape
        torch.Size([2, 2, 7, 7, 14, 14])
    """
    if has_torch_function((query, key)):
        return handle_torch_function(correlation2d, (query, key), query, key, kernel_size, groups=groups, stride=stride, padding=padding, dilation=dilation, backend=backend)
    return _correlation(2, query, key, kernel_size, groups, stride, padding, dilation, backend)


def correlation1d(
    query: Tensor,
    key: Tensor,
    kernel_size: IntOrTuple,
    *,
    groups: int = 1,
    stride: IntOrTuple = 1,
    padding: Padding = "same",
    dilation: IntOrTuple = 1,
    backend: str = "auto",
) -> Tensor:
    """Correlate sequences: ``query`` ``(B, C, L')``, ``key`` ``(B, C, L)``, returns ``(B, G, K, L')``.

    Everything else as in `correlation2d`.
    """
    if has_torch_function((query, key)):
        return handle_torch_function(correlation1d, (query, key), query, key, kernel_size, groups=groups, stride=stride, padding=padding, dilation=dilation, backend=backend)
    return _correlation(1, query, key, kernel_size, groups, stride, padding, dilation, backend)


def correlation3d(
    query: Tensor,
    key: Tensor,
    kernel_size: IntOrTuple,
    *,
    groups: int = 1,
    stride: IntOrTuple = 1,
    padding: Padding = "same",
    dilation: IntOrTuple = 1,
    backend: str = "auto",
) -> Tensor:
    """Correlate volumes: ``query`` ``(B, C, D', H', W')``, ``key`` ``(B, C, D, H, W)``.

    Returns ``(B, G, K_d, K_h, K_w, D', H', W')``; everything else as in `correlation2d`.
    """
    if has_torch_function((query, key)):
        return handle_torch_function(correlation3d, (query, key), query, key, kernel_size, groups=groups, stride=stride, padding=padding, dilation=dilation, backend=backend)
    return _correlation(3, query, key, kernel_size, groups, stride, padding, dilation, backend)


def _involution(
    dims: int,
    input: Tensor,
    kernel: Tensor,
    stride: IntOrTuple,
    padding: Padding,
    dilation: IntOrTuple,
    backend: str,
) -> Tensor:
    # The meta device knows no autocast.
    if type(input) is not Tensor or type(kernel) is not Tensor or input.is_meta or torch.compiler.is_compiling():
        input, kernel, window = _check_involution(dims, input, kernel, stride, padding, dilation, backend)
        return library.forward(input, kernel, *window, backend)
    # What was checked once need not be checked again: the checks take longer than a small involution.
    key = (
        *(dims, input.shape, kernel.shape, input.dtype, kernel.dtype, input.device, kernel.device, backend),
        *(_exactly(stride), _exactly(padding), _exactly(dilation), _is_autocast(input.device.type)),
    )
    known = _CHECKED.get(key)
    if known is None:
        input, kernel, known = _check_involution(dims, input, kernel, stride, padding, dilation, backend)
        if len(_CHECKED) >= _MOST_CHECKED:
            _CHECKED.clear()
        _CHECKED[key] = known
    else:
        input, kernel = autocast(input, kernel)
    return library.forward(input, kernel, *known, backend)


_CHECKED: dict[tuple[Any, ...], tuple[tuple[int, ...], ...]] = {}
_MOST_CHECKED = 4096


def _exactly(value: Any) -> Any:
    """Return ``value`` as part of a key that tells 1 from True and 1.0."""
    if type(value) in (int, str):
        return value
    if type(value) is tuple:
        return value, tuple(map(type, value))
    return type(value), repr(value)


def _check_involution(
    dims: int,
    input: Tensor,
    kernel: Tensor,
    stride: IntOrTuple,
    padding: Padding,
    dilation: IntOrTuple,
    backend: str,
) -> tuple[Tensor, Tensor, tuple[tuple[int, ...], ...]]:
    """Return both tensors as autocast wants them, and stride, padding and dilation in numbers."""
    _check_tensor("input", input, dims + 2, _MAP[dims])
    _check_tensor("kernel", kernel, 2 * dims + 2, _FIELD[dims])
    input, kernel = autocast(input, kernel)
    _check_pair("input", input, "kernel", kernel)
    groups, kernel_size = kernel.shape[1], kernel.shape[2 : 2 + dims]
    _check_groups(input.shape[1], groups)
    if any(k < 1 for k in kernel_size):
        raise ValueError(f"kernel must have at least one tap per dimension, got {describe(kernel)}")
    stride, dilation = to_tuple(stride, dims, "stride"), to_tuple(dilation, dims, "dilation")
    padding = resolve_padding(padding, kernel_size, dilation)
    expected = output_size(input.shape[2:], kernel_size, stride, padding, dilation)
    if any(n != m for n, m in zip(kernel.shape[2 + dims :], expected, strict=True)):
        raise ValueError(
            f"kernel must hold one kernel per output pixel, {_FIELD[dims]} with an output grid of {tuple(expected)} for "
            f"an input of {tuple(input.shape[2:])}, stride {stride}, padding {padding}, dilation {dilation}; "
            f"got {describe(kernel)}"
        )
    _check_backend(backend, input, groups, kernel_size, stride, dilation)
    return input, kernel, (stride, padding, dilation)


def _correlation(
    dims: int,
    query: Tensor,
    key: Tensor,
    kernel_size: IntOrTuple,
    groups: int,
    stride: IntOrTuple,
    padding: Padding,
    dilation: IntOrTuple,
    backend: str,
) -> Tensor:
    _check_tensor("query", query, dims + 2, _MAP[dims])
    _check_tensor("key", key, dims + 2, _MAP[dims])
    query, key = autocast(query, key)
    _check_pair("query", query, "key", key)
    if query.shape[1] != key.shape[1]:
        raise ValueError(f"query and key need the same number of channels, got {describe(query)} and {describe(key)}")
    (groups,) = to_tuple(groups, 1, "groups")
    _check_groups(key.shape[1], groups)
    kernel_size = to_tuple(kernel_size, dims, "kernel_size")
    stride, dilation = to_tuple(stride, dims, "stride"), to_tuple(dilation, dims, "dilation")
    padding = resolve_padding(padding, kernel_size, dilation)
    expected = output_size(key.shape[2:], kernel_size, stride, padding, dilation)
    if any(n != m for n, m in zip(query.shape[2:], expected, strict=True)):
        raise ValueError(
            f"query must lie on the output grid {tuple(expected)} of a key of {tuple(key.shape[2:])} with stride {stride}, "
            f"padding {padding}, dilation {dilation}; got {describe(query)}"
        )
    _check_backend(backend, key, groups, kernel_size, stride, dilation)
    return library.kernel_gradient(query, key, groups, kernel_size, stride, padding, dilation, backend)


_MAP = {1: "(B, C, L)", 2: "(B, C, H, W)", 3: "(B, C, D, H, W)"}
_FIELD = {1: "(B, G, K, L')", 2: "(B, G, K_h, K_w, H', W')", 3: "(B, G, K_d, K_h, K_w, D', H', W')"}


def _check_tensor(name: str, tensor: Any, rank: int, shape: str) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor of shape {shape}, got {type(tensor).__name__}")
    if tensor.ndim != rank:
        raise ValueError(f"{name} must have shape {shape}, got {describe(tensor)}")
    if tensor.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        raise TypeError(
            f"{name} must be float16, bfloat16, float32 or float64, got {describe(tensor)}; convert it, e.g. with .float()"
        )


def _check_pair(name_a: str, a: Tensor, name_b: str, b: Tensor) -> None:
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


def _check_groups(channels: int, groups: int) -> None:
    if groups < 1 or channels < 1 or channels % groups:
        raise ValueError(
            f"the channels must be divisible by the groups, got {channels} channels and {groups} groups; "
            "choose a number of groups that divides the channels"
        )


def _check_backend(
    backend: str, input: Tensor, groups: int, kernel_size: Any, stride: tuple[int, ...], dilation: tuple[int, ...]
) -> None:
    """Refuse an unknown backend, or one that cannot serve this call, before the operator is traced or run."""
    if backend == "auto":
        return
    backends.check_name(backend)
    if not torch.compiler.is_compiling():
        library.backend_for(backend, input, groups, kernel_size, stride, dilation)


def _is_autocast(device: str) -> bool:
    """Whether autocast is active for a kind of device; PyTorch refuses to say so of the meta device."""
    return device != "meta" and torch.is_autocast_enabled(device)


def autocast(*tensors: Tensor) -> list[Tensor]:
    """Cast to the dtype of an active autocast, as PyTorch's own operators do (float64 stays as it is)."""
    device = tensors[0].device.type
    if not _is_autocast(device):
        return list(tensors)
    dtype = torch.get_autocast_dtype(device)
    return [tensor if tensor.dtype == torch.float64 else tensor.to(dtype) for tensor in tensors]
