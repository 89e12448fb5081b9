"""Images with a class for every pixel: folders of images and label images, and Cityscapes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..errors import DataError, InvolutionWarning, listed
from .description import DescribedImages
from .images import find_images, read_image, read_size
from .label_maps import IGNORE, MASK_EXAMPLE, ClassTable, find_classes, read_labels
from .sampling import ResumableDataModule, parts_of
from .segmentation_transforms import SegmentationTransforms
from .sources import find_folder, named_folder
from .verification import check_each

__all__ = ["Cityscapes", "SegmentationFolders", "SegmentationSet"]

Pair = tuple[Path, Path]


class SegmentationSet(Dataset):
    """Pairs of an image and its label image.

    Args:
        pairs: their files.
        classes: what the label images mean.
        transforms: what happens to them.
        training: whether the training transforms apply. For evaluation the labels keep their own size, and an index
            below zero gives the image without labels, see `involution.data.sampling.EvenSampler`.

    Raises:
        DataError: a file is missing or no image, or an image and its labels differ in size.
    """

    def __init__(self, pairs: list[Pair], classes: ClassTable, transforms: SegmentationTransforms, training: bool):
        self.pairs, self.classes, self.transforms, self.training = pairs, classes, transforms, training
        for image, labels in pairs:
            sizes = _size(image, "an image"), _size(labels, "a label image")
            if sizes[0] != sizes[1]:
                raise DataError(
                    f"{labels} has {sizes[1][0]}×{sizes[1][1]} pixels and its image {image} {sizes[0][0]}×"
                    f"{sizes[0][1]}; an image and its labels must have the same size"
                )

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, labels = self.pairs[index if index >= 0 else ~index]
        pixels, classes = read_image(image), read_labels(labels, self.classes)
        if self.training:
            return self.transforms.train(pixels, classes)
        target = torch.from_numpy(classes).long()
        return self.transforms.evaluate(pixels), target if index >= 0 else torch.full_like(target, IGNORE)


def _size(path: Path, what: str) -> tuple[int, int]:
    """Return width and height from the head of a file."""
    if not path.is_file():
        raise DataError(f"{path} is missing; every image needs its label image")
    return read_size(path, expected=what)


class _Segmentation(ResumableDataModule, DescribedImages):
    """What the two have in common: everything but where files and classes come from."""

    classes: ClassTable
    # How the folders of training, validation and test are called.
    parts: Mapping[str, str]

    def __init__(
        self,
        root: str | Path,
        batch_size: int,
        num_workers: int,
        transforms: SegmentationTransforms | None,
        seed: int | None,
        drop_last: bool,
        verify: bool,
    ) -> None:
        super().__init__(seed, batch_size, num_workers)
        self.given_root = named_folder(root)
        self.drop_last, self.verify = drop_last, verify
        self.transforms = transforms or SegmentationTransforms()
        self.sets: dict[str, SegmentationSet] = {}

    @property
    def root(self) -> Path:
        """Folder of the data set; a relative one is looked for in the data root, too."""
        return find_folder(self.given_root)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in the order of a net's outputs."""
        return self.classes.names

    @property
    def data_config(self) -> dict[str, Any]:
        """What prediction has to know to treat an image as it was validated here."""
        return {**self.transforms.data_config, **self.classes.to_dict()}

    def see_as(self, weights: Mapping[str, Any]) -> None:
        """Normalise images as weights were trained to see them, unless the transforms were told how."""
        self.transforms.see_as(weights)

    @abstractmethod
    def pairs(self, part: str) -> list[Pair]:
        """Return the files of ``"train"``, ``"val"`` or ``"test"``."""

    def prepare_data(self) -> None:
        """With ``verify`` read every file once, in one process of each machine.

        Raises:
            DataError: one is damaged, a label image has a value that means nothing, or fewer than two classes occur in the
                training labels.
        """
        if not self.verify:
            return
        pairs = {part: self.pairs(part) for part in self.parts_to_prepare()}
        every = sorted({pair for of_part in pairs.values() for pair in of_part})
        found = dict(zip(every, check_each(self._check, every), strict=True))
        if "train" in pairs:
            self._check_classes(set().union(*(found[pair] for pair in pairs["train"])))

    def _check(self, pair: Pair) -> set[int]:
        image, labels = pair
        read_size(image, verify=True)
        return find_classes(labels, self.classes)

    def _check_classes(self, found: set[int]) -> None:
        """Refuse training labels of fewer than two classes, and warn where some of more are missing."""
        names = self.class_names
        present, missing = ([n for i, n in enumerate(names) if (i in found) is there] for there in (True, False))
        remedy = (
            "pixels of value 255 count as no class; where they are one, give it that value in a JSON file for data.classes, "
            f"such as {MASK_EXAMPLE}"
        )
        if len(present) < 2:
            came = f"of one class alone, {present[0]}" if present else "of no class"
            raise DataError(
                f"the training labels of {self.root} are {came}, of which nothing can be learnt: "
                f"{remedy if IGNORE in found else 'label pixels of two classes at least, or correct the class file'}"
            )
        if missing:
            rank_zero_warn(
                f"{self.root} has no training labels of {len(missing)} of the {len(names)} classes "
                f"({listed(missing, 5)}): the net learns nothing of them"
                f"{'; ' + remedy if IGNORE in found else ''}",
                category=InvolutionWarning,
            )

    def setup(self, stage: str | None = None) -> None:
        """List the files of every part that ``stage`` needs, and compare the sizes of images and labels.

        Raises:
            DataError: a file or folder is missing, a file is no image, sizes differ, or there are no images.
        """
        for part in parts_of(stage):
            if part not in self.sets:
                training = part == "train"
                self.sets[part] = SegmentationSet(self.pairs(part), self.classes, self.transforms, training)
        processes = self.trainer.world_size if self.trainer else 1
        if "train" in self.sets and self.drop_last and len(self.sets["train"]) < self.batch_size * processes:
            raise DataError(
                f"the training images of {self.root} ({len(self.sets['train'])}) do not fill a batch of "
                f"{self.batch_size * processes}; lower data.batch_size, or set data.drop_last to false"
            )

    def train_dataloader(self) -> DataLoader:
        """Return shuffled batches of crops; each process of a distributed training gets its share."""
        return self.shuffled_loader(self.sets["train"], drop_last=self.drop_last, **self._options)

    def val_dataloader(self) -> DataLoader:
        """Return the validation images whole, one by one, for their sizes may differ."""
        return self.even_loader(self.sets["val"], 1, **self._options)

    def test_dataloader(self) -> DataLoader:
        """Return the test images whole, one by one."""
        return self.even_loader(self.sets["test"], 1, **self._options)


class SegmentationFolders(_Segmentation):
    """A folder of images, one of label images of the same names, and a class file.

    ``root/images/train/a.jpg`` belongs to ``root/labels/train/a.png``, and likewise in ``val``; folders inside are
    searched. Label images are grey or palette PNGs whose values are classes, or PNGs in the colours of the class
    file, see `involution.data.label_maps`.

    Args:
        root: folder of the data set; a relative one is looked for in the data root (`involution.data.find_data_root`),
            too.
        images: folder of the images in ``root``.
        labels: folder of the label images in ``root``.
        classes: the class file in ``root``: text with one name a line, or JSON, see `ClassTable.read`.
        train: folder of the training images in ``images``, and of their labels in ``labels``.
        val: folder of the validation images; tests see them as well where ``test`` is None.
        test: folder of the test images.
        label_suffix: what label files add to the name of the image, e.g. ``"_L"`` for ``a_L.png``.
        batch_size: crops of a training batch, per device.
        num_workers: processes that read images, per device.
        transforms: what happens to images and labels.
        seed: of the order of the training images; that of ``--seed_everything`` in a command, and else 0, where it is None.
        drop_last: leave out the images of an epoch that do not fill a batch.
        verify: read every image and label image once before the first step, so that a damaged file, a label value without
            a class, and classes that no training label has are found then. Without, the former two are found when they are
            read, and nobody asks which classes occur, for only reading all labels says it.

    Raises:
        ValueError: ``batch_size``, ``num_workers`` or ``seed`` is out of range, or ``root`` is empty.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        images: str = "images",
        labels: str = "labels",
        classes: str = "classes.json",
        train: str = "train",
        val: str = "val",
        test: str | None = None,
        label_suffix: str = "",
        batch_size: int = 8,
        num_workers: int = 4,
        transforms: SegmentationTransforms | None = None,
        seed: int | None = None,
        drop_last: bool = True,
        verify: bool = True,
    ) -> None:
        super().__init__(root, batch_size, num_workers, transforms, seed, drop_last, verify)
        self.images, self.labels, self.class_file, self.label_suffix = images, labels, classes, label_suffix
        self.parts = {"train": train, "val": val, "test": test or val}
        self._classes: ClassTable | None = None

    @property
    def classes(self) -> ClassTable:  # type: ignore[override]
        """The classes, from the class file."""
        if self._classes is None:
            self._classes = ClassTable.read(self.root / self.class_file)
        return self._classes

    def pairs(self, part: str) -> list[Pair]:
        """Return the files of a part.

        Raises:
            DataError: there are no images, or an image lacks its label image, or a label image its image.
        """
        images, labels = (self.root / kind / self.parts[part] for kind in (self.images, self.labels))
        found = dict(_images(images, ""))
        if not found:
            raise DataError(
                f"no image found in {images}; expected files such as {images}/1.jpg, and {labels}/1.png for its labels"
            )
        targets = dict(_images(labels, self.label_suffix))
        for key, path in found.items():
            if key not in targets:
                raise DataError(
                    f"{path} has no label image; expected {labels / key}{self.label_suffix}.png, or remove the image"
                )
        for key, path in targets.items():
            if key not in found:
                raise DataError(f"{path} has no image of the same name in {images}; add it or remove the label image")
        return [(path, targets[key]) for key, path in found.items()]


def _images(folder: Path, suffix: str) -> Iterator[tuple[str, Path]]:
    """Yield the images in a folder, sorted, by their path in it without suffix and ending."""
    seen: dict[str, Path] = {}
    for path in find_images(folder):
        if not path.stem.endswith(suffix):
            continue
        key = path.relative_to(folder).with_suffix("").as_posix().removesuffix(suffix)
        if key in seen:
            raise DataError(f"{seen[key]} and {path} have the same name, so that it is open which is meant; remove one")
        seen[key] = path
        yield key, path


class Cityscapes(_Segmentation):
    """Cityscapes' fine annotations with the 19 classes of its benchmark, over ``torchvision.datasets.Cityscapes``.

    Args:
        root: the folder that holds ``leftImg8bit/`` and ``gtFine/``; a relative one is looked for in the data root
            (`involution.data.find_data_root`), too.
        batch_size: crops of a training batch, per device.
        num_workers: processes that read images, per device.
        transforms: what happens to images and labels.
        seed: of the order of the training images; that of ``--seed_everything`` in a command, and else 0, where it is None.
        drop_last: leave out the images of an epoch that do not fill a batch.
        verify: read every image and label image once before the first step, so that a damaged file, a label value without
            a class, and classes that no training label has are found then. Without, the former two are found when they are
            read, and nobody asks which classes occur, for only reading all labels says it.

    Raises:
        ValueError: ``batch_size``, ``num_workers`` or ``seed`` is out of range, or ``root`` is empty.
    """

    def __init__(
        self,
        root: str | Path = "cityscapes",
        *,
        batch_size: int = 2,
        num_workers: int = 4,
        transforms: SegmentationTransforms | None = None,
        seed: int | None = None,
        drop_last: bool = True,
        verify: bool = False,
    ) -> None:
        super().__init__(root, batch_size, num_workers, transforms, seed, drop_last, verify)
        from torchvision.datasets import Cityscapes as Reader

        # The labels of the official test images are secret.
        self.parts = {"train": "train", "val": "val", "test": "val"}
        judged = [c for c in Reader.classes if not c.ignore_in_eval]
        ignored = tuple(c.id for c in Reader.classes if c.ignore_in_eval and c.id >= 0)
        names, values, colours = zip(*[(c.name, c.id, c.color) for c in judged], strict=True)
        self.classes = ClassTable(names, values, ignored, colours)

    def pairs(self, part: str) -> list[Pair]:
        """Return the files of a part; tests see ``val``.

        Raises:
            DataError: the folders are not where they should be.
        """
        from torchvision.datasets import Cityscapes as Reader

        try:
            reader = Reader(str(self.root), self.parts[part], "fine", "semantic")
        except (RuntimeError, OSError) as error:
            raise DataError(
                f"{self.root} does not hold Cityscapes; expected the folders leftImg8bit and gtFine of "
                "leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip in it, name it with data.root"
            ) from error
        pairs = [(Path(i), Path(t[0])) for i, t in zip(reader.images, reader.targets, strict=True)]
        if not pairs:
            raise DataError(f"{self.root} holds no {part} images of Cityscapes; unpack its archives there")
        return sorted(pairs)
