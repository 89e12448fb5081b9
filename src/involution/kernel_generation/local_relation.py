"""The local relation layer as φ: how alike two pixels look, and a prior of where they lie to one another."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from ..geometry import IntOrTuple, Padding, to_tuple, to_window
from .query_key import QueryKeyKernelGenerator
from .windows import correlate, differences, fill_outside, offsets, softmax_over_taps

__all__ = ["LocalRelationKernelGenerator"]

Appearance = Literal["squared_difference", "absolute_difference", "product"]
_APPEARANCES = ("squared_difference", "absolute_difference", "product")


class LocalRelationKernelGenerator(QueryKeyKernelGenerator):
    r"""The kernel of the local relation layer.

    .. math::
        H_{g,u,v,i,j} = \mathrm{softmax}_{u,v} \left( \Phi(q_{g,ij},\, k_{g,\,i+u,\,j+v}) + f_g(u, v) \right)

    Hu et al., "Local Relation Networks for Image Recognition" (ICCV 2019). Query and key are one scalar per group; Φ,
    the appearance, is :math:`-(q - k)^2`, :math:`-|q - k|` or :math:`q k`; f, the geometry prior, is a small network of
    the offset. Outside the map the sum of both is a constant.

    ``2·C·G`` weights and those of the prior, whose hidden width the paper does not give. The field, ``K²·G`` values
    per pixel, is kept for the backward pass, as are as many differences.

    Args:
        in_channels: C, channels of the map it looks at.
        kernel_size: K, taps per dimension.
        groups: G, number of kernels per pixel; the paper's is C / 8.
        appearance: Φ: ``"squared_difference"``, ``"absolute_difference"`` or ``"product"``.
        geometry_channels: hidden width of the geometry prior; G by default.
        border: what stands before the softmax for a neighbour outside the map.
        stride: as in the involution that uses the field; queries come from the pooled map.
        padding: likewise.
        dilation: likewise.
        dims: spatial dimensions, 1 to 3.

    Raises:
        ValueError: a size is below 1, the appearance is unknown, or the kernel is even with ``padding="same"``.
    """

    def __init__(
        self,
        in_channels: int,
        kernel_size: IntOrTuple,
        groups: int,
        *,
        appearance: Appearance = "squared_difference",
        geometry_channels: int | None = None,
        border: float = 0.0,
        stride: IntOrTuple = 1,
        padding: Padding = "same",
        dilation: IntOrTuple = 1,
        dims: int = 2,
    ) -> None:
        if appearance not in _APPEARANCES:
            raise ValueError(f"unknown appearance {appearance!r}; expected one of {', '.join(map(repr, _APPEARANCES))}")
        super().__init__(in_channels, groups, groups, to_window(kernel_size, stride, padding, dilation, dims))
        (hidden,) = to_tuple(groups if geometry_channels is None else geometry_channels, 1, "geometry_channels")
        self.appearance, self.border = appearance, border
        self.geometry = nn.Sequential(nn.Linear(dims, hidden), nn.ReLU(), nn.Linear(hidden, groups))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise both projections to keep the variance of queries and keys, the prior as PyTorch does."""
        super().reset_parameters()
        for layer in self.geometry:
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Return the field ``(B, G, K, K, H', W')`` of the whole map ``x`` ``(B, C, H, W)``."""
        query, key = self.queries(x), self.key(x)
        if self.appearance == "product":
            field = correlate(query, key, self.window, self.groups)
        else:
            difference = differences(query, key, self.window)
            field = -difference.square() if self.appearance == "squared_difference" else -difference.abs()
        prior = self.geometry(offsets(self.query.weight, self.window)).movedim(-1, 0)
        field = field + prior[(..., *[None] * len(self.window.kernel_size))].to(field.dtype)
        return softmax_over_taps(fill_outside(field, x, self.window, self.border), self.window)
