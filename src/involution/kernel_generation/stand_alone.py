"""Stand-alone self-attention as φ: the query against the key and against the row and column of the offset."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..geometry import IntOrTuple, Padding, to_window
from .query_key import QueryKeyKernelGenerator, resolve_head_channels
from .windows import correlate, softmax_inside

__all__ = ["StandAloneKernelGenerator"]


class _Embeddings(nn.ParameterList):
    """Embeddings of offsets, one table ``(d / dims, K)`` per axis."""

    def reset_parameters(self) -> None:
        for table in self:
            nn.init.normal_(table, std=0.02)


class StandAloneKernelGenerator(QueryKeyKernelGenerator):
    r"""The kernel of stand-alone self-attention.

    .. math::
        H_{g,u,v,i,j} = \mathrm{softmax}_{u,v} \left( q_{g,ij}^\top k_{g,\,i+u,\,j+v}
        + q_{g,ij}^\top \begin{bmatrix} r_u \\ r'_v \end{bmatrix} \right)

    Equation 3 of Ramachandran et al., "Stand-Alone Self-Attention in Vision Models" (NeurIPS 2019): one half of a
    query's channels meets the embedding of the row offset, the other that of the column; all heads share them, and
    the products are not scaled. Neighbours outside the map take no part.

    ``2·C·G·d + K·d`` weights. The field, ``K²·G`` values per pixel, is kept for the backward pass, as are as many
    logits; the products with the embeddings are kept along one axis only, ``2·K·G`` values.

    Args:
        in_channels: C, channels of the map it looks at.
        kernel_size: K, taps per dimension.
        groups: G, number of heads.
        head_channels: d, channels of a query, a multiple of ``dims``; ``max(1, C // G)`` by default.
        stride: as in the involution that uses the field; queries come from the pooled map. (The paper's net strides by
            an average pooling after the layer.)
        padding: likewise.
        dilation: likewise.
        dims: spatial dimensions, 1 to 3.

    Raises:
        ValueError: a size is below 1, the channels of a head cannot be shared among the axes, or the kernel is even
            with ``padding="same"``.
    """

    def __init__(
        self,
        in_channels: int,
        kernel_size: IntOrTuple,
        groups: int,
        *,
        head_channels: int | None = None,
        stride: IntOrTuple = 1,
        padding: Padding = "same",
        dilation: IntOrTuple = 1,
        dims: int = 2,
    ) -> None:
        head_channels = resolve_head_channels(in_channels, groups, head_channels)
        if head_channels % dims:
            raise ValueError(
                f"head_channels must be divisible by {dims}, one part per axis, got {head_channels}; "
                "choose another head_channels or number of groups"
            )
        window = to_window(kernel_size, stride, padding, dilation, dims)
        super().__init__(in_channels, groups, groups * head_channels, window)
        self.head_channels = head_channels
        # One table per axis: rows, then columns.
        self.offsets = _Embeddings(
            nn.Parameter(torch.empty(head_channels // dims, taps)) for taps in self.window.kernel_size
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise both projections to keep the variance of queries and keys, embeddings to a small normal."""
        super().reset_parameters()
        self.offsets.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Return the field ``(B, G, K, K, H', W')`` of the whole map ``x`` ``(B, C, H, W)``."""
        query = self.queries(x)
        field = correlate(query, self.key(x), self.window, self.groups)
        dims = len(self.window.kernel_size)
        heads, width = query.unflatten(1, (self.groups, self.head_channels)), self.head_channels // dims
        for axis, table in enumerate(self.offsets):
            part = heads.narrow(2, axis * width, width)
            products = torch.einsum("bgd...,dk->bgk...", part, table)
            # The taps of one axis, the same for all taps of the others.
            for other in range(dims):
                if other != axis:
                    products = products.unsqueeze(2 + other)
            field = field + products.to(field.dtype)
        return softmax_inside(field, x, self.window)
