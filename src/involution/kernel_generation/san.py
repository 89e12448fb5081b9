"""The two forms of the self-attention network's layer as φ: a network of differences, and a network of the patch."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Literal

import torch
from torch import Tensor, nn

from ..geometry import IntOrTuple, Padding, Window, to_tuple, to_window
from ..span import Span
from .base import CONVOLUTIONS, NORMS, SpanMatrix, made_by, normalise
from .query_key import QueryKeyKernelGenerator
from .windows import (
    continued,
    coordinates,
    differences,
    neighbourhoods,
    softmax_inside,
    softmax_over_taps,
    to_output_grid,
)

__all__ = ["SANPairwiseKernelGenerator", "SANPatchwiseKernelGenerator"]

PaddingMode = Literal["zeros", "reflect"]


class _SANKernelGenerator(QueryKeyKernelGenerator):
    """What both forms have: their arguments, a query and a key with bias, and how a map goes on beyond its border."""

    def __init__(
        self,
        in_channels: int,
        kernel_size: IntOrTuple,
        groups: int,
        *,
        relation_channels: int | None = None,
        norm_layer: Callable[[int], nn.Module] | None = None,
        padding_mode: PaddingMode = "zeros",
        stride: IntOrTuple = 1,
        padding: Padding = "same",
        dilation: IntOrTuple = 1,
        dims: int = 2,
    ) -> None:
        if padding_mode not in ("zeros", "reflect"):
            raise ValueError(f"padding_mode must be 'zeros' or 'reflect', got {padding_mode!r}")
        relation_channels = max(1, in_channels // 16) if relation_channels is None else relation_channels
        (relation_channels,) = to_tuple(relation_channels, 1, "relation_channels")
        window = to_window(kernel_size, stride, padding, dilation, dims)
        super().__init__(in_channels, groups, relation_channels, window, bias=True)
        self.padding_mode = padding_mode
        self._add_network(relation_channels, norm_layer)
        self.reset_parameters()

    def _add_network(self, width: int, norm_layer: Callable[[int], nn.Module] | None) -> None:
        """Add the modules of γ, for queries and keys of ``width`` channels."""
        raise NotImplementedError

    def reset_parameters(self) -> None:
        """Initialise all convolutions as PyTorch does (the authors' code): without a softmax, larger kernels run away."""
        for module in self.modules():
            if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d, SpanMatrix)):
                module.reset_parameters()

    def continued(self, x: Tensor) -> tuple[Tensor, Window]:
        """Return a map continued beyond its border, and the window over it."""
        return continued(x, self.window, self.padding_mode)


class _PairMatrix(nn.Conv2d):
    """A 1×1 convolution, computed as a matrix product of every image.

    As fast as oneDNN's convolution or faster, and where maps have as few channels as the pairs of a narrow net up to a
    hundred times.
    """

    def forward(self, input: Tensor) -> Tensor:
        matrix, pairs = self.weight.flatten(1).expand(input.shape[0], -1, -1), input.flatten(2)
        product = torch.bmm(matrix, pairs) if self.bias is None else torch.baddbmm(self.bias[:, None], matrix, pairs)
        outputs: Tensor = product.unflatten(2, input.shape[2:])
        return outputs


class SANPairwiseKernelGenerator(_SANKernelGenerator):
    r"""The kernel of SAN's pairwise self-attention.

    .. math::
        H_{u,v,i,j} = \mathrm{softmax}_{u,v} \; \gamma\left(\left[\, q_{ij} - k_{i+u,\,j+v} \,;\,
        P c_{ij} - P c_{i+u,\,j+v} \,\right]\right)

    Equations 2 to 4 of Zhao et al., "Exploring Self-Attention for Image Recognition" (CVPR 2020), with subtraction as
    the relation. γ is batch norm, ReLU, a matrix to ``relation_channels``, batch norm, ReLU, a matrix to the G kernels
    with bias; c are the pixels' coordinates in [−1, 1] and P a 2×2 matrix with bias.

    The differences, ``K²·(C_rel + 2)`` values per pixel, go through γ as a map of their own and are kept for the
    backward pass several times over: this φ takes the most memory of all in this package.

    Args:
        in_channels: C, channels of the map it looks at.
        kernel_size: K, taps per dimension.
        groups: G, number of kernels per pixel; the paper's nets share one among 8 channels.
        relation_channels: C_rel, channels of query and key; ``max(1, C // 16)`` by default.
        norm_layer: from a number of channels to a module for maps ``(B, channels, K², H'·W')``; batch norm by default.
        padding_mode: how keys and positions go on beyond the map: ``"reflect"`` as in the paper's nets, where the
            values have to be reflected as well, or ``"zeros"``, where neighbours outside take no part.
        stride: as in the involution that uses the field; queries come from the pooled map.
        padding: likewise.
        dilation: likewise.
        dims: spatial dimensions, 1 to 3.

    Raises:
        ValueError: a size is below 1, the padding mode is unknown, the kernel is even with ``padding="same"``, or (of
            the call) a map is too small to be reflected.
    """

    def _add_network(self, width: int, norm_layer: Callable[[int], nn.Module] | None) -> None:
        dims, norm_layer = len(self.window.kernel_size), norm_layer or nn.BatchNorm2d
        self.position = CONVOLUTIONS[dims](dims, dims, 1)
        self.relation = nn.Sequential(
            made_by(norm_layer, "norm_layer", width + dims),
            nn.ReLU(inplace=True),
            _PairMatrix(width + dims, width, 1, bias=False),
            made_by(norm_layer, "norm_layer", width),
            nn.ReLU(inplace=True),
            _PairMatrix(width, self.groups, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the field ``(B, G, K, K, H', W')`` of the whole map ``x`` ``(B, C, H, W)``."""
        dims = len(self.window.kernel_size)
        query = self.queries(x)
        key, window = self.continued(self.key(x))
        place = self.position(coordinates(x))
        content = differences(query, key, window)
        offsets = differences(to_output_grid(place, self.window, self.padding_mode), self.continued(place)[0], window)
        pairs = torch.cat([content, offsets.expand(x.shape[0], *[-1] * (1 + 2 * dims))], 1)
        field = self.relation(pairs.flatten(2, 1 + dims).flatten(3))
        field = field.unflatten(2, window.kernel_size).unflatten(-1, query.shape[2:])
        if self.padding_mode == "reflect":
            return softmax_over_taps(field, window)
        return softmax_inside(field, x, window)


class SANPatchwiseKernelGenerator(_SANKernelGenerator):
    r"""The kernel of SAN's patchwise self-attention.

    .. math::
        H_{ij} = \gamma\left(\left[\, q_{ij} \,;\, k_{i+u,\,j+v} \text{ for all } u, v \,\right]\right)

    Equation 5 of Zhao et al., "Exploring Self-Attention for Image Recognition" (CVPR 2020), with concatenation as the
    relation. γ is batch norm, ReLU, a matrix to G channels, batch norm, ReLU and a matrix to the ``K²·G`` taps with
    bias; there is no softmax.

    It ends in one matrix, so that the field is never kept. The patches, ``(K² + 1)·C_rel`` values per pixel, are kept
    for the backward pass, before and after their norm.

    Arguments as in `SANPairwiseKernelGenerator`; its norms are of maps ``(B, channels, H', W')``.

    Raises:
        ValueError: as in `SANPairwiseKernelGenerator`.
    """

    def _add_network(self, width: int, norm_layer: Callable[[int], nn.Module] | None) -> None:
        dims, groups = len(self.window.kernel_size), self.groups
        norm_layer = norm_layer or NORMS[dims]
        patch = width * (prod(self.window.kernel_size) + 1)
        self.patch_norm = made_by(norm_layer, "norm_layer", patch)
        self.reduce = CONVOLUTIONS[dims](patch, groups, 1, bias=False)
        self.norm = made_by(norm_layer, "norm_layer", groups)
        self.act = nn.ReLU(inplace=True)
        self.span = SpanMatrix(groups, self.window.kernel_size, groups, bias=True, dims=dims)

    def forward(self, x: Tensor) -> Span:
        """Return the field ``(B, G, K, K, H', W')`` of the whole map ``x`` ``(B, C, H, W)``, as a `Span`."""
        query = self.queries(x)
        key, window = self.continued(self.key(x))
        patch = torch.cat([query, neighbourhoods(key, query, window).flatten(1, 1 + len(self.window.kernel_size))], 1)
        hidden = self.reduce(self.act(normalise(self.patch_norm, patch)))
        span: Span = self.span(self.act(normalise(self.norm, hidden)))
        return span
