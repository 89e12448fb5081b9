"""Image files: the one place where they are found, opened, made upright and of 8 bits, and where they are written."""

from __future__ import annotations

import ctypes
import os
import stat
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from PIL import ExifTags, Image

from ..errors import DataError, InvolutionWarning, in_one_line
from ..files import replaced

__all__ = [
    "ImageSearch",
    "decode_image",
    "find_images",
    "image_endings",
    "is_hidden",
    "kind_of",
    "read_image",
    "read_size",
    "write_png",
]

# What is opened: pictures of pixels. Pillow also knows formats that another program draws, and some without a mark.
_FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
# How Pillow calls a PPM of floating-point numbers, which `read_image` refuses.
_FLOATING = ".pfm"
# Of what is passed over in a folder, each by a sentence, or by its ending.
_NAMED = 5
# Folders that a storage server and an archive from a Mac hold beside the images: thumbnails and remains.
_HIDDEN = ("@eaDir", "__MACOSX")
# What lies beside images in many a data set, and is not meant as one.
_COMPANIONS = (".csv", ".ini", ".json", ".md", ".txt", ".xml", ".yaml", ".yml", "thumbs.db")
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode_image(
    source: str | Path | BinaryIO, *, name: str | None = None, expected: str | None = "an image"
) -> Image.Image:
    """Read an image file, upright by what its EXIF data say; of several frames the first, which a warning says.

    Whatever is to be refused or treated for all images alike belongs here and in `read_image`.

    Args:
        source: path, or an open file.
        name: what a refusal calls it, the path by default.
        expected: what a refusal says it cannot be read as.

    Returns:
        The image in the mode of the file.

    Raises:
        DataError: it is missing, no regular file, damaged, of a format that is not read, or has more pixels than
            ``PIL.Image.MAX_IMAGE_PIXELS``; the message names it.
    """
    return _read(source, name, expected, decode=True)[0]


def read_image(
    source: str | Path | BinaryIO,
    mode: Literal["RGB", "L"] = "RGB",
    *,
    name: str | None = None,
    expected: str | None = "an image",
) -> Image.Image:
    """Read an image in colour or in grey, 8 bits a channel; for the rest see `decode_image`.

    Of 16 bits the upper 8 are taken. Pixels of 32 bits and floating-point numbers, whose range no file says, are refused.
    """
    image, container = _read(source, name, expected, decode=True)
    if image.mode.startswith("I;16") or (image.mode == "I" and container in ("PNG", "PPM")):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        kind = "whole numbers of 32 bits" if image.mode == "I" else "floating-point numbers"
        raise DataError(
            f"the pixels of {name or source} are {kind}, whose range is not known; scale and save them with 8 or 16 bits"
        )
    try:
        return image.convert(mode)
    except ValueError as error:
        raise _unreadable(name or source, expected, error) from error


def read_size(source: str | Path, *, verify: bool = False, expected: str = "an image") -> tuple[int, int]:
    """Return width and height of the upright image from the head of a file, or with ``verify`` after reading all of it."""
    if verify:
        return read_image(source, expected=expected).size
    image, container = _read(source, None, expected, decode=False)
    width, height = image.size
    return (height, width) if _orientation(image, container) >= 5 else (width, height)


@cache
def image_endings() -> tuple[str, ...]:
    """Return how the names of files end that are looked for in folders: those of all formats that are read here."""
    # The reader of JPEG opens MPO, which has none of its own.
    formats = (*_formats(), "MPO")
    return tuple(sorted(ending for ending, name in Image.EXTENSION.items() if name in formats and ending != _FLOATING))


def find_images(folder: Path) -> list[Path]:
    """Return the image files in a folder and in the folders inside, sorted by folder and name; none where it is missing.

    What is left out is said, see `ImageSearch`.
    """
    search = ImageSearch(folder)
    found = search.find(folder)
    search.say_what_is_left_out()
    return found


class ImageSearch:
    """A search for image files in folders, which says at its end what it left out.

    What is named like an image and is none (a folder, a pipe, a device, a broken link) is passed over, and never opened.
    So is what is hidden, see `is_hidden`, and what does not end as images do.

    Args:
        root: what the warnings call the place of all that is searched.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._endings = image_endings()
        self._no_files: list[str] = []
        self._hidden: list[str] = []
        self._others: Counter[str] = Counter()

    def find(self, folder: Path) -> list[Path]:
        """Return the image files in a folder and in the folders inside, sorted by folder and name; none where it is missing."""
        found: list[str] = []
        seen: set[tuple[int, int]] = set()
        folders = [folder] if folder.is_dir() else []
        while folders:
            here = folders.pop()
            identity = os.stat(here)
            # A link may lead back to a folder above.
            if (identity.st_dev, identity.st_ino) in seen:
                continue
            seen.add((identity.st_dev, identity.st_ino))
            with os.scandir(here) as entries:
                for entry in entries:
                    if is_hidden(entry.name):
                        self.pass_over(entry.path)
                    elif not entry.name.lower().endswith(self._endings):
                        if _is_kind(entry.is_dir):
                            folders.append(Path(entry.path))
                        elif not entry.name.lower().endswith(_COMPANIONS) and _is_kind(entry.is_file):
                            self._others[Path(entry.name).suffix.lower() or "none"] += 1
                    elif _is_kind(entry.is_file):
                        found.append(entry.path)
                    else:
                        self._no_files.append(entry.path)
        return [Path(path) for path in sorted(found, key=os.path.split)]

    def pass_over(self, path: str | Path) -> None:
        """Leave out a hidden file or folder, of which nothing is said where it holds no image."""
        # Links are not followed, and folders that may not be read are passed over as well.
        inside = [os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names]
        files = inside if os.path.isdir(path) else [str(path)]
        self._hidden += [file for file in files if file.lower().endswith(self._endings)]

    def say_what_is_left_out(self) -> None:
        """Warn of what might have been meant as images: one sentence for each reason, but for the first few that are no files."""
        said = [f"{path} is passed over: it is no file" for path in self._no_files[:_NAMED]]
        if len(self._no_files) > _NAMED:
            said.append(f"{len(self._no_files) - _NAMED} more in {self.root} are passed over: they are no files")
        if self._hidden:
            said.append(
                f"hidden images in {self.root} are passed over ({len(self._hidden)}), such as {self._hidden[0]}; where they "
                f"are meant, give them and their folders names without a dot at the beginning"
            )
        if self._others:
            endings = ", ".join(f"{ending} ({count})" for ending, count in self._others.most_common(_NAMED))
            more = ", …" if len(self._others) > _NAMED else ""
            said.append(
                f"files in {self.root} are left out, for they do not end as images that are read do: "
                f"{endings}{more}; where they are images, save them as .jpg or .png"
            )
        for words in said:
            warnings.warn(words, InvolutionWarning, stacklevel=2)


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name belongs to a program that works behind the user's back."""
    return name.startswith(".") or name in _HIDDEN


def _is_kind(question: Callable[[], bool]) -> bool:
    """Ask an entry of a folder what it is; most know without a look at the file. A link in a circle is nothing."""
    try:
        return question()
    except OSError:
        return False


def write_png(image: Image.Image, path: Path) -> None:
    """Write an image as PNG, whole or not at all."""
    with replaced(path) as file:
        image.save(file, format="PNG")


def _read(
    source: str | Path | BinaryIO, name: str | None, expected: str | None, *, decode: bool
) -> tuple[Image.Image, str]:
    """Return the image, upright where it is decoded, and the format of the file."""
    called = name or str(source)
    try:
        kind = kind_of(source) if isinstance(source, (str, Path)) else ""
        if kind:
            raise ValueError(f"it is {kind}")
        with Image.open(source, formats=_formats()) as image:
            container = image.format or ""
            if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:
                raise ValueError(
                    f"its {image.width:,} × {image.height:,} pixels are more than the {Image.MAX_IMAGE_PIXELS:,} that are "
                    "read (PIL.Image.MAX_IMAGE_PIXELS)"
                )
            if not decode:
                return image, container
            # Of the formats in which frames follow one another; in an MPO the others are thumbnails and depths.
            if container != "MPO" and getattr(image, "is_animated", False):
                _say_that_it_has_frames(called)
            orientation = _orientation(image, container)
            if container == "TIFF":
                _silence_libtiff()
            image.load()
            return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image, container
    except FileNotFoundError as error:
        raise DataError(f"there is no image at {called}") from error
    except Exception as error:
        # Damaged files make the decoders raise anything.
        raise _unreadable(called, expected, error) from error


def kind_of(path: str | Path) -> str:
    """Say what a path leads to that is no regular file, such as ``"a pipe"``; nothing of a file.

    Raises:
        FileNotFoundError: it leads nowhere.
        OSError: it cannot be looked at.
    """
    mode = os.stat(path).st_mode
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return "" if stat.S_ISREG(mode) else kinds.get(stat.S_IFMT(mode), "a device")


def _unreadable(called: object, expected: str | None, error: Exception) -> DataError:
    kind = f" as {expected}" if expected else ""
    return DataError(f"{called} cannot be read{kind}: {in_one_line(error)}; repair or remove it")


@cache
def _formats() -> tuple[str, ...]:
    """Return those that this Pillow was built with."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


@cache
def _silence_libtiff() -> None:
    """Let libtiff print nothing of a damaged file, of which the refusal tells; Pillow has no option for that.

    Its function is found among the libraries that Pillow's own one was linked with; one that contains it prints on.
    """
    with suppress(OSError, AttributeError):
        set_handler = ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler
        set_handler.argtypes, set_handler.restype = [ctypes.c_void_p], ctypes.c_void_p
        set_handler(None)


def _orientation(image: Image.Image, container: str) -> int:
    """Return EXIF's number, 1 for upright."""
    # Pillow turns TIFF itself, and would decode a whole PNG to look for data behind its pixels.
    if container == "TIFF" or (container == "PNG" and "exif" not in image.info):
        return 1
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:
        # Broken data about an image leave the image as it is.
        return 1
    return value if isinstance(value, int) else 1


# Frames are told of once a process: a data set may be full of such images.
_told = False


def _say_that_it_has_frames(name: str) -> None:
    global _told
    if not _told:
        _told = True
        words = f"{name} has several frames, of which the first is read, as of every further such image"
        warnings.warn(words, InvolutionWarning, stacklevel=2)
