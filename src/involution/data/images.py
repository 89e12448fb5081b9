"""Image files: the one place where they are opened, for every data set and every command, and where they are written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal

from PIL import Image

from ..errors import DataError
from ..files import replaced

__all__ = ["open_image", "read_image", "read_size", "write_png"]


@contextmanager
def open_image(
    source: str | Path | BinaryIO, *, name: str | None = None, expected: str | None = "an image"
) -> Iterator[Image.Image]:
    """Open an image file; what is wrong with it shows here, or in the block, where its pixels are read.

    Whatever is to be refused or treated for all images alike (their size, depth or orientation) belongs here.

    Args:
        source: path, or an open file.
        name: what a refusal calls it, the path by default.
        expected: what a refusal says it cannot be read as.

    Raises:
        DataError: it is missing or cannot be read; the message names it.
    """
    try:
        with Image.open(source) as image:
            yield image
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"there is no image at {name or source}") from error
    except (OSError, SyntaxError, ValueError) as error:
        kind = f" as {expected}" if expected else ""
        raise DataError(f"{name or source} cannot be read{kind}: {error}; repair or remove it") from error


def read_image(
    source: str | Path | BinaryIO,
    mode: Literal["RGB", "L"] = "RGB",
    *,
    name: str | None = None,
    expected: str | None = "an image",
) -> Image.Image:
    """Read an image in colour or in grey; for the rest see `open_image`."""
    with open_image(source, name=name, expected=expected) as image:
        return image.convert(mode)


def read_size(source: str | Path, *, verify: bool = False, expected: str = "an image") -> tuple[int, int]:
    """Return width and height from the head of a file, or with ``verify`` after reading all of it."""
    with open_image(source, expected=expected) as image:
        if verify:
            image.load()
        return image.size


def write_png(image: Image.Image, path: Path) -> None:
    """Write an image as PNG, whole or not at all."""
    with replaced(path) as file:
        image.save(file, format="PNG")
