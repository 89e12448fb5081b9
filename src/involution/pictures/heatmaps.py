"""Kernel fields made visible: heat maps of any network's involutions, and the kernels themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..counting import in_evaluation
from ..modules import Involution1d, Involution2d, Involution3d
from ..span import as_field

__all__ = ["colours", "enlarge", "heat_map", "kernel_fields", "kernel_heat_maps", "mosaic", "overlay", "with_scale"]

_INVOLUTIONS = (Involution1d, Involution2d, Involution3d)


def heat_map(field: Tensor) -> Tensor:
    """Sum the taps of every kernel, as the paper does to visualise them: one map per group.

    Args:
        field: kernel field ``(B, G, K, K, H', W')`` (or of one or three dimensions).

    Returns:
        ``(B, G, H', W')``.
    """
    dims = (field.ndim - 2) // 2
    return field.sum(dim=tuple(range(2, 2 + dims)))


def kernel_heat_maps(model: nn.Module, images: Tensor, layers: Sequence[str] | None = None) -> dict[str, Tensor]:
    """Return the heat maps of a network's involutions for some images.

    Args:
        model: any network; it is run once, in evaluation mode, and left as it was.
        images: what it is called with, ``(B, C, H, W)``.
        layers: names of involutions as in ``model.named_modules()``; all by default.

    Returns:
        ``(B, G, H', W')`` by the layer's name, in the order of the calls. A layer that is called again (a head that
        several maps share) adds ``name:2`` and so on.

    Raises:
        ValueError: the network has no involution, or a name is not one of them.

    Example:
        >>> import torch
        >>> from involution import Involution2d
        >>> from involution.pictures.heatmaps import kernel_heat_maps
        >>> maps = kernel_heat_maps(torch.nn.Sequential(Involution2d(32)), torch.randn(2, 32, 9, 9))
        >>> maps["0"].shape
        torch.Size([2, 2, 9, 9])
    """
    return _collect(model, images, layers, heat_map)


def kernel_fields(model: nn.Module, images: Tensor, layers: Sequence[str] | None = None) -> dict[str, Tensor]:
    """Return the kernel fields ``(B, G, K, K, H', W')`` themselves; everything else as in `kernel_heat_maps`."""
    return _collect(model, images, layers, lambda field: field)


def _collect(
    model: nn.Module, images: Tensor, layers: Sequence[str] | None, reduce: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    involutions = {name: module for name, module in model.named_modules() if isinstance(module, _INVOLUTIONS)}
    if not involutions:
        raise ValueError(f"{type(model).__name__} has no involution, so it has no kernel field")
    unknown = [name for name in layers or () if name not in involutions]
    if unknown:
        raise ValueError(f"no involution is called {unknown[0]!r}; expected one of {', '.join(involutions)}")
    collected: dict[str, Tensor] = {}

    def hook_for(name: str) -> Callable[..., None]:
        def hook(module: Any, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], output: Tensor) -> None:
            image = args[0] if args else kwargs["input"]
            # Made anew from the input, because φ may be any callable and the field is no output of the layer.
            calls = sum(key.partition(":")[0] == name for key in collected)
            collected[name if not calls else f"{name}:{calls + 1}"] = reduce(
                as_field(module.generate_kernel(image))
            ).detach()

        return hook

    handles = [
        module.register_forward_hook(hook_for(name), with_kwargs=True)
        for name, module in involutions.items()
        if layers is None or name in layers
    ]
    try:
        with in_evaluation(model), torch.no_grad():
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    return collected


def mosaic(kernels: Tensor) -> Tensor:
    """Lay out one group's kernels of one image as a picture: in the place of every pixel, the kernel it made.

    Args:
        kernels: ``(K, K, H', W')``.

    Returns:
        ``(H'·K, W'·K)``.
    """
    k_h, k_w, height, width = kernels.shape
    return kernels.permute(2, 0, 3, 1).reshape(height * k_h, width * k_w)


def colours(values: Tensor, colormap: str = "magma", limits: tuple[float, float] | None = None) -> Tensor:
    """Colour maps of numbers.

    Args:
        values: ``(..., H, W)``.
        colormap: a name that matplotlib knows.
        limits: the numbers that get the first and last colour; by default each map's own extremes.

    Returns:
        uint8 ``(..., H, W, 3)``. Maps that are constant get the colour in the middle.

    Raises:
        ImportError: matplotlib is missing.
    """
    try:
        from matplotlib import colormaps
    except ImportError as error:
        raise ImportError('colours need matplotlib; install it with: pip install "involution[train]"') from error
    values = values.detach().double().cpu()
    low, high = limits if limits else (values.amin((-2, -1), keepdim=True), values.amax((-2, -1), keepdim=True))
    scaled = (values - low) / torch.as_tensor(high - low)
    scaled = scaled.nan_to_num(0.5).clamp(0, 1)
    return torch.from_numpy(colormaps[colormap](scaled.numpy(), bytes=True)[..., :3].copy())


def enlarge(images: Tensor, least: int = 160) -> Tensor:
    """Show small images in squares of pixels: repeat them so often that the shorter side has ``least`` pixels.

    Args:
        images: ``(..., H, W)``.
        least: pixels; images that are as large stay as they are.

    Returns:
        ``(..., n·H, n·W)``, n whole.
    """
    times = -(-least // min(images.shape[-2:]))
    return images.repeat_interleave(times, -2).repeat_interleave(times, -1)


def overlay(image: Tensor, values: Tensor, opacity: float = 0.55, colormap: str = "magma") -> Tensor:
    """Lay a heat map over the image it belongs to.

    Args:
        image: uint8 ``(C, H, W)`` with one or three channels.
        values: ``(H', W')``, enlarged to the image smoothly. Its least and largest value have the first and the last colour;
            where a single pixel has one, its enlargement stays short of it.
        opacity: of the heat map, 0 to 1.
        colormap: a name that matplotlib knows.

    Returns:
        uint8 ``(H, W, 3)``.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: ``image`` is not such an image.
    """
    if image.ndim != 3 or image.shape[0] not in (1, 3) or image.dtype != torch.uint8:
        raise ValueError(
            f"image must be uint8 of shape (1, H, W) or (3, H, W), got {image.dtype} of shape {tuple(image.shape)}"
        )
    size = image.shape[1:]
    enlarged = F.interpolate(values[None, None].float().cpu(), size, mode="bilinear", align_corners=False)[0, 0]
    grey = image.cpu().float().mean(0, keepdim=True).expand(3, *size).permute(1, 2, 0)
    low, high = values.min().item(), values.max().item()
    # Of a constant map the enlargement differs from it by rounding.
    coloured = colours(enlarged.clamp(low, high), colormap, (low, high))
    return (opacity * coloured + (1 - opacity) * grey).round().to(torch.uint8)


def with_scale(picture: Tensor, low: float, high: float, colormap: str = "magma") -> Any:
    """Set beside a picture what numbers the colours of its heat map stand for, the least below and the largest above.

    Args:
        picture: uint8 ``(H, W, 3)``.
        low: the number that has the first colour.
        high: the number that has the last one.
        colormap: a name that matplotlib knows.

    Returns:
        A ``PIL.Image.Image`` as high as the picture, and wider.

    Raises:
        ImportError: matplotlib is missing.
    """
    from PIL import Image, ImageDraw, ImageFont

    height, width = picture.shape[:2]
    size = max(10, height // 20)
    font = ImageFont.load_default(size)
    texts = [f"{number:.3g}" for number in (high, low)]
    column, gap = size, size // 2
    result = Image.new("RGB", (width + 3 * gap + column + round(max(map(font.getlength, texts))), height), "white")
    result.paste(Image.fromarray(picture.cpu().numpy()), (0, 0))
    ramp = colours(torch.linspace(1, 0, height).unsqueeze(1).expand(-1, column), colormap, (0, 1))
    result.paste(Image.fromarray(ramp.numpy()), (width + gap, 0))
    draw = ImageDraw.Draw(result)
    for text, y, anchor in ((texts[0], 0, "la"), (texts[1], height - 1, "ld")):
        draw.text((width + 2 * gap + column, y), text, fill=(30, 30, 30), font=font, anchor=anchor)
    return result
