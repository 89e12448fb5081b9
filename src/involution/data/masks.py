"""Masks of instances in COCO's forms, polygons and run-length codes: checked, decoded and encoded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..schema import shown

__all__ = ["clip_polygon", "decode_mask", "encode_mask", "find_mask_problem", "is_coordinate", "is_id"]

Point = tuple[float, float]

# How long the outlines of an object may be together, in pixels: what fills them keeps every step along them, five a pixel.
_LONGEST = 2**22


def is_id(value: Any) -> bool:
    """Whether a value is a whole number that fits into 64 bits."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def is_coordinate(value: Any) -> bool:
    """Whether a value is a finite number, of a size that float32 can hold with its products."""
    if isinstance(value, int):
        return abs(value) < 10**15
    return isinstance(value, float) and abs(value) < 1e15


def find_mask_problem(segmentation: Any, height: int, width: int) -> str:
    """Say what is wrong with the segmentation of an annotation, nothing if it is right.

    Args:
        segmentation: as the file has it.
        height: of the image.
        width: of the image.
    """
    if not segmentation:
        return "has no segmentation, which masks need; train a detector of boxes, or leave it out"
    if isinstance(segmentation, list):
        for polygon in segmentation:
            right = isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0
            if not right or not all(is_coordinate(value) for value in polygon):
                return f"has a polygon that is no list of at least three points x, y: {shown(polygon)}"
        # An edge of what is cut to one image's size around the image is no longer than this.
        points, longest = sum(map(len, segmentation)) // 2, 3 * (height + width)
        if (
            points * longest > _LONGEST
            and sum(_outline(clip_polygon(p, height, width)) for p in segmentation) > _LONGEST
        ):
            return (
                f"has polygons whose outlines of {points:,} points are longer than {_LONGEST:,} pixels; simplify them"
            )
        return ""
    if not isinstance(segmentation, dict) or not {"size", "counts"} <= segmentation.keys():
        return "has a segmentation that is neither polygons nor a run-length code with size and counts"
    size, counts = segmentation["size"], segmentation["counts"]
    if size != [height, width]:
        return f"has a mask of size {shown(size)}, its image is {height} high and {width} wide"
    if isinstance(counts, str):
        counts = _read_counts(counts)
    if not isinstance(counts, list) or not all(is_id(count) and count >= 0 for count in counts):
        return "has a run-length code that is neither COCO's text nor a list of counts from 0 on"
    if sum(counts) != height * width:
        return f"has a run-length code of {sum(counts)} pixels, its image has {height * width}"
    return ""


def decode_mask(segmentation: Any, height: int, width: int) -> Tensor:
    """Return polygons or a run-length code (a list of counts or COCO's compressed string) as uint8 ``(H, W)``."""
    if isinstance(segmentation, Sequence):
        polygons = [clip_polygon(polygon, height, width) for polygon in segmentation]
        segmentation = [polygon for polygon in polygons if len(polygon) >= 6]
        if not segmentation:
            return torch.zeros(height, width, dtype=torch.uint8)
        rle = _mask_tools().merge(_mask_tools().frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        rle = _mask_tools().frPyObjects(segmentation, height, width)
    else:
        rle = segmentation
    return torch.from_numpy(_mask_tools().decode(rle)).view(height, width)


def encode_mask(mask: Tensor) -> dict[str, Any]:
    """Return a mask ``(H, W)`` as COCO's compressed run-length code, in values that JSON can hold."""
    import numpy as np

    rle = _mask_tools().encode(np.asfortranarray(mask.to(torch.uint8).numpy()))
    return {"size": [int(n) for n in rle["size"]], "counts": rle["counts"].decode("ascii")}


def clip_polygon(polygon: Sequence[float], height: int, width: int) -> Sequence[float]:
    """Return a polygon as it is, or where it reaches far beyond the image, cut to one image's size around it.

    What fills a polygon walks along its edges pixel by pixel, inside the image or not. The cut (Sutherland and Hodgman
    1974) leaves what lies inside the image as it was.

    Args:
        polygon: x, y, x, y, … in pixels.
        height: of the image.
        width: of the image.
    """
    points: list[Point] = list(zip(polygon[0::2], polygon[1::2], strict=True))
    for axis, side in ((0, width), (1, height)):
        for sign, bound in ((1.0, -float(side)), (-1.0, 2.0 * side)):
            if points and any(sign * (point[axis] - bound) < 0 for point in points):
                points = _cut(points, axis, sign, bound)
    return [value for point in points for value in point]


def _cut(points: Sequence[Point], axis: int, sign: float, bound: float) -> list[Point]:
    """Keep the part of a polygon where ``sign · coordinate ≥ sign · bound``."""
    kept: list[Point] = []
    for before, point in zip([points[-1], *points[:-1]], points, strict=True):
        inside, was_inside = (sign * (p[axis] - bound) >= 0 for p in (point, before))
        if inside != was_inside:
            share = (bound - before[axis]) / (point[axis] - before[axis])
            crossing = [before[i] + share * (point[i] - before[i]) for i in (0, 1)]
            crossing[axis] = bound
            kept.append((crossing[0], crossing[1]))
        if inside:
            kept.append(point)
    return kept


def _outline(polygon: Sequence[float]) -> float:
    """Return the length of the edges."""
    points = list(zip(polygon[0::2], polygon[1::2], strict=True))
    return sum(math.dist(one, other) for one, other in zip(points, [*points[1:], *points[:1]], strict=True))


def _read_counts(code: str) -> list[int] | None:
    """Return the counts of a compressed run-length code, None where it is none.

    Each count is a number in base 32, its last digit first, as the difference from the last but one from the fourth on;
    character 48 + digit, plus 32 where another digit follows, and the sign is that of the last digit's highest bit.
    """
    counts: list[int] = []
    value = shift = 0
    for character in code:
        digit = ord(character) - 48
        if not 0 <= digit < 64 or shift > 60:
            return None
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:
            continue
        if digit & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    return counts if not shift else None


def _mask_tools() -> Any:
    try:
        from faster_coco_eval.core import mask
    except ImportError as error:
        raise ImportError(
            'masks need faster-coco-eval; install it with: pip install "involution[detection]"'
        ) from error
    return mask
