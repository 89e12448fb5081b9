"""Label images: which value means which class, and the refusals of files that do not fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import DataError
from ..files import read_json, read_text
from ..schema import find_problem
from .images import decode_image

__all__ = ["IGNORE", "MASK_EXAMPLE", "ClassTable", "find_classes", "read_labels"]

# What a pixel without a class has in the tensors: no class, no loss, no metric.
IGNORE = 255

Colour = tuple[int, int, int]

# A class file for binary masks as most programs write them, where 255 is a class.
MASK_EXAMPLE = '{"classes": {"background": 0, "cell": 255}}'

_EXAMPLE = '{"classes": ["road", "sky"], "ignore_index": 255}'
_FORMS = f"expected a text file with one class name a line, or JSON such as {_EXAMPLE}"
# What of a class file is looked at before anything is made of it; names, values and colours are those of a table.
_FORM = {"classes": (dict, list), "palette?": (None, [[int]]), "ignore_index?": (int, list)}


def _colour(number: int) -> Colour:
    """Return a colour of Pascal VOC's map, whose neighbours differ as much as possible."""
    red = green = blue = 0
    for bit in range(7, -1, -1):
        red |= (number & 1) << bit
        green |= (number >> 1 & 1) << bit
        blue |= (number >> 2 & 1) << bit
        number >>= 3
    return red, green, blue


@dataclass(frozen=True)
class ClassTable:
    """The classes of a segmentation: their names, their values in label images, their colours.

    Attributes:
        names: in the order of the outputs of a net.
        values: of each class in a label image, 0 to 255.
        ignored: values of pixels that belong to no class; 255 does as well, unless it is the value of one.
        colours: red, green and blue of each class; those of Pascal VOC from the second on where none are given.
        ignored_colours: of pixels that belong to no class; black does as well, unless it is the colour of one.
        has_palette: whether colours were given, which label images may have then.
    """

    names: tuple[str, ...]
    values: tuple[int, ...] = ()
    ignored: tuple[int, ...] = ()
    colours: tuple[Colour, ...] = ()
    ignored_colours: tuple[Colour, ...] = ()
    has_palette: bool = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "has_palette", bool(self.colours))
        if not self.values:
            object.__setattr__(self, "values", tuple(range(len(self.names))))
        if not self.colours:
            object.__setattr__(self, "colours", tuple(_colour(i + 1) for i in range(len(self.names))))
        problem = _problem(self)
        if problem:
            raise ValueError(problem)

    @classmethod
    def read(cls, path: Path) -> ClassTable:
        """Read a class file.

        Args:
            path: a text file with one name a line, the first for value 0; or JSON with the keys ``classes`` (a list
                of names, or an object from name to value), and optionally ``palette`` (colours in the same order) and
                ``ignore_index`` (one value, or a list). A name whose value is ignored is no class.

        Raises:
            DataError: the file is missing or does not say what the classes are.
        """
        is_json = path.suffix.lower() == ".json"
        if not path.exists():
            other = path.with_suffix(".txt" if is_json else ".json")
            remedy = f"there is {other}, which --data.classes {other.name} takes" if other.exists() else _FORMS
            raise DataError(f"there is no {path}; {remedy}")
        try:
            content = read_json(path) if is_json else read_text(path).splitlines()
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read as a class file: {error}; {_FORMS}") from error
        try:
            return cls._of(content)
        except (TypeError, ValueError) as error:
            raise DataError(
                f"{path} does not describe classes: {error}; correct it, such as to {_EXAMPLE}, see docs/segmentation.md"
            ) from error

    @classmethod
    def _of(cls, content: Any) -> ClassTable:
        if isinstance(content, list):
            lines = [line.strip() if isinstance(line, str) else line for line in content]
            content = {"classes": [line for line in lines if line != ""]}
        problem = find_problem(content, _FORM)
        if problem:
            raise ValueError(problem)
        classes = content["classes"]
        if not all(isinstance(name, str) for name in classes):
            raise ValueError("classes must be a list of names or an object from name to value")
        values = list(classes.values()) if isinstance(classes, Mapping) else list(range(len(classes)))
        ignored = content.get("ignore_index", ())
        ignored = tuple(ignored) if isinstance(ignored, Sequence) else (ignored,)
        palette = content.get("palette")
        if palette is not None and len(palette) != len(values):
            raise ValueError(f"palette has {len(palette)} colours for {len(values)} classes")
        names = list(classes)
        kept = [i for i, value in enumerate(values) if value not in ignored]
        others = [i for i in range(len(values)) if i not in kept]
        colours: Any = [tuple(colour) for colour in palette or ()]
        return cls(
            tuple(names[i] for i in kept),
            tuple(values[i] for i in kept),
            ignored,
            tuple(colours[i] for i in kept if colours),
            tuple(colours[i] for i in others if colours),
        )

    def lookup(self) -> np.ndarray:
        """Return for each value of a label image the class, `IGNORE`, or -1 for a value that means nothing."""
        table = np.full(256, -1, np.int16)
        table[IGNORE] = IGNORE
        table[list(self.ignored)] = IGNORE
        table[list(self.values)] = range(len(self.names))
        return table

    def label_image(self, classes: np.ndarray) -> Image.Image:
        """Return classes ``(H, W)`` as a palette image whose values are those of the data set."""
        image = Image.fromarray(np.asarray(self.values, np.uint8)[classes], mode="P")
        palette = np.zeros((256, 3), np.uint8)
        palette[list(self.values)] = self.colours
        image.putpalette(palette.tobytes())
        return image

    def to_dict(self) -> dict[str, Any]:
        """Return what the configuration of a saved net keeps, the form of a class file, without what is ignored by colour."""
        return {
            "classes": dict(zip(self.names, self.values, strict=True)),
            "palette": [list(colour) for colour in self.colours],
            "ignore_index": list(self.ignored),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> ClassTable:
        """Return the table that `to_dict` described."""
        return cls._of(dict(content))


def _problem(table: ClassTable) -> str | None:
    if not table.names:
        return "there is no class in it"
    if len(table.names) > 255:
        return f"there are {len(table.names)} classes and a label image has room for 255"
    unprintable = [name for name in table.names if not name.strip() or not name.isprintable()]
    if unprintable:
        return f"the class {unprintable[0][:40]!r} has no name that can be printed"
    doubled = {name for name in table.names if table.names.count(name) > 1}
    if doubled:
        return f"the class {doubled.pop()!r} stands in it twice"
    for value in (*table.values, *table.ignored):
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 255:
            return f"values must be whole numbers from 0 to 255, got {value!r}"
    if len(set(table.values)) < len(table.values):
        return "two classes have the same value"
    if len(table.values) != len(table.names) or len(table.colours) != len(table.names):
        return "names, values and colours must be as many"
    colours = (*table.colours, *table.ignored_colours)
    if any(len(c) != 3 or not all(isinstance(v, int) and 0 <= v <= 255 for v in c) for c in colours):
        return "a colour has three whole numbers from 0 to 255"
    for number, colour in enumerate(table.colours):
        if colour in colours[:number] or colour in table.ignored_colours:
            return f"the class {table.names[number]!r} has the colour {colour} of another one"
    return None


def read_labels(path: Path, table: ClassTable) -> np.ndarray:
    """Read a label image.

    Grey and palette images hold values (of a palette image the colours do not matter). An image in colour holds the colours
    of the class file's palette, black where there is no class; or values as grey, where they are no such colours or the
    class file has no palette.

    Returns:
        uint8 ``(H, W)``: the class of every pixel, `IGNORE` where it has none.

    Raises:
        DataError: the file cannot be read, or holds a value or colour that the class file does not explain.
    """
    return _classes(decode_image(path, expected="a label image"), path, table)


def find_classes(path: Path, table: ClassTable) -> set[int]:
    """Return the classes that occur in a label image, and `IGNORE` where it holds 255 and the table does not name that value.

    Pixels that are ignored because the class file says so, or for their colour, are not in it.

    Raises:
        DataError: as in `read_labels`.
    """
    image = decode_image(path, expected="a label image")
    found = {*np.bincount(_classes(image, path, table).ravel()).nonzero()[0].tolist()} - {IGNORE}
    is_colour = image.mode in ("RGB", "RGBA")
    if IGNORE in (*table.values, *table.ignored) or (is_colour and table.has_palette):
        return found
    values = np.asarray(image.convert("RGB") if is_colour else image)
    return found | {IGNORE} if (values == IGNORE).any() else found


def _classes(image: Image.Image, path: Path, table: ClassTable) -> np.ndarray:
    if image.mode in ("RGB", "RGBA"):
        return _from_colours(np.asarray(image.convert("RGB")), path, table)
    if image.mode in ("1", "L", "P", "I", "I;16", "I;16B"):
        return _from_values(np.asarray(image), path, table)
    raise DataError(
        f"{path} cannot be read as a label image: its mode is {image.mode}, expected grey, palette or RGB; repair or "
        "remove it"
    )


def _from_values(values: np.ndarray, path: Path, table: ClassTable) -> np.ndarray:
    classes = _classes_of_values(values, table)
    wrong = values[classes < 0]
    if wrong.size:
        remedy = "correct it"
        if 0 <= wrong[0] < 256:
            ignored = ", ".join(map(str, (*table.ignored, wrong[0])))
            remedy += (
                "; where it is a class, add it to the class file; where it is none, let a JSON file for data.classes ignore it, "
                f'such as {{"classes": […], "ignore_index": [{ignored}]}}'
            )
        raise _refusal(
            path,
            f"holds the value {wrong[0]} in {wrong.size} of its {values.size} pixels, which is neither one of "
            f"the {len(table.names)} classes (values {_listed(table.values)}) nor ignored",
            remedy,
        )
    return classes.astype(np.uint8)


def _from_colours(pixels: np.ndarray, path: Path, table: ClassTable) -> np.ndarray:
    is_grey = (pixels == pixels[..., :1]).all()
    if not table.has_palette and not is_grey:
        raise _refusal(
            path,
            "is in colour and the class file has no palette",
            "add it, or save label images with one value per class",
        )
    if not table.has_palette:
        return _from_values(pixels[..., 0], path, table)
    classes = _classes_of_colours(pixels, table)
    if is_grey and (classes < 0).any():
        by_value = _classes_of_values(pixels[..., 0], table)
        classes = classes if (by_value < 0).any() else by_value
    wrong = pixels[classes < 0]
    if wrong.size:
        raise _refusal(
            path,
            f"holds the colour {tuple(map(int, wrong[0]))} in {len(wrong)} of its {classes.size} pixels, which "
            "the class file's palette does not have",
            "add it, or save label images with one value per class",
        )
    return classes.astype(np.uint8)


def _refusal(path: Path, problem: str, remedy: str) -> DataError:
    """Return what is said of a label image that the class file does not explain."""
    if path.suffix.lower() in (".jpg", ".jpeg"):
        remedy = "JPEG changes the values of label images; save them as PNG, from the originals"
    return DataError(f"{path} {problem}; {remedy}")


def _classes_of_values(values: np.ndarray, table: ClassTable) -> np.ndarray:
    """Return the class of each value, -1 where it means nothing."""
    values = values.astype(np.int32)
    return np.where((values >= 0) & (values < 256), table.lookup()[values.clip(0, 255)], -1)


def _classes_of_colours(pixels: np.ndarray, table: ClassTable) -> np.ndarray:
    """Return the class of each colour, -1 where it means nothing."""
    packed = pixels.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1])
    classes = np.full(packed.shape, -1, np.int16)
    ignored = [((0, 0, 0), IGNORE), *((colour, IGNORE) for colour in table.ignored_colours)]
    for (red, green, blue), number in (*ignored, *zip(table.colours, range(len(table.colours)), strict=True)):
        classes[packed == red << 16 | green << 8 | blue] = number
    return classes


def _listed(values: Sequence[int]) -> str:
    if list(values) == list(range(values[0], values[0] + len(values))):
        return f"{values[0]} to {values[-1]}" if len(values) > 1 else str(values[0])
    return ", ".join(map(str, values[:12])) + (", …" if len(values) > 12 else "")
