"""Tar shards of images: how they are written, found, checked and read one image after the other.

The format is WebDataset's: files of one sample share their name up to the first dot, ``000017.jpg`` is the image and
``000017.cls`` its label, a whole number in text.
"""

from __future__ import annotations

import glob
import io
import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..errors import DataError, in_one_line
from ..files import replaced
from ..schema import find_problem, shown
from .images import image_endings, read_size

__all__ = ["INDEX", "LEAST_BYTES", "Packed", "Sample", "expand", "find_shards", "pack", "read_index", "read_shard"]

INDEX = "index.json"
# What a file of a sample can have, and the number of names that a pattern can stand for.
_MOST_BYTES, _MOST_NAMES = 2**30, 10**6
# Of a tar file, a quarter of what the smallest sample takes: a truncated shard is told of by who reads it.
LEAST_BYTES = 512


def _no_count(value: Any) -> str:
    is_count = not find_problem(value, int) and value >= 1
    return "" if is_count else f"must be a whole number from 1 on, got {shown(value)}"


_PART = {"images": _no_count, "bytes": dict}
_INDEX = {"train?": _PART, "val?": _PART, "test?": _PART, "classes?": [str]}
_REMEDY = "copy it anew or remove it"


class Sample(NamedTuple):
    """An image of a shard, not decoded yet."""

    image: bytes
    label: int
    name: str


class Packed(NamedTuple):
    """What `pack` wrote of one part."""

    images: int
    shards: tuple[str, ...]


def read_index(root: str) -> dict[str, Any]:
    """Return what `pack` wrote down of the shards in a folder; empty where others made them.

    Raises:
        DataError: it is damaged, none that `pack` wrote, or cannot be reached.
    """
    import fsspec

    _file_system(root)
    try:
        with _reached(root), fsspec.open(f"{root.rstrip('/')}/{INDEX}", "rb") as file:
            content = file.read()
        index = json.loads(content)
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise DataError(f"{root}/{INDEX} is damaged: {error}; {_REMEDY}") from error
    problem = find_problem(index, _INDEX)
    sizes = {} if problem else {part: index[part]["bytes"] for part in ("train", "val", "test") if part in index}
    for part, shards in sizes.items():
        problem = problem or next(filter(None, (find_problem(s, int, f"{part}.bytes") for s in shards.values())), "")
    if problem:
        raise DataError(f"{root}/{INDEX} is none that involution pack wrote: {problem}; {_REMEDY}")
    return index


def _file_system(address: str) -> tuple[Any, str]:
    """Return the file system of an address, and the path in it."""
    import fsspec

    try:
        return fsspec.core.url_to_fs(address)
    except ValueError as error:
        raise DataError(f"{address} is no folder and no address that can be read: {in_one_line(error)}") from error


@contextmanager
def _reached(address: str) -> Iterator[None]:
    """Refuse an address whose server does not answer, or refuses to; the libraries for each raise errors of their own."""
    try:
        yield
    except (DataError, ImportError):
        raise
    except NotADirectoryError as error:
        raise DataError(f"{address} is a file, no folder of shards; name the folder with --data.root") from error
    except Exception as error:
        why: BaseException | None = error
        if isinstance(error, FileNotFoundError):
            # Of a web server that does not answer fsspec says this, too. One that does left its response in the cause.
            cause = error.__cause__
            why = cause if isinstance(cause, OSError) and getattr(cause, "response", None) is None else None
        if "://" not in address or why is None or isinstance(why, FileNotFoundError):
            raise
        raise DataError(
            f"{address} cannot be reached: {in_one_line(why, 200)}; check the address, the network and your access to it, "
            "or copy the shards into a folder and name that"
        ) from error


def expand(pattern: str) -> list[str]:
    """Write out ranges: ``train-{000..002}.tar`` is three names."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if not match:
        return [pattern]
    first, last = match.groups()
    if len(last) > 18 or int(last) - int(first) >= _MOST_NAMES:
        raise DataError(f"the range {shown(match[0])} has more than {_MOST_NAMES:,} names; correct it")
    numbers = (f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1))
    return [name for n in numbers for name in expand(pattern[: match.start()] + n + pattern[match.end() :])]


def find_shards(root: str, pattern: str) -> list[str]:
    """Return the addresses of the shards that a pattern means, sorted.

    Args:
        root: a folder, or an address that fsspec knows, such as ``https://…``, ``hf://datasets/…`` or ``s3://…``.
        pattern: names with wildcards (``train-*.tar``) or, where a server lists no folders, ranges
            (``train-{0000..1023}.tar``).

    Raises:
        DataError: there are none, or the address cannot be reached.
    """
    found: list[str] = []
    for name in expand(pattern):
        address = f"{root.rstrip('/')}/{name}"
        if not re.search(r"[*?\[]", name):
            found.append(address)
            continue
        filesystem, path = _file_system(address)
        local = "file" in filesystem.protocol
        if local:
            # The folder's own name may hold what means something in a pattern.
            path = f"{glob.escape(path.removesuffix(name))}{name}"
        with _reached(address):
            found += [str(p) if local else filesystem.unstrip_protocol(p) for p in filesystem.glob(path)]
    if not found:
        raise DataError(
            f"there is no shard at {root.rstrip('/')}/{pattern}; expected tar files, as involution pack writes them"
        )
    return sorted(found)


def read_shard(shard: str, size: int | None = None) -> Iterator[Sample]:
    """Yield the images of a shard in their order.

    Args:
        shard: path or address of a tar file.
        size: bytes it should have, where that is known.

    Raises:
        DataError: the shard is missing, truncated or damaged, cannot be reached, or a sample has no image or no label.
    """
    import fsspec

    # While it is read, a server's library raises errors of its own; when it is opened, those of files, too, may be a server's.
    with _reached(shard), ExitStack() as stack:
        try:
            with _reached(shard):
                file = stack.enter_context(fsspec.open(shard, "rb"))
            _refuse_truncated(shard, file, size)
            # As a stream: nothing but reading forward, which every server can do.
            tar = stack.enter_context(tarfile.open(fileobj=file, mode="r|"))
            yield from _samples(shard, tar)
        except FileNotFoundError as error:
            raise DataError(f"there is no shard at {shard}") from error
        except (tarfile.TarError, EOFError, OSError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"the shard {shard} is truncated or damaged: {error}; {_REMEDY}") from error


def _refuse_truncated(shard: str, file: Any, size: int | None) -> None:
    """Look at a shard's end before reading it: tarfile takes an archive that breaks off between two files for whole."""
    if not file.seekable():
        return
    actual = file.seek(0, io.SEEK_END)
    if size is not None and actual != size:
        raise DataError(f"the shard {shard} is truncated or damaged: {actual:,} bytes instead of {size:,}; {_REMEDY}")
    file.seek(max(0, actual - 1024))
    if file.read(1024).strip(b"\0") or actual < 1024 or actual % 512:
        raise DataError(
            f"the shard {shard} is truncated: its {actual:,} bytes do not end with the mark of the end of an archive; "
            f"{_REMEDY}"
        )
    file.seek(0)


def _samples(shard: str, tar: tarfile.TarFile) -> Iterator[Sample]:
    key, image, label = None, None, None

    def sample() -> Sample:
        if image is None or label is None:
            lacks = "no image" if image is None else "no .cls file with its label"
            raise DataError(f"the sample {key} of the shard {shard} has {lacks}")
        return Sample(image, label, f"{shard}: {key}")

    for member in tar:
        if not member.isfile():
            continue
        folder, _, base = member.name.rpartition("/")
        stem, _, ending = base.partition(".")
        if (folder, stem) != key:
            if key is not None:
                yield sample()
            key, image, label = (folder, stem), None, None
        if member.issparse():
            # A few bytes that stand for any number of zeros.
            raise DataError(f"{member.name} of the shard {shard} is a sparse file, which no image is; {_REMEDY}")
        if member.size > _MOST_BYTES:
            raise DataError(
                f"{member.name} of the shard {shard} would have {member.size:,} bytes, more than an image can; {_REMEDY}"
            )
        content = tar.extractfile(member)
        if content is None:
            continue
        if ending == "cls":
            text = content.read()
            if not text.strip().isdigit() or len(text) > 18:
                raise DataError(
                    f"{member.name} of the shard {shard} holds no label: expected a number, got {shown(text)}"
                )
            label = int(text)
        elif f".{ending.rpartition('.')[2].lower()}" in image_endings():
            image = content.read()
    if key is None:
        raise DataError(f"the shard {shard} holds no files; {_REMEDY}")
    yield sample()


def pack(samples: Sequence[tuple[str, int]], out: Path, part: str, images_per_shard: int, seed: int | None) -> Packed:
    """Write image files as shards, byte for byte; each shard whole or not at all.

    Args:
        samples: paths and labels.
        out: folder of the shards.
        part: start of their names.
        images_per_shard: how many a full shard holds.
        seed: of the order, None to keep it: neighbours in a shard should not be of one class where it is trained on.

    Raises:
        DataError: a file is no image.
        OSError: a file cannot be read or a shard cannot be written.
    """
    order: Sequence[int] = range(len(samples))
    if seed is not None:
        order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed)).tolist()
    names = []
    for number, start in enumerate(range(0, len(order), images_per_shard)):
        name = f"{part}-{number:05d}.tar"
        with replaced(out / name) as file, tarfile.open(fileobj=file, mode="w") as tar:
            for position, index in enumerate(order[start : start + images_per_shard], start):
                path, label = samples[index]
                # Its head alone: what follows is copied byte for byte, and read when it is trained on.
                read_size(path)
                image = Path(path).read_bytes()
                for ending, content in ((Path(path).suffix.lower(), image), (".cls", str(label).encode())):
                    member = tarfile.TarInfo(f"{position:08d}{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        names.append(name)
    return Packed(len(order), tuple(names))
