"""The operator and its contract: equation, shapes, checks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from . import backends
from .backends import Epilogue
from .geometry import IntOrTuple, Padding, describe, to_tuple, to_window
from .operators import contraction, generation
from .operators.contract import FIELD, MAP, check_parameter, check_tensor
from .span import Span

__all__ = [
    "Span",
    "correlation1d",
    "correlation2d",
    "correlation3d",
    "involution1d",
    "involution2d",
    "involution3d",
    "involution_of_span",
]


def involution2d(
    input: Tensor,
    kernel: Tensor | Span,
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
    return _involution(involution2d, 2, input, kernel, stride, padding, dilation, backend)


def involution1d(
    input: Tensor,
    kernel: Tensor | Span,
    *,
    stride: IntOrTuple = 1,
    padding: Padding = "same",
    dilation: IntOrTuple = 1,
    backend: str = "auto",
) -> Tensor:
    """Involution of sequences: ``input`` ``(B, C, L)``, ``kernel`` ``(B, G, K, L')``, returns ``(B, C, L')``.

    Everything else as in `involution2d`.
    """
    return _involution(involution1d, 1, input, kernel, stride, padding, dilation, backend)


def involution3d(
    input: Tensor,
    kernel: Tensor | Span,
    *,
    stride: IntOrTuple = 1,
    padding: Padding = "same",
    dilation: IntOrTuple = 1,
    backend: str = "auto",
) -> Tensor:
    """Involution of volumes: ``input`` ``(B, C, D, H, W)``, ``kernel`` ``(B, G, K_d, K_h, K_w, D', H', W')``.

    Returns ``(B, C, D', H', W')``; everything else as in `involution2d`.
    """
    return _involution(involution3d, 3, input, kernel, stride, padding, dilation, backend)


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
    return _correlation(correlation2d, 2, query, key, kernel_size, groups, stride, padding, dilation, backend)


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
    return _correlation(correlation1d, 1, query, key, kernel_size, groups, stride, padding, dilation, backend)


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
    return _correlation(correlation3d, 3, query, key, kernel_size, groups, stride, padding, dilation, backend)


def involution_of_span(
    input: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    groups: int,
    kernel_size: IntOrTuple,
    stride: IntOrTuple = 1,
    padding: Padding = "same",
    dilation: IntOrTuple = 1,
    scale: Tensor | None = None,
    offset: Tensor | None = None,
    relu: bool = False,
    backend: str = "auto",
) -> Tensor:
    r"""Involution with the kernel field of a φ whose last step is one matrix, in one operator.

    .. math::
        Y = \mathrm{involution}(X,\; W \cdot \mathrm{hidden} + b)

    The field, the largest tensor of an involution by far, is not kept for the backward pass, and where the backend
    can, never whole in memory. With ``scale``, ``offset`` and ``relu`` (a norm in evaluation and what follows it) the
    result is ``relu(scale · Y + offset)``, written at once where no gradient is wanted.

    Args:
        input: ``(B, C, H, W)``, or a map of one or three spatial dimensions.
        hidden: ``(B, C_hidden, H', W')`` on the output grid.
        weight: ``(G·K·K, C_hidden, 1, 1)``, as of a 1×1 convolution.
        bias: ``(G·K·K,)`` or None.
        groups: G, a divisor of C.
        kernel_size: K, taps per dimension.
        stride: as in `involution2d`.
        padding: as in `involution2d`.
        dilation: as in `involution2d`.
        scale: ``(C,)`` or None.
        offset: ``(C,)`` or None.
        relu: whether negative values become zero.
        backend: as in `involution2d`.

    Returns:
        ``(B, C, H', W')``, equal to `involution2d` of the field within rounding.

    Raises:
        TypeError: as in `involution2d`.
        ValueError: as in `involution2d`.
        RuntimeError: as in `involution2d`.

    Example:
        >>> import torch
        >>> from involution import involution_of_span
        >>> input, hidden, weight = torch.randn(2, 32, 14, 14), torch.randn(2, 8, 14, 14), torch.randn(98, 8, 1, 1)
        >>> involution_of_span(input, hidden, weight, groups=2, kernel_size=7).shape
        torch.Size([2, 32, 14, 14])
    """
    tensors = (input, hidden, weight, bias, scale, offset)
    if has_torch_function(tensors):
        return handle_torch_function(
            involution_of_span,
            tensors,
            input,
            hidden,
            weight,
            bias,
            groups=groups,
            kernel_size=kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            scale=scale,
            offset=offset,
            relu=relu,
            backend=backend,
        )
    dims = _dims_of("input", input)
    window = to_window(kernel_size, stride, padding, dilation, dims)
    (groups,) = to_tuple(groups, 1, "groups")
    _check_name(backend)
    input, hidden, weight, bias, scale, offset = _autocast(*tensors)
    # A trace serves with and without gradients, so it holds the steps that can be differentiated; its sizes are tensors.
    if not torch.jit.is_tracing():
        if not torch.is_grad_enabled():
            epilogue = Epilogue(scale, offset, relu)
            return generation.forward_of_span(input, hidden, weight, bias, groups, window, backend, epilogue)
        check_parameter("scale", scale, input, input.shape[1])
        check_parameter("offset", offset, input, input.shape[1])
    output = generation.forward_of_span(input, hidden, weight, bias, groups, window, backend)
    return finish(output, scale, offset, relu, dims)


def finish(output: Tensor, scale: Tensor | None, offset: Tensor | None, relu: bool, dims: int) -> Tensor:
    """Return ``relu(scale · output + offset)`` of a map of ``dims`` dimensions, each step where it is asked for."""
    ones = [1] * dims
    if scale is not None:
        output = output * scale.view(-1, *ones)
    if offset is not None:
        output = output + offset.view(-1, *ones)
    return output.relu() if relu else output


def _involution(
    function: Callable[..., Tensor],
    dims: int,
    input: Tensor,
    kernel: Tensor | Span,
    stride: IntOrTuple,
    padding: Padding,
    dilation: IntOrTuple,
    backend: str,
) -> Tensor:
    geometry: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation, "backend": backend}
    if isinstance(kernel, tuple):
        hidden, weight, bias, groups, kernel_size = Span.of(kernel)
        if len(kernel_size) != dims:
            raise ValueError(f"kernel must have {dims} dimensions, got a span with kernels of {kernel_size}")
        return involution_of_span(input, hidden, weight, bias, groups=groups, kernel_size=kernel_size, **geometry)
    if has_torch_function((input, kernel)):
        return handle_torch_function(function, (input, kernel), input, kernel, **geometry)
    check_tensor("input", input, dims + 2, MAP[dims])
    check_tensor("kernel", kernel, 2 * dims + 2, FIELD[dims])
    if any(k < 1 for k in kernel.shape[2 : 2 + dims]):
        raise ValueError(f"kernel must have at least one tap per dimension, got {describe(kernel)}")
    kernel_size = tuple(kernel.shape[2 : 2 + dims])
    if torch.jit.is_tracing():
        # There, sizes are tensors.
        kernel_size = tuple(int(k) for k in kernel_size)
    window = to_window(kernel_size, stride, padding, dilation, dims)
    _check_name(backend)
    input, field = _autocast(input, kernel)
    return contraction.forward(input, field, window, backend)


def _correlation(
    function: Callable[..., Tensor],
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
    if has_torch_function((query, key)):
        geometry: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation, "backend": backend}
        return handle_torch_function(function, (query, key), query, key, kernel_size, groups=groups, **geometry)
    check_tensor("query", query, dims + 2, MAP[dims])
    check_tensor("key", key, dims + 2, MAP[dims])
    # While a module is traced, sizes are tensors.
    (groups,) = to_tuple(int(groups) if torch.jit.is_tracing() else groups, 1, "groups")
    window = to_window(kernel_size, stride, padding, dilation, dims)
    _check_name(backend)
    query, key = _autocast(query, key)
    return contraction.kernel_gradient(query, key, groups, window, backend)


def _dims_of(name: str, tensor: object) -> int:
    """Return the spatial dimensions of a map."""
    if not isinstance(tensor, Tensor) or tensor.ndim - 2 not in MAP:
        raise ValueError(
            f"{name} must be a map of one to three spatial dimensions such as {MAP[2]}, got {tensor!r:.80}"
        )
    return tensor.ndim - 2


def _check_name(backend: str) -> None:
    if backend != "auto":
        backends.check_name(backend)


# What an autocast casts: float64 stays as it is, as in PyTorch's own operators; other numbers are for the operator to refuse.
_CAST = (torch.float16, torch.bfloat16, torch.float32)


def _autocast(*tensors: Any) -> list[Any]:
    """Cast to the dtype of an active autocast, as PyTorch's own operators do."""
    device = tensors[0].device.type
    # PyTorch refuses to say so of the meta device, which knows no autocast.
    if device == "meta" or not torch.is_autocast_enabled(device):
        return list(tensors)
    dtype = torch.get_autocast_dtype(device)
    return [t.to(dtype) if isinstance(t, Tensor) and t.dtype in _CAST else t for t in tensors]
