"""A kernel field whose last step, one matrix, is still to be done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor
from torch.nn import functional as F

__all__ = ["Span", "as_field"]


class Span(NamedTuple):
    """A kernel field whose last step, one matrix, is still to be done: ``H = weight · hidden + bias``.

    Every involution takes it in the place of the field, and then never holds the field as a whole: neither in the
    forward pass where the backend can make it tile by tile, nor for the backward pass. φ of the layers returns it.

    Attributes:
        hidden: ``(B, C_hidden, H', W')``.
        weight: ``(G·K·K, C_hidden, 1, 1)``, as of a 1×1 convolution.
        bias: ``(G·K·K,)`` or None.
        groups: G.
        kernel_size: K, taps per dimension.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    groups: int
    kernel_size: tuple[int, ...]

    @classmethod
    def of(cls, kernel: tuple[Any, ...]) -> Span:
        """Return the span that a φ returned; backward hooks hand it on as a plain tuple.

        Raises:
            TypeError: the tuple is no span.
        """
        if len(kernel) != len(cls._fields) or not isinstance(kernel[-1], Sequence):
            found = ", ".join(type(part).__name__ for part in kernel)
            raise TypeError(
                "kernel must be a tensor or a Span of hidden, weight, bias, groups and kernel_size, the last a tuple "
                f"with one number per dimension, got a tuple of ({found})"
            )
        return cls(*kernel)

    def field(self) -> Tensor:
        """Return the kernel field ``(B, G, K, K, H', W')``."""
        convolution = (F.conv1d, F.conv2d, F.conv3d)[len(self.kernel_size) - 1]
        field: Tensor = convolution(self.hidden, self.weight, self.bias).unflatten(1, (self.groups, *self.kernel_size))
        return field


def as_field(kernel: Tensor | Span) -> Tensor:
    """Return the kernel field ``(B, G, K, K, H', W')`` of what a φ returned: the field, or a `Span`."""
    return Span.of(kernel).field() if isinstance(kernel, tuple) else kernel
