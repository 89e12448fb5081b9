"""Maps of classes laid over their images, with a legend."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

__all__ = ["add_legend", "class_shares", "overlay_classes", "percent", "with_legend"]

Colour = tuple[int, int, int]

# In pixels: of a picture with a legend, and of one that is enlarged for it.
_LEAST_HEIGHT, _WIDEST = 160, 4096


def class_shares(classes: np.ndarray, count: int) -> np.ndarray:
    """Return the share of each of ``count`` classes in the pixels of ``classes`` ``(H, W)``; values beyond count not."""
    return np.bincount(classes.ravel(), minlength=count)[:count] / max(1, classes.size)


def overlay_classes(image: Image.Image, classes: np.ndarray, colours: Sequence[Colour], opacity: float) -> Image.Image:
    """Lay the colours of the classes over an image.

    Args:
        image: of any mode.
        classes: ``(H, W)``, of the image's size; a value without a colour leaves the image as it is.
        colours: red, green and blue of each class.
        opacity: of the colours, 0 to 1.

    Raises:
        ValueError: the sizes differ.
    """
    if classes.shape != (image.height, image.width):
        raise ValueError(
            f"image and classes must have the same size, got {image.width}×{image.height} and "
            f"{classes.shape[1]}×{classes.shape[0]}"
        )
    pixels = np.asarray(image.convert("RGB"), np.float32)
    palette = np.zeros((256, 3), np.float32)
    palette[: len(colours)] = colours
    weight = np.where(classes < len(colours), opacity, 0.0)[..., None]
    mixed = pixels * (1 - weight) + palette[classes] * weight
    return Image.fromarray(mixed.round().astype(np.uint8))


def add_legend(picture: Image.Image, entries: Sequence[tuple[str, Colour]], least: int = 0) -> Image.Image:
    """Set names and squares of their colours beside a picture, in as many columns as its height asks for.

    Args:
        picture: in RGB.
        entries: name and colour.
        least: height in pixels that the legend has at any rate; the result is as high as the higher of both.
    """
    side = _legend(entries, max(least, picture.height), min(32, max(11, picture.height // 28)))
    result = Image.new("RGB", (picture.width + side.width, max(picture.height, side.height)), "white")
    result.paste(picture, (0, 0))
    result.paste(side, (picture.width, 0))
    return result


def _legend(entries: Sequence[tuple[str, Colour]], height: int, size: int) -> Image.Image:
    """Draw a legend of ``height`` pixels, or higher where that is less than one entry; ``size`` is that of the letters."""
    font = ImageFont.load_default(size)
    row, pad = round(1.5 * size), round(0.6 * size)
    rows = max(1, (height - pad) // row)
    columns = [entries[i : i + rows] for i in range(0, len(entries), rows)]
    widths = [round(1.7 * size + max(font.getlength(name) for name, _ in column)) + pad for column in columns]
    picture = Image.new("RGB", (sum(widths) + pad, max(height, row + 2 * pad)), "white")
    draw = ImageDraw.Draw(picture)
    left = pad
    for column, width in zip(columns, widths, strict=True):
        for i, (name, colour) in enumerate(column):
            top = pad + i * row
            draw.rectangle((left, top, left + size, top + size), fill=colour, outline=(90, 90, 90))
            draw.text((left + 1.5 * size, top + size / 2), name, fill=(30, 30, 30), font=font, anchor="lm")
        left += width
    return picture


def with_legend(
    image: Image.Image, classes: np.ndarray, names: Sequence[str], colours: Sequence[Colour], opacity: float
) -> Image.Image:
    """Lay classes over an image and set a legend beside it: those that occur, with their share, the largest first.

    Args:
        image: of any mode; one lower than 160 pixels is enlarged, as far as that makes it no wider than 4,096, so that the
            legend can be read.
        classes: ``(H, W)``, of the image's size.
        names: of the classes.
        colours: of the classes.
        opacity: of the colours, 0 to 1.
    """
    picture = overlay_classes(image, classes, colours, opacity)
    if picture.height < _LEAST_HEIGHT:
        # No further than what is wide can be seen: one of a few rows would be larger than the memory.
        factor = max(1, min(-(-_LEAST_HEIGHT // picture.height), _WIDEST // picture.width))
        picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    shares = class_shares(classes, len(names))
    order = [i for i in np.argsort(-shares, kind="stable") if shares[i] > 0]
    entries = [(f"{names[i]}: {percent(shares[i])}", colours[i]) for i in order]
    return add_legend(picture, entries, _LEAST_HEIGHT) if entries else picture


def percent(share: float) -> str:
    """Return a share, 0 to 1, as a reader wants it."""
    return "< 0.1 %" if share < 0.0005 else f"{100 * share:.1f} %"
