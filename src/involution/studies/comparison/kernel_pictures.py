"""What is shown of the kernel fields of a net: which layer and group, and every kernel in the place of its pixel."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ...pictures.heatmaps import colours, mosaic
from .results import Samples

__all__ = [
    "kernel_layer",
    "kernel_limit",
    "kernel_pictures",
    "liveliest_group",
    "rgb",
    "shown_heat_maps",
    "shown_kernels",
]


def liveliest_group(maps: Tensor) -> int:
    """Return the group whose heat maps ``(N, G, H', W')`` vary most from pixel to pixel, relative to their size."""
    spread = maps.double().flatten(2).std(2, unbiased=False)
    return int((spread / maps.double().flatten(2).abs().mean(2).clamp_min(1e-12)).mean(0).argmax())


def kernel_layer(samples: Samples) -> str:
    """Return the layer whose map is nearest to 8×8 pixels: small enough to see every kernel in it."""
    return min(samples.kernels, key=lambda name: abs(samples.kernels[name].shape[-1] - 8))


def shown_kernels(samples: Samples) -> Tensor:
    """Return the kernels ``(N, K, K, H', W')`` of the liveliest group of `kernel_layer`."""
    layer = kernel_layer(samples)
    return samples.kernels[layer][:, liveliest_group(samples.heat_maps[layer])]


def shown_heat_maps(samples: Samples) -> Tensor:
    """Return the heat maps ``(N, H', W')`` of the liveliest group of the first involution, the one that sees most."""
    maps = next(iter(samples.heat_maps.values()))
    return maps[:, liveliest_group(maps)]


def kernel_limit(kernels: Tensor) -> float:
    """Return the weight that gets the strongest colour; the few that are far larger would make the rest look like zero."""
    return kernels.abs().flatten().double().quantile(0.97).clamp_min(1e-12).item()


def kernel_pictures(kernels: Tensor, scale: int = 5, gap: int = 2) -> Tensor:
    """Draw, for every image, the kernel of each pixel in that pixel's place: blue below 0, red above.

    Args:
        kernels: of one group, ``(N, K, K, H', W')``.
        scale: pixels of the picture per weight, in either direction.
        gap: white pixels between kernels.

    Returns:
        uint8 ``(N, H'·(K·scale + gap), W'·(K·scale + gap), 3)``.
    """
    limit = kernel_limit(kernels)
    enlarged = kernels.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    # NaN stands for the gaps; colours() gives it the colour in the middle, which is white.
    enlarged = F.pad(enlarged.permute(0, 3, 4, 1, 2), (0, gap, 0, gap), value=float("nan")).permute(0, 3, 4, 1, 2)
    return colours(torch.stack([mosaic(field) for field in enlarged]), "RdBu_r", (-limit, limit))


def rgb(image: Tensor) -> Tensor:
    """Return (H, W, 3) of an image (1, H, W) or (3, H, W)."""
    return image.expand(3, *image.shape[1:]).permute(1, 2, 0).contiguous()
