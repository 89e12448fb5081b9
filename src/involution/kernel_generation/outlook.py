"""VOLO's outlook attention as φ: every window weighs its pixels anew for each of its places, and the windows overlap."""

from __future__ import annotations

from functools import reduce
from itertools import product
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import handle_torch_function, has_torch_function

from ..geometry import IntOrTuple, Padding, Window, to_tuple, to_window
from .base import CONVOLUTIONS, KernelGenerator
from .windows import to_output_grid

__all__ = ["OutlookKernelGenerator"]


class OutlookKernelGenerator(KernelGenerator):
    r"""The kernel of outlook attention.

    .. math::
        A_{cij} = \mathrm{softmax}_{n} \, (W x_{ij})_{c,m,n}, \qquad
        Y_p = \sum_{m} \Big( \sum_{n} A_{c,m,n} \, X_{c+n} \Big)_{c = p - m}
        = \sum_{\Delta} H_{\Delta,p} \, X_{p+\Delta}, \qquad
        H_{\Delta,p} = \sum_{m} A_{p-m,\;m,\;m+\Delta}

    Section 3.1 of Yuan et al., "VOLO: Vision Outlooker for Visual Recognition" (2021). The pixel c at the centre of
    a K×K window makes, by one matrix, K² weightings of the window's pixels n, one for each place m in it; the results of
    all windows are laid over one another where they belong (``fold``) and added. What a pixel p is given by the windows
    that hold it is again a weighted sum, of a neighbourhood of (2K − 1)×(2K − 1): an involution, whose kernel is the sum
    H. For K = 3 that is 25 multiply-adds per channel where windows and fold take 81.

    As in the paper, the places of a window outside the map are given nothing, and the pixels outside count as zero,
    while the softmax runs over all K². The weightings, ``K⁴·G`` values per window, are kept for the backward pass, as is
    the field, ``(2K − 1)²·G`` values per pixel.

    Args:
        in_channels: C, channels of the map it looks at.
        kernel_size: of the involution, 2K − 1 for windows of K, K odd: 5 for the paper's windows of 3.
        groups: G, number of heads.
        scale: factor before the softmax; ``(C / G)^(−1/2)`` by default, as in the authors' code.
        window_stride: pixels between two windows, at most K; windows look at the map pooled by as much. The map that
            results is as large as the input, whatever this is.
        stride: of the involution: 1, for the windows are folded back onto the map they came from.
        padding: of the involution: ``"same"``.
        dilation: of the involution: 1.
        dims: spatial dimensions, 1 to 3.

    Raises:
        ValueError: the kernel is not 2K − 1 of an odd K, or another argument is none that outlook attention defines.
    """

    pooled = False

    def __init__(
        self,
        in_channels: int,
        kernel_size: IntOrTuple,
        groups: int,
        *,
        scale: float | None = None,
        window_stride: IntOrTuple = 1,
        stride: IntOrTuple = 1,
        padding: Padding = "same",
        dilation: IntOrTuple = 1,
        dims: int = 2,
    ) -> None:
        super().__init__()
        taps = to_tuple(kernel_size, dims, "kernel_size")
        if any(k % 4 != 1 for k in taps):
            raise ValueError(
                "outlook attention in windows of K, K odd, is an involution with kernel_size 2K − 1: 5 for windows of 3, "
                f"9 for windows of 5; got {kernel_size!r}"
            )
        sizes = tuple((k + 1) // 2 for k in taps)
        if to_window(kernel_size, stride, padding, dilation, dims) != to_window(taps, 1, "same", 1, dims):
            raise ValueError(
                "outlook attention folds its windows back onto the map they came from, which needs stride=1, "
                f"padding='same' and dilation=1, got stride={stride!r}, padding={padding!r} and dilation={dilation!r}; "
                "the pixels between two windows are window_stride"
            )
        window_stride = to_tuple(window_stride, dims, "window_stride")
        if any(s > k for s, k in zip(window_stride, sizes, strict=True)):
            raise ValueError(
                f"window_stride must be at most K={sizes}, got {window_stride}: no window would hold the pixels between"
            )
        (self.groups,) = to_tuple(groups, 1, "groups")
        self.scale = (in_channels / groups) ** -0.5 if scale is None else scale
        self.window = to_window(sizes, window_stride, "same", 1, dims)
        self.attention = CONVOLUTIONS[dims](in_channels, groups * prod(sizes) ** 2, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as the authors' code does: a small normal, no bias."""
        nn.init.trunc_normal_(self.attention.weight, std=0.02)
        if self.attention.bias is not None:
            nn.init.zeros_(self.attention.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the field ``(B, G, 2K − 1, 2K − 1, H, W)`` of the map ``x`` ``(B, C, H, W)``."""
        taps = prod(self.window.kernel_size)
        weights = self.attention(to_output_grid(x, self.window)).unflatten(1, (self.groups, taps, taps))
        return fold_weights((weights * self.scale).softmax(3), x, self.window)


def fold_weights(weights: Tensor, x: Tensor, window: Window) -> Tensor:
    """Return the kernel that every pixel has of all the windows that hold it, their weightings summed.

    Args:
        weights: ``(B, G, K·K, K·K, h, w)``: places, pixels and windows.
        x: the map ``(B, C, H, W)``; its size alone is looked at.
        window: of which ``weights`` are; K, and the stride between two windows.

    Returns:
        ``(B, G, 2K − 1, 2K − 1, H, W)``.
    """
    if has_torch_function((weights, x)):
        return handle_torch_function(fold_weights, (weights, x), weights, x, window)
    sizes = window.kernel_size
    weights = _spread(weights.unflatten(3, sizes), window.stride)

    def of_place(number: int, place: tuple[int, ...]) -> Tensor:
        # Pixel n of the window lies n − m from place m, which lies m − (K − 1) / 2 from the window's centre.
        taps = [(k - 1 - m, m) for k, m in zip(sizes, place, strict=True)]
        shifts = [(m - k // 2, k // 2 - m) for k, m in zip(sizes, place, strict=True)]
        return F.pad(weights[:, :, number], [n for pair in reversed(taps + shifts) for n in pair])

    field = reduce(torch.add, (of_place(*item) for item in enumerate(product(*map(range, sizes)))))
    for axis, stride in enumerate(window.stride):
        if stride > 1:
            # No slice: that the windows reach over the border is a rule that an exporter with dynamic sizes cannot prove.
            inside = torch.arange(x.shape[2 + axis], device=x.device)
            field = field.index_select(2 + len(sizes) + axis, inside)
    return field


def _spread(x: Tensor, stride: tuple[int, ...]) -> Tensor:
    """Put as many zeros behind the values of the last dimensions that they lie ``stride`` apart."""
    for axis, s in enumerate(stride, start=-len(stride)):
        if s > 1:
            last = x.movedim(axis, -1)
            x = torch.stack([last, *[torch.zeros_like(last)] * (s - 1)], -1).flatten(-2).movedim(-1, axis)
    return x
