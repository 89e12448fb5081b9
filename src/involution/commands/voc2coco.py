"""The command that brings annotations of Pascal VOC, one XML file an image, into COCO's format."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ..errors import CommandError
from ..files import read_text, stays_inside, write_atomically
from ..schema import shown
from .output_files import refuse_overwriting


def voc2coco(
    annotations: Path,
    out: Path,
    *,
    names: Path | None = None,
    classes: list[str] | None = None,
    keep_difficult: bool = False,
) -> None:
    """Write the boxes of a folder of Pascal VOC's XML files as one JSON file in COCO's format.

    Args:
        annotations: folder of the XML files.
        out: JSON file to write.
        names: text file with one image name a line, such as ``ImageSets/Main/train.txt``; all XML files by default. A
            second column of 1, 0 or -1, as lists of one class have, is passed over.
        classes: names of the classes in the order of their ids, which start at 1; by default all that occur, sorted.
            Give them for the parts of one data set, so that their ids agree.
        keep_difficult: treat objects marked difficult as any other; by default they are crowds, which training leaves
            out and evaluation neither asks for nor punishes.
    """
    files = _files(annotations, names)
    refuse_overwriting([out], [*files, *([names] if names else [])], "name another file to write")
    read = [_read(file) for file in files]
    _refuse_doubled_images(files, [image["file_name"] for image, _ in read])
    occurring = sorted({entry["class"] for _, objects in read for entry in objects})
    if classes and len(set(classes)) < len(classes):
        raise CommandError(f"--classes names a class twice, so that it is open which id it has: {', '.join(classes)}")
    unknown = sorted(set(occurring) - set(classes)) if classes else []
    if unknown:
        raise CommandError(f"{annotations} has classes that --classes does not name: {', '.join(unknown)}")
    ids = {name: i for i, name in enumerate(classes or occurring, 1)}
    images: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    for image_id, (image, objects) in enumerate(read, 1):
        images.append({"id": image_id, **image})
        for entry in objects:
            x, y, width, height = entry["bbox"]
            boxes.append(
                {
                    "id": len(boxes) + 1,
                    "image_id": image_id,
                    "category_id": ids[entry["class"]],
                    "bbox": [x, y, width, height],
                    "area": width * height,
                    "iscrowd": int(entry["difficult"] and not keep_difficult),
                    "segmentation": [],
                }
            )
    categories = [{"id": i, "name": name} for name, i in ids.items()]
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, json.dumps({"images": images, "annotations": boxes, "categories": categories}))
    print(f"{len(images)} images with {len(boxes)} boxes of {len(ids)} classes written to {out}")


def _files(annotations: Path, names: Path | None) -> list[Path]:
    if names is None:
        files = sorted(file for file in annotations.glob("*.xml") if file.is_file())
        if not files:
            raise CommandError(f"there are no XML files in {annotations}")
        return files
    try:
        lines = read_text(names).split("\n")
        if "\0" in "".join(lines):
            raise ValueError("it is no text")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise CommandError(f"{names} cannot be read: {reason}; expected one image name a line") from error
    files = [_annotation_file(line.strip(), annotations) for line in lines if line.strip()]
    doubled = next((file for file, count in Counter(files).items() if count > 1), None)
    if doubled is not None:
        raise CommandError(f"{names} names {doubled.stem} more than once; remove all lines of it but one")
    missing = [file for file in files if not file.is_file()]
    if missing or not files:
        raise CommandError(f"{names} names images without annotations: {missing[0] if missing else 'none at all'}")
    return files


def _annotation_file(line: str, annotations: Path) -> Path:
    """Return the XML file of the image that a line names; names may have spaces, and even end like a second column."""
    whole = annotations / f"{Path(line).name}.xml"
    without_column = re.sub(r"\s+(1|0|-1)$", "", line)
    return whole if whole.is_file() else annotations / f"{Path(without_column).name}.xml"


def _refuse_doubled_images(files: list[Path], images: list[str]) -> None:
    """Refuse two files that name one image, as copied annotations do.

    Raises:
        CommandError: there are two.
    """
    seen: dict[Path, Path] = {}
    for file, image in zip(files, images, strict=True):
        other = seen.setdefault(Path(image), file)
        if other is not file:
            raise CommandError(
                f"{other} and {file} both name the image {image}; correct the filename of one, or remove it"
            )


def _read(file: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    try:
        root = ElementTree.parse(file).getroot()
    except (ElementTree.ParseError, OSError, LookupError, ValueError) as error:
        # The last two of an encoding that Python does not know, or that XML's parser cannot use.
        raise CommandError(f"{file} cannot be read as XML: {error}") from error
    width, height = (int(_number(root, f"size/{side}", file)) for side in ("width", "height"))
    if min(width, height) < 1:
        raise CommandError(f"{file} says that its image is {width} pixels wide and {height} high; correct it")
    name = _text(root, "filename") or f"{file.stem}.jpg"
    if not stays_inside(name):
        raise CommandError(
            f"{file} names an image outside the folder of the images: {shown(name)}; correct its filename"
        )
    image = {"file_name": name, "width": width, "height": height}
    return image, list(_objects(root, file))


def _objects(root: ElementTree.Element, file: Path) -> Iterator[dict[str, Any]]:
    for entry in root.findall("object"):
        left, top, right, bottom = (_number(entry, f"bndbox/{key}", file) for key in ("xmin", "ymin", "xmax", "ymax"))
        name = _text(entry, "name")
        if not name:
            raise CommandError(f"{file} has an object without a name")
        if right < left or bottom < top:
            raise CommandError(
                f"{file} has a box that ends before it begins: x from {left:g} to {right:g}, y from {top:g} to {bottom:g}; "
                "correct it"
            )
        # Pascal VOC counts pixels from 1 and includes the last one.
        box = [left - 1, top - 1, right - left + 1, bottom - top + 1]
        yield {"class": name, "bbox": box, "difficult": _text(entry, "difficult") == "1"}


def _text(element: ElementTree.Element, path: str) -> str:
    """Return a text without the spaces and lines that set it apart from its marks; nothing where it is missing."""
    return (element.findtext(path) or "").strip()


def _number(element: ElementTree.Element, path: str, file: Path) -> float:
    text = _text(element, path)
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    # Pixels: no image has more, and what follows is whole arithmetic.
    if not abs(number) < 2**31:
        raise CommandError(f"{file} needs a number in {path}, got {shown(element.findtext(path))}")
    return number
