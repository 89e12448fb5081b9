"""What a backend does with a field that is ``weight · hidden + bias``: in its own way, or by making the field.

Without a way of its own, the forward pass makes the field whole, and the backward pass makes it again in pieces of
bounded size and hands them to the backend's three contractions.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import torch
from torch import Tensor

from ..geometry import Window
from ..memory_layout import empty_map, is_channels_last, taps_first
from .request import Backend, Epilogue

# The backward pass holds a piece of the field of about this size: what a cache holds, and what keeps a GPU busy.
PIECE_BYTES = 2 << 20
GPU_PIECE_BYTES = 128 << 20


def forward(
    backend: Backend,
    out: Tensor,
    value: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    window: Window,
    epilogue: Epilogue,
) -> None:
    """Write the involution of ``value`` with the field ``weight · hidden + bias``, then the epilogue.

    Args:
        backend: a `Backend`, perhaps a `SpanBackend`.
        out: ``(B, C, H', W')``.
        value: ``(B, C, H, W)``.
        hidden: ``(B, C_hidden, H', W')``.
        weight: ``(G, K, K, C_hidden)``, contiguous.
        bias: ``(G·K·K,)``, contiguous, or None.
        window: kernel size, stride, padding and dilation.
        epilogue: what happens to the result.
    """
    if hasattr(backend, "span_and_contract") and backend.span_and_contract(
        out, value, hidden, weight, bias, window, epilogue
    ):
        return
    backend.forward(out, value, _field(hidden, weight.flatten(0, -2), bias, weight.shape[0], window)[1], window)
    epilogue.apply_(out)


def backward(
    backend: Backend,
    gradients: tuple[Tensor, Tensor, Tensor, Tensor],
    grad_output: Tensor,
    value: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    window: Window,
) -> None:
    """Write the gradients of `forward` without an epilogue, for value, hidden, weight and bias.

    Args:
        backend: a `Backend`, perhaps a `SpanBackend`.
        gradients: where to write: as ``value``, as ``hidden``, as ``weight`` (in any shape of its numbers), as ``bias``.
        grad_output: ``(B, C, H', W')``.
        value: as in `forward`, and so are the others.
        hidden: likewise.
        weight: likewise.
        bias: likewise.
        window: likewise.
    """
    if hasattr(backend, "span_gradients"):
        backend.span_gradients(*gradients, grad_output, value, hidden, weight, bias, window)
    else:
        _backward_in_pieces(backend, gradients, grad_output, value, hidden, weight, bias, window)


def _field(hidden: Tensor, matrix: Tensor, bias: Tensor | None, groups: int, window: Window) -> tuple[Tensor, Tensor]:
    """Return the field as the product ``(pixels, G·K·K)`` and as a view of it ``(B, G, K, K, H', W')``."""
    pixels = hidden.movedim(1, -1).reshape(-1, hidden.shape[1])
    product = pixels @ matrix.t() if bias is None else torch.addmm(bias, pixels, matrix.t())
    view = product.view(hidden.shape[0], *hidden.shape[2:], groups, *window.kernel_size)
    return product, taps_first(view)


def _backward_in_pieces(
    backend: Backend,
    gradients: tuple[Tensor, Tensor, Tensor, Tensor],
    grad_output: Tensor,
    value: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    window: Window,
) -> None:
    dvalue, dhidden, dweight, dbias = gradients
    groups, hidden_channels = weight.shape[0], weight.shape[-1]
    matrix = weight.reshape(-1, hidden_channels)
    # Sums over pieces are kept in float32 at least.
    wide = torch.promote_types(weight.dtype, torch.float32)
    dmatrix, dvector = matrix.new_zeros(matrix.shape, dtype=wide), matrix.new_zeros((1, matrix.shape[0]), dtype=wide)
    piece_bytes = GPU_PIECE_BYTES if value.is_cuda else PIECE_BYTES
    row_bytes = prod(hidden.shape[3:]) * matrix.shape[0] * value.element_size()
    pieces = list(_pieces(hidden.shape[0], hidden.shape[2], row_bytes, piece_bytes))
    cut = any(rows != slice(0, hidden.shape[2]) for _, rows in pieces)
    if cut:
        dvalue.zero_()
    for images, rows in pieces:
        inputs, part = _inputs_of(rows, value.shape[2], window) if cut else (slice(None), window)
        if cut and inputs.start >= inputs.stop:
            # Windows that lie wholly outside the map give nothing, and no gradient to anything.
            dhidden[images, :, rows] = 0
            continue
        x, dy, z = value[images, :, inputs], grad_output[images, :, rows], hidden[images, :, rows]
        pixels = z.movedim(1, -1).reshape(-1, hidden_channels)
        field, kernel = _field(z, matrix, bias, groups, window)
        if cut:
            dx = empty_map(x, x.shape, is_channels_last(value))
            backend.input_gradient(dx, dy, kernel, part)
            dvalue[images, :, inputs] += dx
        else:
            backend.input_gradient(dvalue[images], dy, kernel, part)
        # The field has served; its gradient takes its place.
        backend.kernel_gradient(kernel, dy, x, part)
        dhidden[images, :, rows] = (field @ matrix).view(z.shape[0], *z.shape[2:], -1).movedim(-1, 1)
        dmatrix += field.t() @ pixels
        dvector += pixels.new_ones(1, pixels.shape[0]) @ field
    dweight.copy_(dmatrix.view(dweight.shape))
    dbias.copy_(dvector[0])


def _inputs_of(rows: slice, size: int, window: Window) -> tuple[slice, Window]:
    """Return the rows of the input that some rows of the output read, and their window."""
    first = rows.start * window.stride[0] - window.padding[0]
    last = (rows.stop - 1) * window.stride[0] - window.padding[0] + (window.kernel_size[0] - 1) * window.dilation[0]
    inputs = slice(max(0, first), max(0, min(size, last + 1)))
    return inputs, window._replace(padding=(inputs.start - first, *window.padding[1:]))


def _pieces(batch: int, rows: int, row_bytes: int, piece_bytes: int) -> Iterator[tuple[slice, slice]]:
    """Cut a batch of output grids into pieces: several images, or rows of one."""
    images = max(1, piece_bytes // (rows * row_bytes))
    band = rows if images > 1 or rows * row_bytes <= 2 * piece_bytes else max(1, piece_bytes // row_bytes)
    for image in range(0, batch, images):
        for row in range(0, rows, band):
            yield slice(image, min(batch, image + images)), slice(row, min(rows, row + band))
