"""Annotations in COCO's format: read, checked as a whole, and refused in one sentence where they are wrong."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError, InvolutionWarning
from ..files import read_json, stays_inside
from ..schema import shown
from .masks import decode_mask, encode_mask, find_mask_problem, is_coordinate, is_id

__all__ = ["CocoFile", "ImageEntry", "decode_mask", "encode_mask", "read_coco"]


# Of the masks of an image together, which training holds at once, and resizes as numbers of four bytes.
_MOST_PIXELS = 2**29
# Of an image, for training compares every one with every place of the image at once. The fullest of COCO's has 93.
_MOST_OBJECTS = 20_000

# Bytes of a name and of a path in the usual file systems.
_LONGEST_NAME, _LONGEST_PATH = 255, 4096


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
        content = read_json(path)
    except FileNotFoundError as error:
        raise DataError(f"there are no annotations at {path}; expected a JSON file in COCO's format") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}; repair it or export it anew") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(f"{path} is not in COCO's format: expected an object with a list {key!r}")
    categories: dict[int, str] = {}
    for entry in content["categories"]:
        if not isinstance(entry, dict) or not is_id(entry.get("id")) or "name" not in entry:
            raise DataError(f"{path} has a category without an integer id and a name: {_short(entry)}")
        if not (_is_text(entry["name"]) or is_id(entry["name"])):
            raise DataError(f"{path} has a category whose name is no text: {shown(entry['name'])}")
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
    _refuse_doubled_images(path, images)
    if not images:
        raise DataError(f"{path} lists no images; expected at least one")
    objects: dict[int, list[Mapping[str, Any]]] = {}
    for entry in content["annotations"]:
        problem = _problem(entry, images, categories, masks)
        if problem:
            raise DataError(f"{path}: annotation {_short(entry)} {problem}")
        objects.setdefault(entry["image_id"], []).append(entry)
    _judge_equal_names(path, categories, {entry["category_id"] for entries in objects.values() for entry in entries})
    for image_id, entries in objects.items():
        if len(entries) > _MOST_OBJECTS:
            raise DataError(
                f"{path}: image {image_id} has {len(entries):,} objects, more than the {_MOST_OBJECTS:,} that are compared "
                "with an image at once; cut the image into parts"
            )
    for image_id, entries in objects.items() if masks else ():
        pixels = len(entries) * images[image_id].width * images[image_id].height
        if pixels > _MOST_PIXELS:
            raise DataError(
                f"{path}: the {len(entries):,} masks of image {image_id} would have {pixels:,} pixels, more than the "
                f"{_MOST_PIXELS:,} that are read; cut the image into parts"
            )
    return CocoFile(
        path,
        tuple(images.values()),
        {image_id: tuple(entries) for image_id, entries in objects.items()},
        dict(sorted(categories.items())),
    )


def _refuse_doubled_images(path: Path, images: Mapping[int, ImageEntry]) -> None:
    """Refuse two entries of one file, whose objects would be background in each other's.

    Raises:
        DataError: there are two.
    """
    seen: dict[Path, int] = {}
    for image in images.values():
        # Two spellings of a path, as ``./a.jpg`` and ``a.jpg``, are one file.
        other = seen.setdefault(Path(image.file_name), image.id)
        if other != image.id:
            raise DataError(
                f"{path} lists the file {shown(image.file_name)} as two images, {other} and {image.id}; give all objects of a "
                "file the id of one image, and remove the other"
            )


def _judge_equal_names(path: Path, categories: Mapping[int, str], used: set[int]) -> None:
    """Refuse two categories of one name that both have objects, and warn where one has none, as many an export does.

    Raises:
        DataError: there are two that both have objects.
    """
    seen: dict[str, int] = {}
    for id, name in categories.items():
        other = seen.setdefault(name, id)
        if other == id:
            continue
        words = f"{path} has two categories of the name {shown(name)}, {other} and {id}"
        if {other, id} <= used:
            raise DataError(f"{words}, and objects of both; give all objects of a kind the id of one, or rename one")
        warnings.warn(f"{words}: they are two classes; remove or rename one", InvolutionWarning, stacklevel=3)


def _image(path: Path, entry: Any) -> ImageEntry:
    if not isinstance(entry, dict):
        raise DataError(f"{path} has an image that is no object: {_short(entry)}")
    wrong = [key for key in ("id", "width", "height") if not is_id(entry.get(key))]
    if wrong or min(entry["width"], entry["height"]) < 1 or not _is_file_name(entry.get("file_name")):
        raise DataError(
            f"{path}: image {_short(entry)} needs an integer id, a file_name that a file can have, and width and height of "
            "at least 1 pixel"
        )
    if not stays_inside(entry["file_name"]):
        raise DataError(
            f"{path}: image {_short(entry)} lies outside the folder of the images: file_name {shown(entry['file_name'])}; "
            "put it there, and name it from that folder on"
        )
    return ImageEntry(*(entry[key] for key in ("id", "file_name", "width", "height")))


def _problem(entry: Any, images: Mapping[int, ImageEntry], categories: Mapping[int, str], masks: bool) -> str:
    """Say what is wrong with an annotation, nothing if it is right."""
    if not isinstance(entry, dict):
        return "is no object"
    image_id: Any = entry.get("image_id")
    category_id: Any = entry.get("category_id")
    if not is_id(image_id) or image_id not in images:
        return f"belongs to an image that is not listed: image_id {_short(image_id)}"
    if not is_id(category_id) or category_id not in categories:
        return f"has a category that is not listed: category_id {_short(category_id)}"
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(is_coordinate(value) for value in box):
        return f"needs a bbox of four finite numbers [x, y, width, height], got {_short(box)}"
    if not is_coordinate(entry.get("area", 0)):
        return f"has an area that is no finite number: {_short(entry['area'])}"
    image = images[image_id]
    return find_mask_problem(entry.get("segmentation"), image.height, image.width) if masks else ""


def _is_file_name(value: Any) -> bool:
    """Whether a file may be called so: text, not empty, and no part longer than file systems take."""
    try:
        name = os.fsencode(value) if isinstance(value, str) else b""
    except UnicodeEncodeError:
        return False
    is_short = len(name) < _LONGEST_PATH and all(len(part) <= _LONGEST_NAME for part in name.split(b"/"))
    return bool(name) and b"\0" not in name and is_short


def _is_text(value: Any) -> bool:
    """Whether a value is text that can be printed and written."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def _short(entry: Any) -> str:
    if isinstance(entry, dict) and is_id(entry.get("id")):
        return str(entry["id"])
    return shown(entry)
