"""Objects drawn over the image that they were found in: boxes, masks, names and scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["colour", "draw_objects"]

# Distinct on photographs and for colour-blind eyes (Okabe and Ito), repeated for more classes.
_COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))


def colour(label: int) -> tuple[int, int, int]:
    """Return the colour of a class as red, green and blue from 0 to 255."""
    return _COLOURS[label % len(_COLOURS)]


def draw_objects(
    image: Tensor,
    boxes: Tensor,
    labels: Sequence[int],
    texts: Sequence[str],
    masks: Tensor | None = None,
    opacity: float = 0.45,
) -> Any:
    """Draw objects over an image, the last ones below.

    Args:
        image: uint8 ``(3, H, W)``.
        boxes: ``(N, 4)`` as x1, y1, x2, y2 in pixels.
        labels: class of each, which decides its colour.
        texts: what is written at each, nothing where it is empty.
        masks: bool ``(N, H, W)``, or None.
        opacity: of the masks, 0 to 1.

    Returns:
        A ``PIL.Image.Image`` of the same size.
    """
    from PIL import Image, ImageDraw, ImageFont

    pixels = image.permute(1, 2, 0).float()
    order = range(len(labels) - 1, -1, -1)
    if masks is not None:
        for i in order:
            tint = torch.tensor(colour(labels[i]), dtype=torch.float32)
            pixels = torch.where(masks[i].unsqueeze(-1), (1 - opacity) * pixels + opacity * tint, pixels)
    picture = Image.fromarray(pixels.round().to(torch.uint8).contiguous().numpy())
    draw = ImageDraw.Draw(picture)
    side = max(picture.size)
    width, font = max(1, round(side / 400)), ImageFont.load_default(max(9, round(side / 48)))
    for i in order:
        draw.rectangle(boxes[i].tolist(), outline=colour(labels[i]), width=width)
    # Names above all boxes, inside the image.
    for i in order:
        if not texts[i]:
            continue
        x, y = boxes[i, 0].item(), boxes[i, 1].item()
        left, _, right, bottom = draw.textbbox((0, 0), texts[i], font=font)
        x = max(0.0, min(x, picture.width - right - 2))
        y = y - bottom - 2 if y > bottom + 2 else y
        draw.rectangle((x, y, x + right - left + 3, y + bottom + 1), fill=colour(labels[i]))
        draw.text((x + 1 - left, y), texts[i], fill="black", font=font)
    return picture
