"""Annotations in COCO's format: read, checked as a whole, and refused in one sentence where they are wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import DataError

__all__ = ["CocoFile", "ImageEntry", "decode_mask", "encode_mask", "read_coco"]


@dataclass(frozen=True)
class ImageEntry:
    """An image of an annotation file: its id, file name and size in pixels."""

    id: int
    file_name: str
    width: int
    height: int


@dataclass(frozen=True)
class CocoFile:
    """What an annotation file says.

    Attributes:
        path: of the file.
        images: in the order of the file.
        objects: annotations by image id, in the order of the file.
        categories: names by id, sorted by id.
    """

    path: Path
    images: tuple[ImageEntry, ...]
    objects: Mapping[int, tuple[Mapping[str, Any], ...]]
    categories: Mapping[int, str]


def read_coco(path: str | Path, *, masks: bool = False) -> CocoFile:
    """Read and check a file in COCO's format for boxes and instances.

    Args:
        path: of the JSON file.
        masks: whether every annotation has to have a segmentation.

    Raises:
        DataError: the file is missing, no JSON, or inconsistent; the message names the first entry that is wrong.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"there are no annotations at {path}; expected a JSON file in COCO's format") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}; repair it or export it anew") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(f"{path} is not in COCO's format: expected an object with a list {key!r}")
    categories: dict[int, str] = {}
    for entry in content["categories"]:
        if not isinstance(entry, dict) or not isinstance(entry.get("id"), int) or "name" not in entry:
            raise DataError(f"{path} has a category without an integer id and a name: {_short(entry)}")
        if entry["id"] in categories:
            raise DataError(f"{path} has two categories with the id {entry['id']}; give each its own")
        categories[entry["id"]] = str(entry["name"])
    if not categories:
        raise DataError(f"{path} names no categories; expected at least one")
    images: dict[int, ImageEntry] = {}
    for entry in content["images"]:
        image = _image(path, entry)
        if image.id in images:
            raise DataError(f"{path} has two images with the id {image.id}; give each its own")
        images[image.id] = image
    if not images:
        raise DataError(f"{path} lists no images; expected at least one")
    objects: dict[int, list[Mapping[str, Any]]] = {}
    for entry in content["annotations"]:
        problem = _problem(entry, images, categories, masks)
        if problem:
            raise DataError(f"{path}: annotation {_short(entry)} {problem}")
        objects.setdefault(entry["image_id"], []).append(entry)
    return CocoFile(
        path,
        tuple(images.values()),
        {image_id: tuple(entries) for image_id, entries in objects.items()},
        dict(sorted(categories.items())),
    )


def _image(path: Path, entry: Any) -> ImageEntry:
    keys = {"id": int, "file_name": str, "width": int, "height": int}
    if not isinstance(entry, dict):
        raise DataError(f"{path} has an image that is no object: {_short(entry)}")
    wrong = [key for key, kind in keys.items() if not isinstance(entry.get(key), kind)]
    if wrong or min(entry["width"], entry["height"]) < 1:
        raise DataError(
            f"{path}: image {_short(entry)} needs an integer id, a file_name, and width and height of at least 1 pixel"
        )
    return ImageEntry(*(entry[key] for key in keys))


def _problem(entry: Any, images: Mapping[int, ImageEntry], categories: Mapping[int, str], masks: bool) -> str:
    """Say what is wrong with an annotation, nothing if it is right."""
    if not isinstance(entry, dict):
        return "is no object"
    if entry.get("image_id") not in images:
        return f"belongs to an image that is not listed: image_id {entry.get('image_id')!r}"
    if entry.get("category_id") not in categories:
        return f"has a category that is not listed: category_id {entry.get('category_id')!r}"
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(_is_finite(value) for value in box):
        return f"needs a bbox of four finite numbers [x, y, width, height], got {box!r}"
    if not _is_finite(entry.get("area", 0)):
        return f"has an area that is no finite number: {entry['area']!r}"
    return _segmentation_problem(entry.get("segmentation"), images[entry["image_id"]]) if masks else ""


def _segmentation_problem(segmentation: Any, image: ImageEntry) -> str:
    if not segmentation:
        return "has no segmentation, which masks need; train a detector of boxes, or leave it out"
    if isinstance(segmentation, list):
        for polygon in segmentation:
            right = isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0
            if not right or not all(_is_finite(value) for value in polygon):
                return f"has a polygon that is no list of at least three points x, y: {_short(polygon)}"
        return ""
    if not isinstance(segmentation, dict) or not {"size", "counts"} <= segmentation.keys():
        return "has a segmentation that is neither polygons nor a run-length code with size and counts"
    if list(segmentation["size"]) != [image.height, image.width]:
        return f"has a mask of size {segmentation['size']}, its image is {image.height} high and {image.width} wide"
    counts = segmentation["counts"]
    if isinstance(counts, list) and sum(counts) != image.height * image.width:
        return f"has a run-length code of {sum(counts)} pixels, its image has {image.height * image.width}"
    return ""


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _short(entry: Any) -> str:
    if isinstance(entry, dict) and "id" in entry:
        return str(entry["id"])
    text = repr(entry)
    return text if len(text) <= 60 else text[:57] + "…"


def decode_mask(segmentation: Any, height: int, width: int) -> Tensor:
    """Return polygons or a run-length code (a list of counts or COCO's compressed string) as uint8 ``(H, W)``."""
    rle = _mask_tools().frPyObjects(segmentation, height, width) if _needs_encoding(segmentation) else segmentation
    if isinstance(rle, list):
        rle = _mask_tools().merge(rle)
    return torch.from_numpy(_mask_tools().decode(rle)).view(height, width)


def encode_mask(mask: Tensor) -> dict[str, Any]:
    """Return a mask ``(H, W)`` as COCO's compressed run-length code, in values that JSON can hold."""
    import numpy as np

    rle = _mask_tools().encode(np.asfortranarray(mask.to(torch.uint8).numpy()))
    return {"size": [int(n) for n in rle["size"]], "counts": rle["counts"].decode("ascii")}


def _needs_encoding(segmentation: Any) -> bool:
    return isinstance(segmentation, Sequence) or isinstance(segmentation["counts"], list)


def _mask_tools() -> Any:
    try:
        from faster_coco_eval.core import mask
    except ImportError as error:
        raise ImportError(
            'masks need faster-coco-eval; install it with: pip install "involution[detection]"'
        ) from error
    return mask
