"""Objects drawn over the image that they were found in: boxes, masks, names and scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["colour", "draw_objects", "place_labels"]

# Distinct on photographs and for colour-blind eyes (Okabe and Ito), repeated for more classes.
_COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))
# The greatest part of an object that a label may cover: of another one, and of its own where it lies inside.
_OF_OTHERS, _OF_ITS_OWN = 0.03, 0.12

Rectangle = tuple[float, float, float, float]


def colour(label: int) -> tuple[int, int, int]:
    """Return the colour of a class as red, green and blue from 0 to 255."""
    return _COLOURS[label % len(_COLOURS)]


def draw_objects(
    image: Tensor,
    boxes: Tensor,
    labels: Sequence[int],
    texts: Sequence[str],
    masks: Tensor | None,
    opacity: float,
    classes: Sequence[str] | None = None,
    colours: Sequence[int] | None = None,
) -> Any:
    """Draw objects over an image, the last ones below; labels where they hide no object, and none where there is no room.

    Args:
        image: uint8 ``(3, H, W)``.
        boxes: ``(N, 4)`` as x1, y1, x2, y2 in pixels.
        labels: class of each, which decides its colour.
        texts: what is written at each, nothing where it is empty; the first have the first choice of places.
        masks: bool ``(N, H, W)``, or None.
        opacity: of the masks, 0 to 1.
        classes: names of the classes; where a label finds no room, those that occur are listed beside the image in their
            colours, with the number of objects.
        colours: number of each object's colour, in the place of its class's; classes are not listed then.

    Returns:
        A ``PIL.Image.Image`` of the same size, and wider by such a list.
    """
    from PIL import Image, ImageDraw, ImageFont

    tints = [colour(number) for number in (labels if colours is None else colours)]
    pixels = image.permute(1, 2, 0).float()
    order = range(len(labels) - 1, -1, -1)
    if masks is not None:
        for i in order:
            tint = torch.tensor(tints[i], dtype=torch.float32)
            pixels = torch.where(masks[i].unsqueeze(-1), (1 - opacity) * pixels + opacity * tint, pixels)
    picture = Image.fromarray(pixels.round().to(torch.uint8).contiguous().numpy())
    draw = ImageDraw.Draw(picture)
    side = max(picture.size)
    width, font = max(1, round(side / 400)), ImageFont.load_default(max(9, round(side / 48)))
    for i in order:
        draw.rectangle(boxes[i].tolist(), outline=tints[i], width=width)
    measured = [draw.textbbox((0, 0), text, font=font) for text in texts]
    sizes = [
        (right - left + 4, bottom + 3) if text else (0, 0) for text, (left, _, right, bottom) in zip(texts, measured)
    ]
    places = place_labels(boxes, sizes, picture.size)
    for i, place in enumerate(places):
        if place is not None:
            x, y = place
            draw.rectangle((x, y, x + sizes[i][0] - 1, y + sizes[i][1] - 1), fill=tints[i])
            draw.text((x + 2 - measured[i][0], y), texts[i], fill="black", font=font)
    has_room = all(place is not None for place, text in zip(places, texts, strict=True) if text)
    return picture if has_room or classes is None or colours is not None else _with_list(picture, labels, classes)


def place_labels(
    boxes: Tensor, sizes: Sequence[tuple[float, float]], image_size: tuple[int, int]
) -> list[tuple[float, float] | None]:
    """Return where labels lie that hide neither one another nor the objects: beside their box, inside one that is large.

    Args:
        boxes: ``(N, 4)`` as x1, y1, x2, y2 in pixels.
        sizes: width and height of each label in pixels; one of no width has no place.
        image_size: width and height of the image.

    Returns:
        Left and upper edge of each, None where there is no room.
    """
    corners: list[Rectangle] = [(x1, y1, x2, y2) for x1, y1, x2, y2 in boxes.tolist()]
    taken: list[Rectangle] = []
    places: list[tuple[float, float] | None] = []
    for i, size in enumerate(sizes):
        others = corners[:i] + corners[i + 1 :]
        found = next(
            (
                label
                for label in _candidates(corners[i], size)
                if size[0] > 0
                and _is_inside(label, image_size)
                and not any(_overlap(label, other) for other in taken)
                and all(_overlap(label, other) <= _OF_OTHERS * _area(other) for other in others)
            ),
            None,
        )
        if found is not None:
            taken.append(found)
        places.append(None if found is None else (found[0], found[1]))
    return places


def _candidates(box: Rectangle, size: tuple[float, float]) -> Iterator[Rectangle]:
    """Yield the places of a label at its box, the best first: above, below, at the sides, inside."""
    (x1, y1, x2, y2), (width, height) = box, size
    corners = [(x, y) for y in (y1 - height, y2 + 1) for x in (x1, x2 - width)]
    corners += [(x, y) for x in (x2 + 1, x1 - width) for y in (y1, y2 - height)]
    if width * height <= _OF_ITS_OWN * _area(box) and width <= x2 - x1:
        corners += [(x1, y1), (x1, y2 - height)]
    yield from ((x, y, x + width, y + height) for x, y in corners)


def _is_inside(rectangle: Rectangle, size: tuple[int, int]) -> bool:
    x1, y1, x2, y2 = rectangle
    return x1 >= 0 and y1 >= 0 and x2 <= size[0] and y2 <= size[1]


def _area(rectangle: Rectangle) -> float:
    x1, y1, x2, y2 = rectangle
    return max(0.0, x2 - x1) * max(0.0, y2 - y1)


def _overlap(one: Rectangle, other: Rectangle) -> float:
    return _area((max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])))


def _with_list(picture: Any, labels: Sequence[int], classes: Sequence[str]) -> Any:
    """Set the classes that occur beside a picture, in their colours, the most frequent first."""
    from .overlays import add_legend

    counts = Counter(labels).most_common()
    return add_legend(picture, [(f"{count} {classes[label]}", colour(label)) for label, count in counts])
