"""Images in one folder per class, for training and validation, with timm's transforms."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_transform
from timm.data.transforms import ResizeKeepRatio
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes
from torchvision.transforms import Resize

from ..errors import DataError, InvolutionWarning
from ..schema import check_normalisation
from .description import DescribedImages
from .images import find_images, kind_of, read_image
from .sampling import UNJUDGED, ResumableDataModule, parts_of
from .sources import find_folder, named_folder

__all__ = ["FolderImages", "ImageFolders", "ImageTransforms", "list_images", "transformed"]


# Beyond this no net sees an image, and a batch of a few fills the memory.
_LARGEST = 2**12
_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
# What weights may say of images, by its name in timm's configuration (where a size has channels before it), and what holds
# where neither they nor the user do.
_SAID_BY_WEIGHTS: dict[str, tuple[str, Any]] = {
    "image_size": ("input_size", (3, 224, 224)),
    "crop_fraction": ("crop_pct", 0.875),
    "interpolation": ("interpolation", "bilinear"),
    "mean": ("mean", IMAGENET_DEFAULT_MEAN),
    "std": ("std", IMAGENET_DEFAULT_STD),
}


class ImageTransforms:
    """What happens to an image before the net: the published ImageNet recipe by default.

    Training: a random crop of 8 to 100 % of the area, resized, flipped with probability one half. Evaluation: the
    shorter side resized to ``image_size / crop_fraction`` (256 for 224), the centre cropped.

    The first five arguments are what the weights say that a net starts from, each where it is None; and the value in
    brackets without such weights.

    Args:
        image_size: side of the square that the net sees, in pixels (224).
        crop_fraction: share of the resized image that the centre crop keeps (0.875).
        interpolation: of the resizing, ``"bilinear"`` or ``"bicubic"`` (``"bilinear"``).
        mean: subtracted, per channel, of pixels from 0 to 1 (ImageNet's).
        std: divided by (ImageNet's).
        color_jitter: strength of brightness, contrast and saturation changes, 0 for none.
        auto_augment: a policy of timm, e.g. ``"rand-m9-mstd0.5"``; only beside ``"3a"`` does timm change colours, too.
        random_erasing: probability of erasing a rectangle.
        flip: probability of a horizontal flip.
        min_scale: smallest share of the area that a random crop keeps.

    Raises:
        ValueError: an argument is out of range.
    """

    train: Any
    evaluate: Any
    data_config: dict[str, Any]

    def __init__(
        self,
        image_size: int | None = None,
        *,
        crop_fraction: float | None = None,
        interpolation: str | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        color_jitter: float = 0.0,
        auto_augment: str | None = None,
        random_erasing: float = 0.0,
        flip: float = 0.5,
        min_scale: float = 0.08,
    ) -> None:
        for name, share in (("flip", flip), ("random_erasing", random_erasing)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} must be a probability from 0 to 1, got {share}")
        if not 0 <= color_jitter <= 1:
            raise ValueError(f"color_jitter must be a strength from 0 to 1, got {color_jitter}")
        self._given: dict[str, Any] = {
            "image_size": None if image_size is None else (3, image_size, image_size),
            "crop_fraction": crop_fraction,
            "interpolation": interpolation,
            "mean": mean,
            "std": std,
        }
        self._augmentation: dict[str, Any] = {
            "color_jitter": color_jitter,
            "auto_augment": auto_augment,
            "re_prob": random_erasing,
            "hflip": flip,
            "scale": (min_scale, 1.0),
        }
        self.see_as({})
        if color_jitter and auto_augment and "3a" not in auto_augment:
            raise ValueError(
                f"color_jitter of {color_jitter} does nothing beside the policy {auto_augment!r}, which changes colours itself; "
                "give one of them"
            )

    def see_as(self, weights: Mapping[str, Any]) -> None:
        """Treat images as weights were trained to see them, as far as the arguments did not say how.

        Args:
            weights: of timm's configuration the entries ``input_size``, ``crop_pct``, ``interpolation``, ``mean`` and
                ``std``, as far as they are there.

        Raises:
            ValueError: an entry is out of range.
        """
        said = {
            name: weights.get(theirs) or default if self._given[name] is None else self._given[name]
            for name, (theirs, default) in _SAID_BY_WEIGHTS.items()
        }
        image_size, crop_fraction, interpolation = said["image_size"][-1], said["crop_fraction"], said["interpolation"]
        min_scale, policy = self._augmentation["scale"][0], self._augmentation["auto_augment"]
        if not 1 <= image_size <= _LARGEST:
            raise ValueError(f"image_size must be from 1 to {_LARGEST:,} pixels, got {image_size}")
        if not 0.1 <= crop_fraction <= 1 or not 0 < min_scale <= 1:
            raise ValueError(
                f"crop_fraction must lie between 0.1 and 1 and min_scale above 0 and up to 1, got {crop_fraction} and "
                f"{min_scale}"
            )
        if interpolation not in _INTERPOLATIONS:
            raise ValueError(
                f"unknown interpolation {interpolation!r}; expected one of {', '.join(map(repr, _INTERPOLATIONS))}"
            )
        check_normalisation(said["mean"], said["std"])
        common: dict[str, Any] = {
            "input_size": image_size,
            "interpolation": interpolation,
            "mean": tuple(said["mean"]),
            "std": tuple(said["std"]),
        }
        try:
            self.train = create_transform(is_training=True, **self._augmentation, **common)
        except (AssertionError, KeyError, IndexError) as error:
            # timm asserts what a policy is made of.
            raise ValueError(
                f"unknown auto_augment {policy!r}; expected a policy of timm, such as 'rand-m9-mstd0.5'"
            ) from error
        self.evaluate = create_transform(is_training=False, crop_pct=crop_fraction, **common)
        # What timm has to know of it to evaluate the trained net as it was validated.
        self.data_config = {**common, "input_size": (3, image_size, image_size), "crop_pct": crop_fraction}


def transformed(image: Image.Image, transform: Any, name: object) -> Any:
    """Return an image as a net sees it.

    Args:
        image: as it was read.
        transform: of timm, or any other.
        name: what a refusal calls the image.

    Raises:
        DataError: it is so thin that it would have more than ``PIL.Image.MAX_IMAGE_PIXELS`` pixels where its shorter side
            is enlarged to what the net asks for.
    """
    shorter, longer = sorted(image.size)
    for step in getattr(transform, "transforms", ()):
        side = _shorter_side(step)
        if Image.MAX_IMAGE_PIXELS is not None and side * side * longer > Image.MAX_IMAGE_PIXELS * shorter:
            raise DataError(
                f"{name} is {image.width:,} pixels wide and {image.height:,} high, too thin to be enlarged until its shorter "
                f"side has the {side} pixels that the net sees; crop or remove it"
            )
    return image if transform is None else transform(image)


def _shorter_side(step: Any) -> int:
    """Return how many pixels a step makes the shorter side of an image have, 0 where it does no such thing."""
    if isinstance(step, Resize):
        return step.size if isinstance(step.size, int) else step.size[0] if len(step.size) == 1 else 0
    return max(step.size) if isinstance(step, ResizeKeepRatio) and not step.longest else 0


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
                    f"training images ({', '.join(self._given[:3])}, …); rename or remove it, or train on images of it"
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
        """Return path and label of every image, found as everywhere (`involution.data.images.find_images`)."""
        folders = set(_folders_of_classes(directory))
        images = {name: find_images(Path(directory, name)) for name in class_to_idx if name in folders}
        empty = sorted(name for name, files in images.items() if not files)
        if empty and not allow_empty:
            raise _no_classes(directory, f"found no image for the classes {', '.join(empty[:5])}")
        return [(str(path), class_to_idx[name]) for name, files in images.items() for path in files]


def _folders_of_classes(directory: str | Path) -> list[str]:
    """Return the names of the folders inside, sorted.

    Raises:
        DataError: there are none, or the folder, or what lies in it, cannot be looked at.
    """
    try:
        return find_classes(directory)[0]
    except FileNotFoundError as error:
        raise _no_classes(directory, error) from error
    except OSError as error:
        # A link in a circle, for one.
        raise DataError(
            f"{error.filename or directory} cannot be looked at for images: {error.strerror}; repair or remove it"
        ) from error


def _no_classes(directory: str | Path, reason: object) -> DataError:
    return DataError(
        f"{directory} holds no classes of images ({reason}); expected one folder per class with images inside, "
        f"such as {directory}/cat/1.jpg"
    )


class ImageFolders(ResumableDataModule, DescribedImages):
    """A data set in folders: ``root/train/<class>/*.jpg`` and ``root/val/<class>/*.jpg``.

    The classes are the folders of the training images; every part is numbered by them, whatever folders it has itself.
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
    ) -> None:
        super().__init__(seed, batch_size, num_workers)
        self.root, self.folders = named_folder(root), {"train": train, "val": val, "test": test or val}
        self.drop_last = drop_last
        self.transforms = transforms or ImageTransforms()
        self.sets: dict[str, FolderImages] = {}

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in the order of their labels: the folders of the training images, sorted."""
        return tuple(_folders_of_classes(self._folder("train")))

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

    def setup(self, stage: str | None = None) -> None:
        """List the images of every part that ``stage`` needs.

        Raises:
            DataError: a folder is missing or holds no images, or a part has a class that training has not.
        """
        for part in parts_of(stage):
            if part in self.sets:
                continue
            images = self.sets[part] = FolderImages(self._folder(part), self._transform(part), self.class_names)
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
            f"no image found in {', '.join(map(str, paths))}; expected files ending in {', '.join(IMG_EXTENSIONS)}"
        )
    return files
