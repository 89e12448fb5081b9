"""Images in one folder per class, for training and validation, with timm's transforms."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import find_classes

from ..errors import DataError, InvolutionWarning, listed
from .description import DescribedImages
from .image_transforms import ImageTransforms, transformed
from .images import ImageSearch, find_images, image_endings, is_hidden, kind_of, read_image, read_size
from .sampling import UNJUDGED, ResumableDataModule, parts_of
from .sources import find_folder, named_folder
from .verification import check_each

__all__ = ["FolderImages", "ImageFolders", "list_images"]


class FolderImages(ImageFolder):
    """``torchvision.datasets.ImageFolder`` whose refusals name the file and say what to do.

    An index below zero gives an image that is not judged, see `involution.data.sampling.EvenSampler`.

    Args:
        root: folder with one folder per class.
        transform: what happens to an image.
        classes: names of the classes in the order of their labels; by default those of the folders, sorted. Of some there
            may be no folder.

    Raises:
        DataError: there are no folders or images, or a folder is none of ``classes``.
    """

    def __init__(self, root: Path, transform: Any, classes: Sequence[str] | None = None) -> None:
        self._given = classes
        super().__init__(str(root), transform, loader=read_image)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        path, label = self.samples[index if index >= 0 else ~index]
        return transformed(read_image(path), self.transform, path), label if index >= 0 else UNJUDGED

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        """Return the names of the classes and their labels."""
        names = _folders_of_classes(directory)
        if self._given is not None:
            unknown = [name for name in names if name not in self._given]
            if unknown:
                raise DataError(
                    f"{directory} has the folder {unknown[0]}, which is none of the {len(self._given)} classes of the "
                    f"training images ({listed(self._given)}); rename or remove it, or train on images of it"
                )
            names = list(self._given)
        return names, {name: label for label, name in enumerate(names)}

    @staticmethod
    def make_dataset(
        directory: str | Path,
        class_to_idx: dict[str, int],
        extensions: tuple[str, ...] | None = None,
        is_valid_file: Any = None,
        allow_empty: bool = False,
    ) -> list[tuple[str, int]]:
        """Return path and label of every image, found as everywhere (`involution.data.images.ImageSearch`)."""
        folders = set(_folders_of_classes(directory))
        search = ImageSearch(Path(directory))
        images = {name: search.find(Path(directory, name)) for name in class_to_idx if name in folders}
        for name in filter(is_hidden, os.listdir(directory)):
            search.pass_over(Path(directory, name))
        search.say_what_is_left_out()
        empty = sorted(name for name, files in images.items() if not files)
        if empty and not allow_empty:
            raise _no_classes(directory, f"found no image for the classes {', '.join(empty[:5])}")
        return [(str(path), class_to_idx[name]) for name, files in images.items() for path in files]


def _folders_of_classes(directory: str | Path) -> list[str]:
    """Return the names of the folders inside that are not hidden, sorted.

    Raises:
        DataError: there are none, or the folder, or what lies in it, cannot be looked at.
    """
    try:
        names = [name for name in find_classes(directory)[0] if not is_hidden(name)]
    except FileNotFoundError as error:
        raise _no_classes(directory, error) from error
    except OSError as error:
        # A link in a circle, for one.
        raise DataError(
            f"{error.filename or directory} cannot be looked at for images: {error.strerror}; repair or remove it"
        ) from error
    if not names:
        raise _no_classes(directory, "all its folders are hidden")
    return names


def _no_classes(directory: str | Path, reason: object) -> DataError:
    return DataError(
        f"{directory} holds no classes of images ({reason}); expected one folder per class with images inside, "
        f"such as {directory}/cat/1.jpg"
    )


class ImageFolders(ResumableDataModule, DescribedImages):
    """A data set in folders: ``root/train/<class>/*.jpg`` and ``root/val/<class>/*.jpg``.

    The classes are the folders of the training images, but for hidden ones (``.thumbnails``, ``@eaDir``, ``__MACOSX``);
    every part is numbered by them, whatever folders it has itself.
    The order of the training images depends on ``seed`` and the epoch alone, so that a resumed training sees what an
    uninterrupted one does.

    Args:
        root: folder of the data set; a relative one is looked for in the data root (`involution.data.find_data_root`),
            too.
        train: folder of the training images in ``root``.
        val: folder of the validation images in ``root``; tests see them as well where ``test`` is None.
        test: folder of the test images in ``root``.
        batch_size: images of a batch, per device.
        num_workers: processes that read images, per device.
        transforms: what happens to an image; what they leave open is as the weights that a net starts from were trained,
            else as in the published ImageNet recipe.
        seed: of the order of the training images; that of ``--seed_everything`` in a command, and else 0, where it is None.
        drop_last: leave out the images of an epoch that do not fill a batch; a single one, of which a batch norm makes
            nothing, always is.
        verify: read every image once before the first step, in one process of each machine, so that a damaged one is
            found then. That takes the time to decode them all with a thread for every core.

    Raises:
        ValueError: ``batch_size``, ``num_workers`` or ``seed`` is out of range, or ``root`` is empty.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        train: str = "train",
        val: str = "val",
        test: str | None = None,
        batch_size: int = 64,
        num_workers: int = 4,
        transforms: ImageTransforms | None = None,
        seed: int | None = None,
        drop_last: bool = False,
        verify: bool = True,
    ) -> None:
        super().__init__(seed, batch_size, num_workers)
        self.root, self.folders = named_folder(root), {"train": train, "val": val, "test": test or val}
        self.drop_last, self.verify = drop_last, verify
        self.transforms = transforms or ImageTransforms()
        self.sets: dict[str, FolderImages] = {}

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in the order of their labels: the folders of the training images, sorted."""
        root, folder = find_folder(self.root), self._folder("train")
        if root.is_dir() and not os.path.lexists(folder):
            found = sorted(path.name for path in root.iterdir() if path.is_dir() and not is_hidden(path.name))
            if found:
                raise DataError(
                    f"there is no folder {folder}, and {root} itself holds {listed(found)}: where these are the classes, "
                    "divide their images into train and val, else name the folder with --data.train"
                )
        return tuple(_folders_of_classes(folder))

    @property
    def data_config(self) -> dict[str, Any]:
        """What timm has to know to evaluate a net as it was validated here."""
        return self.transforms.data_config

    def see_as(self, weights: Mapping[str, Any]) -> None:
        """Treat images as weights were trained to see them, as far as ``transforms`` do not say how.

        Args:
            weights: see `ImageTransforms.see_as`.
        """
        self.transforms.see_as(weights)
        for part, images in self.sets.items():
            images.transform = self._transform(part)

    def prepare_data(self) -> None:
        """With ``verify`` read every image once, in one process of each machine.

        Raises:
            DataError: one is damaged, or what `setup` refuses.
        """
        if not self.verify:
            return
        folders = sorted({self._folder(part) for part in self.parts_to_prepare()})
        paths = [path for folder in folders for path, _ in self._list(folder, None).samples]
        check_each(partial(read_size, verify=True), paths)

    def setup(self, stage: str | None = None) -> None:
        """List the images of every part that ``stage`` needs.

        Raises:
            DataError: a folder is missing or holds no images, or a part has a class that training has not.
        """
        for part in parts_of(stage):
            if part in self.sets:
                continue
            images = self.sets[part] = self._list(self._folder(part), self._transform(part))
            missing = sorted({*range(len(images.classes))} - {*images.targets})
            if missing:
                rank_zero_warn(
                    f"{images.root} has no images of {len(missing)} of the {len(images.classes)} classes "
                    f"({', '.join(images.classes[label] for label in missing[:5])}): its figures say nothing of them",
                    category=InvolutionWarning,
                )

    def train_dataloader(self) -> DataLoader:
        """Return shuffled batches; each process of a distributed training gets its share."""
        return self.shuffled_loader(self.sets["train"], drop_last=self.drop_last, drop_single=True, **self._options)

    def val_dataloader(self) -> DataLoader:
        """Return the validation images in their order."""
        return self.even_loader(self.sets["val"], self.batch_size, **self._options)

    def test_dataloader(self) -> DataLoader:
        """Return the test images in their order."""
        return self.even_loader(self.sets["test"], self.batch_size, **self._options)

    def _list(self, folder: Path, transform: Any) -> FolderImages:
        return FolderImages(folder, transform, self.class_names)

    def _transform(self, part: str) -> Any:
        return self.transforms.train if part == "train" else self.transforms.evaluate

    def _folder(self, part: str) -> Path:
        return find_folder(self.root) / self.folders[part]


def list_images(paths: Sequence[str | Path]) -> list[Path]:
    """Return the image files among ``paths`` and, sorted, in the folders among them.

    Raises:
        DataError: a path is empty or does not exist, or there is no image in all of them.
    """
    if not all(str(path) for path in paths):
        raise DataError("the path of an image is empty; name a file or a folder")
    files: list[Path] = []
    for path in map(Path, paths):
        try:
            kind = kind_of(path)
        except OSError as error:
            why = f"{error.strerror} (a link to {os.readlink(path)})" if path.is_symlink() else error.strerror
            raise DataError(f"there is no image or folder at {path}: {why}") from error
        if kind == "a folder":
            files += find_images(path)
            continue
        if kind:
            raise DataError(f"{path} is {kind}, no image and no folder of images; name a file or a folder")
        files.append(path)
    if not files:
        raise DataError(
            f"no image found in {', '.join(map(str, paths))}; expected files ending in {', '.join(image_endings())}"
        )
    return files
