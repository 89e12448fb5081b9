"""What every φ that compares pixels has: a query of each output pixel, a key of each input pixel, and the window between."""

from __future__ import annotations

from torch import Tensor, nn

from ..geometry import Window, to_tuple
from .base import CONVOLUTIONS, KernelGenerator
from .windows import to_output_grid

__all__ = ["QueryKeyKernelGenerator"]


class QueryKeyKernelGenerator(KernelGenerator):
    """Base of the generators that look at neighbourhoods: two 1×1 convolutions and a window.

    Args:
        in_channels: C, channels of the map it looks at.
        groups: G, number of kernels per pixel.
        width: channels of query and key, of all groups together.
        window: where the neighbours lie, as in the involution that uses the field.
        bias: of both convolutions.

    Raises:
        ValueError: ``groups`` is below 1.
    """

    pooled = False
    padding_mode = "zeros"

    def __init__(self, in_channels: int, groups: int, width: int, window: Window, *, bias: bool = False) -> None:
        super().__init__()
        convolution = CONVOLUTIONS[len(window.kernel_size)]
        (self.groups,) = to_tuple(groups, 1, "groups")
        self.window = window
        self.query = convolution(in_channels, width, 1, bias=bias)
        self.key = convolution(in_channels, width, 1, bias=bias)

    def reset_parameters(self) -> None:
        """Initialise both convolutions to keep the variance of queries and keys."""
        for projection in (self.query, self.key):
            nn.init.xavier_normal_(projection.weight)

    def queries(self, x: Tensor) -> Tensor:
        """Return the query of every output pixel, ``(B, width, H', W')``, of the whole map ``x`` ``(B, C, H, W)``."""
        queries: Tensor = self.query(to_output_grid(x, self.window, self.padding_mode))
        return queries


def resolve_head_channels(in_channels: int, groups: int, head_channels: int | None) -> int:
    """Return the channels of one head: those that were asked for, or its share of the map's.

    Raises:
        ValueError: ``groups`` or ``head_channels`` is below 1.
    """
    (groups,) = to_tuple(groups, 1, "groups")
    share = max(1, in_channels // groups) if head_channels is None else head_channels
    (head_channels,) = to_tuple(share, 1, "head_channels")
    return head_channels
