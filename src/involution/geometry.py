"""The sliding-window arithmetic every part of the library shares, and the sentences it refuses with."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any, NamedTuple

import torch

IntOrTuple = int | Sequence[int]
Padding = int | Sequence[int] | str


def describe(tensor: torch.Tensor) -> str:
    """Return shape, dtype and device of ``tensor`` as error messages print them."""
    return f"shape {tuple(tensor.shape)}, {str(tensor.dtype).removeprefix('torch.')}, {tensor.device}"


def _is_int(value: object) -> bool:
    # NumPy's whole numbers are Integral, its booleans and tensors are not.
    return isinstance(value, (int, Integral, torch.SymInt)) and not isinstance(value, bool)


def _plain(value: Any) -> Any:
    return value if isinstance(value, (int, torch.SymInt)) else int(value)


def to_tuple(value: IntOrTuple, dims: int, name: str, minimum: int = 1) -> tuple[int, ...]:
    """Spread an int, or check a sequence of ``dims`` ints, each at least ``minimum``.

    Raises:
        TypeError: ``value`` is neither an int nor a sequence of ints.
        ValueError: it has another length than ``dims`` or an element below ``minimum``.
    """
    if type(value) is tuple and len(value) == dims and all(type(v) is int and v >= minimum for v in value):
        return value
    values: Any = (value,) * dims if _is_int(value) else value
    expected = "an int" if dims == 1 else f"an int or a tuple of {dims} ints"
    if not isinstance(values, Sequence) or isinstance(values, str) or not all(map(_is_int, values)):
        raise TypeError(f"{name} must be {expected}, got {value!r}")
    if len(values) != dims:
        raise ValueError(f"{name} must be {expected}, got {value!r} of length {len(values)}")
    if any(v < minimum for v in values):
        raise ValueError(f"{name} must be at least {minimum}, got {value!r}")
    return tuple(map(_plain, values))


class Window(NamedTuple):
    """How the windows of an input map lie under the pixels of the output; it travels as one thing.

    Attributes:
        kernel_size: taps per dimension.
        stride: pixels between two windows, per dimension.
        padding: zeros around the map, per dimension.
        dilation: pixels between two taps, per dimension.
    """

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    @classmethod
    def of(cls, *numbers: Sequence[int]) -> Window:
        """Return the window of four lists of numbers, as operators are handed them."""
        return cls(*map(tuple, numbers))

    def output_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """Return the output grid over a map of ``size``: ``⌊(H + 2p − d·(K − 1) − 1) / s⌋ + 1`` per dimension.

        Raises:
            ValueError: a dimension of ``size`` is zero, or the window does not fit into the padded map.
        """
        return output_size(size, *self)


def to_window(kernel_size: IntOrTuple, stride: IntOrTuple, padding: Padding, dilation: IntOrTuple, dims: int) -> Window:
    """Return the window of the arguments of a layer or an operator in ``dims`` dimensions.

    Raises:
        TypeError: one of them is neither an int nor a sequence of ints (nor, for ``padding``, a known word).
        ValueError: one is out of range or has another length than ``dims``.
    """
    kernel_size = to_tuple(kernel_size, dims, "kernel_size")
    stride, dilation = to_tuple(stride, dims, "stride"), to_tuple(dilation, dims, "dilation")
    return Window(kernel_size, stride, resolve_padding(padding, kernel_size, dilation), dilation)


def resolve_padding(padding: Padding, kernel_size: Sequence[int], dilation: Sequence[int]) -> tuple[int, ...]:
    """Turn ``"same"``, ``"valid"``, an int or a tuple into zero padding per dimension.

    ``"same"`` is ``d·(K − 1) / 2`` on either side, for which the output has ``⌈H / s⌉`` pixels.

    Raises:
        TypeError: ``padding`` is neither a known word, an int nor a sequence of ints.
        ValueError: an unknown word, an even kernel with ``"same"``, a wrong length or a negative number.
    """
    if not isinstance(padding, str):
        return to_tuple(padding, len(kernel_size), "padding", minimum=0)
    if padding == "valid":
        return (0,) * len(kernel_size)
    if padding != "same":
        raise ValueError(f"padding must be an int, a tuple, 'same' or 'valid', got {padding!r}")
    if any(k % 2 == 0 for k in kernel_size):
        raise ValueError(
            f"padding='same' needs an odd kernel size, got {tuple(kernel_size)}; "
            "use an odd kernel size or give the padding as a number"
        )
    return tuple(d * (k - 1) // 2 for k, d in zip(kernel_size, dilation, strict=True))


def output_size(
    size: Sequence[int],
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[int, ...]:
    """Return ``⌊(H + 2p − d·(K − 1) − 1) / s⌋ + 1`` per dimension.

    Raises:
        ValueError: a dimension of ``size`` is zero, or the window does not fit into the padded map.
    """
    if any(n < 1 for n in size):
        raise ValueError(f"every spatial size must be at least 1, got {tuple(size)}")
    spans = [d * (k - 1) + 1 for k, d in zip(kernel_size, dilation, strict=True)]
    if any(n + 2 * p < span for n, p, span in zip(size, padding, spans, strict=True)):
        raise ValueError(
            f"a window of {tuple(spans)} pixels (kernel {tuple(kernel_size)}, dilation {tuple(dilation)}) does not fit "
            f"into a map of {tuple(size)} with padding {tuple(padding)}; use a larger map, more padding or a smaller kernel"
        )
    return tuple((n + 2 * p - span) // s + 1 for n, p, s, span in zip(size, padding, stride, spans, strict=True))
