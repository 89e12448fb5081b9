"""Draw what every operator of the family looks at and the kernels it makes, by the layers themselves.

python -m tools.family_pictures [--output docs/images]

Each picture has the map with two marked pixels, the pixels that the kernel of the first depends on (where its derivative
is not zero), and the kernels of both. The map is a bar on a ground, each a random vector of 16 channels, with noise; the
weights are untrained, with keys equal to queries where there are both, so that like attracts like.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from involution.kernel_generation import (
    BottleneckKernelGenerator,
    KernelGenerator,
    LocalRelationKernelGenerator,
    OutlookKernelGenerator,
    SANPairwiseKernelGenerator,
    SANPatchwiseKernelGenerator,
    StandAloneKernelGenerator,
)
from involution.models.axial import AxialAttention
from involution.pictures.plots import LIGHT, new_figure
from involution.span import as_field
from involution.upsampling import CARAFE

from .markdown import write_picture

SIZE, CHANNELS = 13, 16
# On the bar, and on the ground near it.
PIXELS = ((6, 6), (4, 8))
# One kernel per pixel; of the patchwise φ, whose hidden map has a channel per kernel, the first of eight.
GENERATORS: dict[str, Callable[[], KernelGenerator]] = {
    "involution": lambda: BottleneckKernelGenerator(CHANNELS, 7, 1, reduction=1),
    "sasa": lambda: StandAloneKernelGenerator(CHANNELS, 7, 1),
    "san_pairwise": lambda: SANPairwiseKernelGenerator(CHANNELS, 7, 1, relation_channels=16),
    "san_patchwise": lambda: SANPatchwiseKernelGenerator(CHANNELS, 7, 8, relation_channels=16),
    "local_relation": lambda: LocalRelationKernelGenerator(CHANNELS, 7, 1),
    "outlook": lambda: OutlookKernelGenerator(CHANNELS, 5, 1),
}
# How much larger than at the start of a training the weights are made, so that kernels differ visibly.
FACTORS = {"sasa": 0.6, "san_pairwise": 3.0, "san_patchwise": 2.0, "outlook": 40.0}
SIGNED = ("involution", "san_patchwise")


def map_with_a_bar() -> tuple[Tensor, Tensor]:
    """Return which pixels are the bar ``(H, W)``, and the map ``(1, C, H, W)``."""
    generator = torch.Generator().manual_seed(3)
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    bar = ((rows - columns).abs() <= 1).float()
    ink, ground = torch.randn(2, CHANNELS, 1, 1, generator=generator)
    noise = 0.15 * torch.randn(CHANNELS, SIZE, SIZE, generator=generator)
    return bar, (bar * ink + (1 - bar) * ground + noise)[None]


def generator_of(name: str) -> Callable[[Tensor], Tensor]:
    """Return what makes the field ``(1, G, K, K, H, W)`` of a map, with weights that show what it does."""
    torch.manual_seed(0)
    phi: Any = GENERATORS[name]().eval()
    with torch.no_grad():
        for module in phi.modules():
            if hasattr(module, "weight") and not isinstance(module, nn.BatchNorm2d):
                module.weight.mul_(FACTORS.get(name, 1.0))
        if hasattr(phi, "key"):
            phi.key.weight.copy_(phi.query.weight)
    return lambda x: as_field(phi(x))


def carafe_kernels(x: Tensor) -> Tensor:
    """Return CARAFE's four kernels of each pixel, laid side by side: ``(1, 1, 2·5 + 1, 2·5 + 1, H, W)``."""
    torch.manual_seed(0)
    carafe = CARAFE(CHANNELS, 2, compressed_channels=8)
    nn.init.normal_(carafe.content_encoder.weight, std=0.1)
    kernels = carafe.generate_kernels(x)[:, 0]
    left, right = kernels[:, :, :, :, 0], kernels[:, :, :, :, 1]
    rows = [
        torch.cat([left[:, :, :, a], torch.full_like(left[:, :, :1, a], torch.nan), right[:, :, :, a]], 2)
        for a in (0, 1)
    ]
    return torch.cat([rows[0], torch.full_like(rows[0][:, :1], torch.nan), rows[1]], 1)[:, None]


def axial_kernels(x: Tensor) -> Tensor:
    """Return the weights of each pixel's column and row as one kernel ``(1, 1, 2L − 1, 2L − 1, H, W)``, NaN elsewhere."""
    torch.manual_seed(0)
    attention = AxialAttention(CHANNELS, heads=1).eval()
    with torch.no_grad():
        # Keys as queries.
        attention.qkv.weight[CHANNELS // 2 : CHANNELS] = attention.qkv.weight[: CHANNELS // 2]
    middle = SIZE - 1
    kernels = x.new_zeros(1, 1, 2 * SIZE - 1, 2 * SIZE - 1, SIZE, SIZE)
    for axis in (0, 1):
        for n in range(SIZE):
            line = x[:, :, :, n] if axis == 0 else x[:, :, n]
            query, key, _ = attention.project(line)
            weights = torch.einsum("bgci,bgcj->bgij", query, key).softmax(3)[0, 0]
            for i in range(SIZE):
                taps = slice(middle - i, middle - i + SIZE)
                if axis == 0:
                    kernels[0, 0, taps, middle, i, n] = kernels[0, 0, taps, middle, i, n] + weights[i]
                else:
                    kernels[0, 0, middle, taps, n, i] = kernels[0, 0, middle, taps, n, i] + weights[i]
    cross = torch.zeros(2 * SIZE - 1, 2 * SIZE - 1, dtype=torch.bool)
    cross[middle], cross[:, middle] = True, True
    return kernels.masked_fill(~cross[:, :, None, None], torch.nan)


def fields() -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
    """Yield every operator's name and what makes its kernels."""
    for name in GENERATORS:
        yield name, generator_of(name)
    yield "axial", axial_kernels
    yield "carafe", carafe_kernels


def dependence(field: Callable[[Tensor], Tensor], x: Tensor, pixel: tuple[int, int]) -> Tensor:
    """Return how strongly the kernel of a pixel depends on every pixel, ``(H, W)``, at most 1."""
    x = x.clone().requires_grad_()
    kernel = field(x)[:, :1, :, :, pixel[0], pixel[1]].nan_to_num()
    weights = torch.randn(kernel.shape, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad((kernel * weights).sum(), x)
    strength = gradient[0].abs().sum(0)
    return strength / strength.max()


def draw(name: str, field: Callable[[Tensor], Tensor]) -> Any:
    """Draw one operator."""
    bar, x = map_with_a_bar()
    with torch.no_grad():
        kernels = [field(x)[0, 0, :, :, i, j] for i, j in PIXELS]
    figure = new_figure(8.2, 2.35)
    panels = figure.subplots(1, 4)
    panels[0].imshow(bar, cmap="Greys", vmin=-0.4, vmax=1.6)
    panels[0].set_title("the map, pixels A and B", fontsize=9, color=LIGHT.ink)
    # The square root shows what is weak as well.
    panels[1].imshow(dependence(field, x, PIXELS[0]).sqrt(), cmap="Oranges", vmin=0, vmax=1.2)
    panels[1].set_title("A's kernel depends on", fontsize=9, color=LIGHT.ink)
    label = {"boxstyle": "circle,pad=0.1", "facecolor": "white", "edgecolor": "none"}
    for axes in panels[:2]:
        for letter, (i, j) in zip("AB", PIXELS, strict=True):
            if letter == "A" or axes is panels[0]:
                axes.text(j, i, letter, ha="center", va="center", fontsize=8, color=LIGHT.convolution, bbox=label)
    largest = max(float(kernel.nan_to_num().abs().max()) for kernel in kernels)
    for axes, letter, kernel in zip(panels[2:], "AB", kernels, strict=True):
        colours = {"cmap": "RdBu_r", "vmin": -largest, "vmax": largest}
        if name not in SIGNED:
            colours = {"cmap": "Oranges", "vmin": 0, "vmax": largest}
        axes.imshow(kernel, **colours)
        axes.set_title(f"{letter}'s kernel{'s' if name == 'carafe' else ''}", fontsize=9, color=LIGHT.ink)
    for axes in panels:
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_color(LIGHT.grid)
    figure.tight_layout(pad=0.6)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("docs/images"))
    arguments = parser.parse_args()
    for name, field in fields():
        path = arguments.output / f"family_{name}.png"
        write_picture(path, draw(name, field))
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
