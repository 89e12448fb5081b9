"""Small image sets read whole into memory: the digits inside scikit-learn, and MNIST, Fashion-MNIST and CIFAR-10."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import DataError

__all__ = ["DATASETS", "ImageSet", "find_data_root", "find_folder", "load", "named_folder", "prepare"]


@dataclass(frozen=True)
class Source:
    """Where a data set comes from.

    Attributes:
        title: its name in print.
        torchvision_class: the class in ``torchvision.datasets`` that reads it, None for the embedded digits.
        classes: what the labels mean.
    """

    title: str
    torchvision_class: str | None
    classes: tuple[str, ...]


_DIGITS = tuple("0123456789")
DATASETS = {
    "digits": Source("handwritten digits", None, _DIGITS),
    "mnist": Source("MNIST", "MNIST", _DIGITS),
    "fashion_mnist": Source(
        "Fashion-MNIST",
        "FashionMNIST",
        ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"),
    ),
    "cifar10": Source(
        "CIFAR-10",
        "CIFAR10",
        ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    ),
}


@dataclass(frozen=True)
class ImageSet:
    """A data set in memory.

    Attributes:
        images: training images, uint8 ``(N, C, H, W)``.
        labels: their classes, int64 ``(N,)``.
        test_images: test images, uint8 ``(M, C, H, W)``.
        test_labels: their classes, int64 ``(M,)``.
    """

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def find_data_root(data_root: str | Path | None = None) -> Path:
    """Return the folder of the data sets: the argument, else the variable ``INVOLUTION_DATA``, else ``data``."""
    return Path(data_root or os.environ.get("INVOLUTION_DATA") or "data")


def named_folder(root: str | Path) -> Path:
    """Return the path that a data set was told, and refuse none at all, which would be the folder that one happens to be in.

    Raises:
        ValueError: it is empty.
    """
    if not str(root):
        raise ValueError("root is empty; name the folder of the data set (. for this one)")
    return Path(root)


def find_folder(root: Path) -> Path:
    """Return ``root``, or where it is relative and not here, that folder in the data root of `find_data_root`.

    Raises:
        DataError: there is neither, or it is no folder.
    """
    places = [root] if root.is_absolute() else [root, find_data_root() / root]
    found = next((place for place in places if place.exists()), None)
    if found is None:
        raise DataError(f"there is no folder {' or '.join(map(str, places))}; name the data set's with --data.root")
    if not found.is_dir():
        raise DataError(f"{found} is a file, no folder; name the data set's folder with --data.root")
    return found


def prepare(name: str, data_root: str | Path | None = None, download: bool = True) -> Path:
    """Make sure that the files of a data set are there and whole; return their folder.

    Args:
        name: a key of `DATASETS`.
        data_root: see `find_data_root`; a set lies in the folder of its name there, in the layout of
            ``torchvision.datasets``.
        download: fetch a set of which a file is missing.

    Raises:
        DataError: a file is missing and cannot be downloaded, or is truncated or damaged.
        ValueError: no data set has this name.
    """
    if name not in DATASETS:
        raise ValueError(f"unknown data set {name!r}; expected one of {', '.join(DATASETS)}")
    folder = find_data_root(data_root) / name
    if name == "digits":
        return folder
    reader = _reader(name)
    missing = [path for path in _files(reader, folder) if not path.is_file()]
    if missing:
        _download(name, reader, folder, missing, download)
    for path in _files(reader, folder):
        _check(path, reader)
    return folder


def load(name: str, data_root: str | Path | None = None, download: bool = True) -> ImageSet:
    """Read a data set into memory, after `prepare`, whose arguments and refusals it shares."""
    folder = prepare(name, data_root, download)
    if name == "digits":
        return _load_digits()
    train, test = _reader(name)(folder, train=True), _reader(name)(folder, train=False)
    image_set = ImageSet(*_tensors(train), *_tensors(test))
    for images, labels, part in (
        (image_set.images, image_set.labels, "training"),
        (image_set.test_images, image_set.test_labels, "test"),
    ):
        if len(images) != len(labels):
            raise DataError(
                f"{folder} holds {len(images)} {part} images but {len(labels)} labels; "
                "delete it and run again to download the set, or copy it anew"
            )
    return image_set


def _reader(name: str) -> Any:
    """Return the class of ``torchvision.datasets`` that reads this set."""
    from torchvision import datasets

    return getattr(datasets, DATASETS[name].torchvision_class or "")


def _load_digits() -> ImageSet:
    """Return the 1,797 digits, a quarter of each class held out, always the same ones."""
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise ImportError('the digits need scikit-learn; install it with: pip install "involution[train]"') from error
    digits = load_digits()
    # Their pixels are whole numbers from 0 to 16.
    images = torch.from_numpy(digits.images * 255 / 16).round().to(torch.uint8).unsqueeze(1)
    labels = torch.from_numpy(digits.target).long()
    train, test = train_test_split(range(len(labels)), test_size=0.25, stratify=digits.target, random_state=0)
    return ImageSet(images[train], labels[train], images[test], labels[test])


def _tensors(dataset: Any) -> tuple[Tensor, Tensor]:
    """Return images (N, C, H, W) and labels (N,) of a torchvision data set that holds its data in memory."""
    images = torch.as_tensor(dataset.data)
    images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
    return images, torch.as_tensor(dataset.targets).long()


def _is_cifar(reader: Any) -> bool:
    return hasattr(reader, "train_list")


def _checksums(reader: Any) -> dict[str, str]:
    """Return the MD5 sums by file name of a set that states them for the files it reads (CIFAR-10)."""
    return dict([*reader.train_list, *reader.test_list, (reader.meta["filename"], reader.meta["md5"])])


def _files(reader: Any, folder: Path) -> Iterator[Path]:
    """Yield the files that the torchvision class ``reader`` opens in ``folder``."""
    if _is_cifar(reader):
        yield from (folder / reader.base_folder / name for name in _checksums(reader))
    else:
        # Archives are listed; what is read are the files inside.
        yield from (folder / reader.__name__ / "raw" / Path(name).stem for name, _ in reader.resources)


def _download(name: str, reader: Any, folder: Path, missing: list[Path], download: bool) -> None:
    reason = "downloading is switched off"
    if download:
        print(f"downloading {DATASETS[name].title} to {folder}", flush=True)
        try:
            # The readers narrate every mirror they try.
            with redirect_stdout(StringIO()):
                reader(folder, download=True)
        except (OSError, RuntimeError) as error:
            reason = f"the download failed: {str(error).strip().splitlines()[-1]}"
        else:
            return
    first = missing[0]
    others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    raise DataError(
        f"{DATASETS[name].title} is not in {folder} ({first.relative_to(folder)}{others} missing) and {reason}; "
        f"run this once with a network, copy the set there, or name the folder that holds {name}/ with --data-root "
        "or INVOLUTION_DATA"
    )


def _check(path: Path, reader: Any) -> None:
    """Refuse a file whose size or checksum is not what it should be."""
    if _is_cifar(reader):
        from torchvision.datasets.utils import calculate_md5

        expected, actual = _checksums(reader)[path.name], calculate_md5(path)
        problem = f"its MD5 is {actual}, not {expected}" if actual != expected else None
    else:
        problem = _idx_problem(path)
    if problem:
        raise DataError(
            f"{path} is truncated or damaged: {problem}; delete it and run again to download the set, or copy it anew"
        )


def _idx_problem(path: Path) -> str | None:
    """Return what is wrong with a file in the IDX format of MNIST: a header with the sizes, then one byte a value."""
    actual = path.stat().st_size
    with path.open("rb") as file:
        magic = file.read(4)
        if len(magic) < 4 or magic[:3] != b"\0\0\x08" or magic[3] not in (1, 3):
            return f"its {actual} bytes do not begin with the header of a list of bytes or images"
        header = file.read(4 * magic[3])
    if len(header) < 4 * magic[3]:
        return f"its header ends after {actual} bytes"
    sizes = [int.from_bytes(header[i : i + 4], "big") for i in range(0, len(header), 4)]
    expected = 4 + len(header) + prod(sizes)
    return None if actual == expected else f"it has {actual:,} bytes, its header announces {expected:,}"
