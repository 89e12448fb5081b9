"""Local self-attention as φ: queries against the keys of the neighbourhood, scaled, with an embedding per head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..geometry import IntOrTuple, Padding, to_window
from .query_key import QueryKeyKernelGenerator, resolve_head_channels
from .windows import correlate, softmax_inside

__all__ = ["LocalAttentionKernelGenerator"]


class LocalAttentionKernelGenerator(QueryKeyKernelGenerator):
    r"""Local self-attention as kernel generation: queries against the keys of the K×K neighbourhood.

    .. math::
        H_{g,u,v,i,j} = \mathrm{softmax}_{u,v} \; \tfrac{1}{\sqrt d} \, q_{g,ij}^\top (k_{g,\,si+du-p,\,sj+dv-p} + e_{g,uv})

    As the paper observes, self-attention is involution with Ψ a patch and φ(X_Ψ) = (X W_Q)(X W_K)ᵀ; heads are
    groups, W_V and the output projection are the 1×1 convolutions around the involution.

    Args:
        in_channels: C, channels of the map it looks at.
        kernel_size: K, taps per dimension.
        groups: G, number of heads.
        head_channels: d, channels of a query; ``max(1, C // G)`` by default.
        softmax: normalise over the neighbours inside the map; without it the products are the kernel.
        relative_position: add a learned embedding e of the offset to the keys (Ramachandran et al. 2019).
        stride: as in the involution that uses the field; queries come from the pooled map.
        padding: likewise.
        dilation: likewise.
        dims: spatial dimensions, 1 to 3.

    Raises:
        ValueError: a size is below 1, or the kernel is even with ``padding="same"``.
    """

    def __init__(
        self,
        in_channels: int,
        kernel_size: IntOrTuple,
        groups: int,
        *,
        head_channels: int | None = None,
        softmax: bool = True,
        relative_position: bool = True,
        stride: IntOrTuple = 1,
        padding: Padding = "same",
        dilation: IntOrTuple = 1,
        dims: int = 2,
    ) -> None:
        head_channels = resolve_head_channels(in_channels, groups, head_channels)
        window = to_window(kernel_size, stride, padding, dilation, dims)
        super().__init__(in_channels, groups, groups * head_channels, window)
        self.head_channels, self.softmax = head_channels, softmax
        self.relative_position = (
            nn.Parameter(torch.empty(groups, head_channels, *self.window.kernel_size)) if relative_position else None
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise both projections to keep the variance of queries and keys, embeddings to a small normal."""
        super().reset_parameters()
        if self.relative_position is not None:
            nn.init.normal_(self.relative_position, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Return the field ``(B, G, K, K, H', W')`` of the whole map ``x`` ``(B, C, H, W)``."""
        query = self.queries(x) * self.head_channels**-0.5
        field = correlate(query, self.key(x), self.window, self.groups)
        if self.relative_position is not None:
            q = query.unflatten(1, (self.groups, self.head_channels)).flatten(3)
            e = self.relative_position.flatten(2)
            field = field + torch.einsum("bgdn,gdk->bgkn", q, e).reshape(field.shape).to(field.dtype)
        if self.softmax:
            field = softmax_inside(field, x, self.window)
        return field
