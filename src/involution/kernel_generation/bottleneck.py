"""The paper's φ, two matrices with a norm and an activation between them; and its ablation, one matrix."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from ..geometry import IntOrTuple, to_tuple
from ..span import Span
from .base import CONVOLUTIONS, NORMS, KernelGenerator, SpanMatrix, made_by, normalise

__all__ = ["BottleneckKernelGenerator", "LinearKernelGenerator"]


class BottleneckKernelGenerator(KernelGenerator):
    r"""The paper's kernel generation, :math:`H_{ij} = W_1 \, \mathrm{ReLU}(\mathrm{BN}(W_0 x_{ij}))`.

    ``(C² + K²GC) / r`` weights, K²G biases and the parameters of the norm.

    Args:
        in_channels: C, channels of the map it looks at.
        kernel_size: K, taps per dimension.
        groups: G, number of kernels per pixel.
        reduction: r, the hidden width is ``max(1, C // r)``.
        hidden_channels: the hidden width itself, where it is no such part of C.
        reduce_bias: whether W0 has a bias (the paper's has none, the norm follows it).
        norm_layer: from a number of channels to a module; batch norm of the right rank by default.
        act_layer: the activation's class.
        dims: spatial dimensions, 1 to 3.

    Raises:
        ValueError: ``groups``, ``reduction``, ``hidden_channels`` or ``kernel_size`` is below 1.

    Example:
        >>> import torch
        >>> from involution.kernel_generation import BottleneckKernelGenerator
        >>> BottleneckKernelGenerator(64, kernel_size=7, groups=4)(torch.randn(2, 64, 14, 14)).field().shape
        torch.Size([2, 4, 7, 7, 14, 14])
    """

    def __init__(
        self,
        in_channels: int,
        kernel_size: IntOrTuple,
        groups: int,
        *,
        reduction: int = 4,
        hidden_channels: int | None = None,
        reduce_bias: bool = False,
        norm_layer: Callable[[int], nn.Module] | None = None,
        act_layer: Callable[[], nn.Module] = nn.ReLU,
        dims: int = 2,
    ) -> None:
        (reduction,) = to_tuple(reduction, 1, "reduction")
        hidden = max(1, in_channels // reduction) if hidden_channels is None else hidden_channels
        (hidden_channels,) = to_tuple(hidden, 1, "hidden_channels")
        super().__init__()
        # The matrix comes first: optimisers in checkpoints know parameters by their order.
        self.span = SpanMatrix(hidden_channels, kernel_size, groups, bias=True, dims=dims)
        self.reduce = CONVOLUTIONS[dims](in_channels, hidden_channels, 1, bias=reduce_bias)
        self.norm = made_by(norm_layer or NORMS[dims], "norm_layer", hidden_channels)
        self.act = made_by(act_layer, "act_layer")
        self.reset_parameters()

    def forward(self, x: Tensor) -> Span:
        """Return the field ``(B, G, K, K, H', W')`` of ``x`` ``(B, C, H', W')``, as a `Span`."""
        span: Span = self.span(self.act(normalise(self.norm, self.reduce(x))))
        return span


class LinearKernelGenerator(KernelGenerator):
    r"""One matrix, :math:`H_{ij} = W x_{ij}`: the "W" row of the paper's ablation of φ, ``K²GC`` weights.

    Args:
        in_channels: C, channels of the map it looks at.
        kernel_size: K, taps per dimension.
        groups: G, number of kernels per pixel.
        bias: whether a bias per tap and group is added.
        dims: spatial dimensions, 1 to 3.

    Raises:
        ValueError: ``groups`` or ``kernel_size`` is below 1.
    """

    def __init__(
        self, in_channels: int, kernel_size: IntOrTuple, groups: int, *, bias: bool = True, dims: int = 2
    ) -> None:
        super().__init__()
        self.span = SpanMatrix(in_channels, kernel_size, groups, bias=bias, dims=dims)
        self.reset_parameters()

    def forward(self, x: Tensor) -> Span:
        """Return the field ``(B, G, K, K, H', W')`` of ``x`` ``(B, C, H', W')``, as a `Span`."""
        span: Span = self.span(x)
        return span
