"""Images with boxes and masks, annotated in COCO's format, for training and evaluating detectors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from ..errors import DataError, InvolutionWarning, in_one_line, listed
from .coco_files import CocoFile, ImageEntry, decode_mask, read_coco
from .description import DescribedObjects
from .images import read_image, read_size
from .sampling import ResumableDataModule, parts_of
from .sources import find_folder, named_folder
from .verification import check_each

__all__ = ["AnnotatedImages", "CocoImages", "DetectionTransforms", "collate"]

Target = dict[str, Tensor]

# Boxes given as two corners are read as too large: which share of boxes that reach so many pixels beyond their image, and
# how many of them, are no chance.
_BEYOND, _BEYOND_SHARE, _BEYOND_LEAST = 2, 0.05, 3


class DetectionTransforms:
    """What happens to images and objects in training; the published recipe flips, and nothing else.

    The net itself resizes, normalises and pads. Several sizes in training are its argument ``min_size``, a list.

    Args:
        flip: probability of a horizontal flip.
        vertical_flip: probability of a vertical flip, for images without an up.
        color_jitter: strength of brightness, contrast and saturation changes, 0 for none.
        zoom_out: probability of putting the image into a larger empty one, which makes objects smaller.
        iou_crop: probability of a crop that keeps some overlap with an object, as in SSD.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        *,
        flip: float = 0.5,
        vertical_flip: float = 0.0,
        color_jitter: float = 0.0,
        zoom_out: float = 0.0,
        iou_crop: float = 0.0,
    ) -> None:
        shares = {"flip": flip, "vertical_flip": vertical_flip, "zoom_out": zoom_out, "iou_crop": iou_crop}
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise ValueError(f"{name} must be a probability from 0 to 1, got {share}")
        if not 0 <= color_jitter <= 1:
            raise ValueError(f"color_jitter must be a strength from 0 to 1, got {color_jitter}")
        self._crop = v2.RandomApply([v2.RandomIoUCrop()], iou_crop) if iou_crop else None
        self._others = v2.Compose(
            [
                *([v2.ColorJitter(*[color_jitter] * 3)] if color_jitter else []),
                *([v2.RandomZoomOut(p=zoom_out)] if zoom_out else []),
                v2.RandomHorizontalFlip(flip),
                v2.RandomVerticalFlip(vertical_flip),
            ]
        )

    def __call__(self, image: Tensor, target: Target) -> tuple[Tensor, Target]:
        """Return the changed image ``(3, H, W)`` and its target, without the objects that left it."""
        height, width = image.shape[-2:]
        parts: dict[str, Any] = {
            "image": tv_tensors.Image(image),
            "boxes": tv_tensors.BoundingBoxes(target["boxes"], format="XYXY", canvas_size=(height, width)),
        }
        if "masks" in target:
            parts["masks"] = tv_tensors.Mask(target["masks"])
        if self._crop is not None and len(target["boxes"]):
            parts = self._crop(parts)
        parts = self._others(parts)
        image = parts.pop("image").as_subclass(Tensor)
        target = {**target, **{name: value.as_subclass(Tensor) for name, value in parts.items()}}
        return image, _visible(target, *image.shape[-2:])


def _visible(target: Target, height: int, width: int) -> Target:
    """Clip the boxes to the image and leave out objects of which less than a pixel's width or height remains."""
    boxes = target["boxes"].clone()
    boxes[:, 0::2] = boxes[:, 0::2].clamp(0, width)
    boxes[:, 1::2] = boxes[:, 1::2].clamp(0, height)
    target = {**target, "boxes": boxes}
    keep = ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(1)
    if keep.all():
        return target
    return {name: value[keep] if name != "image_id" else value for name, value in target.items()}


class AnnotatedImages(Dataset):
    """The images of an annotation file with their objects.

    Args:
        file: the annotations.
        folder: of the images.
        labels: label of each category id.
        masks: whether targets hold masks.
        transforms: of training; None for evaluation, where every object stays as the file has it.
        keep_empty: whether images without objects to train on stay in training.

    Raises:
        DataError: there are ``transforms``, and no box to train on.
    """

    def __init__(
        self,
        file: CocoFile,
        folder: Path,
        labels: Mapping[int, int],
        *,
        masks: bool = False,
        transforms: DetectionTransforms | None = None,
        keep_empty: bool = True,
    ) -> None:
        self.file, self.folder, self.labels = file, folder, labels
        self.masks, self.transforms = masks, transforms
        self.images: Sequence[ImageEntry] = file.images
        self._trained: Counter[int] = Counter()
        if transforms is not None:
            trained = {image.id: self._trainable(image)["labels"].tolist() for image in file.images}
            for found in trained.values():
                self._trained.update(found)
            if not self._trained:
                raise DataError(f"{file.path} has no box to train on{self._why_none()}")
            if not keep_empty:
                self.images = tuple(image for image in file.images if trained[image.id])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        """Return an image, float32 ``(3, H, W)`` from 0 to 1, and its target.

        The target holds ``boxes`` float32 ``(N, 4)`` as x1, y1, x2, y2, ``labels`` int64 ``(N,)``, ``area`` float32
        ``(N,)``, ``iscrowd`` int64 ``(N,)``, ``image_id`` and, where asked for, ``masks`` uint8 ``(N, H, W)``.
        """
        entry = self.images[index]
        image = functional.pil_to_tensor(read_image(self.folder / entry.file_name))
        if self.transforms is None:
            target = self._target(entry, self.file.objects.get(entry.id, ()))
        else:
            image, target = self.transforms(image, self._trainable(entry, self.masks))
        return functional.to_dtype(image, torch.float32, scale=True), target

    @property
    def sizes(self) -> list[tuple[Path, int, int]]:
        """File, width and height of every image."""
        return [(self.folder / image.file_name, image.width, image.height) for image in self.images]

    def left_out(self) -> int:
        """Return how many objects that are no crowd are left out of training, for want of a box inside the image."""
        return len(self._boxes()) - self._trained.total()

    def untrained(self) -> list[str]:
        """Return the categories without a box to train on, in the order of their labels."""
        return [self.file.categories[category] for category, label in self.labels.items() if not self._trained[label]]

    def beyond(self) -> int:
        """Return how many boxes reach beyond their image, where that are too many to be chance, else 0."""
        boxes = self._boxes()
        count = sum(
            min(x, y) < -_BEYOND or x + width > image.width + _BEYOND or y + height > image.height + _BEYOND
            for image, (x, y, width, height) in boxes
        )
        return count if count >= _BEYOND_LEAST and count > _BEYOND_SHARE * len(boxes) else 0

    def _boxes(self) -> list[tuple[ImageEntry, list[float]]]:
        """Return the boxes that the file gives to objects that are no crowd, each with its image."""
        objects = self.file.objects
        return [(i, o["bbox"]) for i in self.file.images for o in objects.get(i.id, ()) if not o.get("iscrowd")]

    def _why_none(self) -> str:
        count = len(self._boxes())
        if not count:
            return "; annotate objects that are no crowds"
        return f": those that it has ({count}) are empty or outside their image; give x, y, width and height in pixels of the image"

    def _trainable(self, entry: ImageEntry, masks: bool = False) -> Target:
        objects = [o for o in self.file.objects.get(entry.id, ()) if not o.get("iscrowd")]
        return _visible(self._target(entry, objects, masks), entry.height, entry.width)

    def _target(self, entry: ImageEntry, objects: Sequence[Mapping[str, Any]], masks: bool | None = None) -> Target:
        boxes = torch.tensor([o["bbox"] for o in objects], dtype=torch.float32).view(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        target = {
            "boxes": boxes,
            "labels": torch.tensor([self.labels[o["category_id"]] for o in objects], dtype=torch.int64),
            "area": torch.tensor([o.get("area", o["bbox"][2] * o["bbox"][3]) for o in objects], dtype=torch.float32),
            "iscrowd": torch.tensor([int(bool(o.get("iscrowd"))) for o in objects], dtype=torch.int64),
            "image_id": torch.tensor(entry.id),
        }
        if self.masks if masks is None else masks:
            # Into their place one by one: many together are as large as all else.
            target["masks"] = torch.empty(len(objects), entry.height, entry.width, dtype=torch.uint8)
            for mask, o in zip(target["masks"], objects, strict=True):
                mask.copy_(decode_mask(o["segmentation"], entry.height, entry.width))
        return target


def collate(samples: Sequence[tuple[Tensor, Target]]) -> tuple[list[Tensor], list[Target]]:
    """Return the images and the targets of a batch as lists: images differ in size, targets in length."""
    return [image for image, _ in samples], [target for _, target in samples]


class CocoImages(ResumableDataModule, DescribedObjects):
    """A data set in COCO's format: a JSON file of annotations and a folder of images for each part.

    Categories get the labels 0, 1, … in the order of their ids, whatever the ids are. Training leaves crowds out, and
    boxes of which less than a pixel lies inside the image; evaluation takes every annotation as it is.

    Args:
        root: folder of the data set; a relative one is looked for in the data root (`involution.data.find_data_root`),
            too.
        train_annotations: JSON file in ``root``.
        train_images: folder in ``root``.
        val_annotations: likewise, for validation; tests see them as well where ``test_annotations`` is None.
        val_images: likewise.
        test_annotations: likewise, for tests.
        test_images: likewise.
        masks: whether the net learns masks.
        keep_empty: whether training images without objects stay, as background; the published recipes leave them out.
        batch_size: images of a batch, per device.
        num_workers: processes that read images, per device.
        transforms: of training, a flip by default.
        seed: of the order of the training images; that of ``--seed_everything`` in a command, and else 0, where it is None.
        drop_last: leave out the images of an epoch that do not fill a batch.
        verify: read every image once before the first step, so that a damaged one is found then. That every file is
            there and has the annotated size is always checked.

    Raises:
        ValueError: ``batch_size``, ``num_workers`` or ``seed`` is out of range, or ``root`` is empty.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        train_annotations: str = "annotations/instances_train.json",
        train_images: str = "images/train",
        val_annotations: str = "annotations/instances_val.json",
        val_images: str = "images/val",
        test_annotations: str | None = None,
        test_images: str | None = None,
        masks: bool = False,
        keep_empty: bool = True,
        batch_size: int = 2,
        num_workers: int = 4,
        transforms: DetectionTransforms | None = None,
        seed: int | None = None,
        drop_last: bool = False,
        verify: bool = True,
    ) -> None:
        super().__init__(seed, batch_size, num_workers)
        self.root = named_folder(root)
        self.places = {
            "train": (train_annotations, train_images),
            "val": (val_annotations, val_images),
            "test": (test_annotations or val_annotations, test_images or val_images),
        }
        self.masks, self.keep_empty, self.verify = masks, keep_empty, verify
        self.drop_last = drop_last
        self.transforms = transforms or DetectionTransforms()
        self.sets: dict[str, AnnotatedImages] = {}
        self._files: dict[str, CocoFile] = {}

    @property
    def categories(self) -> Mapping[int, str]:
        """Names of the categories of the training annotations by id, in the order of the labels."""
        return self._read("train").categories

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in the order of their labels."""
        return tuple(self.categories.values())

    @property
    def category_ids(self) -> tuple[int, ...]:
        """Ids of the categories in the order of their labels."""
        return tuple(self.categories)

    def prepare_data(self) -> None:
        """Check the image files, in one process of each machine.

        Raises:
            DataError: an image is missing, has another size than annotated, or (with ``verify``) is damaged.
        """
        places = {part: self.places[part] for part in self.parts_to_prepare()}
        for part in {place: part for part, place in places.items()}.values():
            check_each(partial(self._check, self.places[part][1]), self._read(part).images)

    def setup(self, stage: str | None = None) -> None:
        """Read the annotations of every part that ``stage`` needs.

        Raises:
            DataError: a file is missing, damaged or inconsistent, or has other categories than the training, or the
                training has no box to train on.
        """
        for part in parts_of(stage):
            if part in self.sets:
                continue
            file = self._read(part)
            if dict(file.categories) != dict(self.categories):
                differing = {str(v) for v in set(file.categories.items()) ^ set(self.categories.items())}
                raise DataError(
                    f"{file.path} and {self._read('train').path} must have the same categories, "
                    f"differing in {', '.join(sorted(differing)[:5])}"
                )
            self.sets[part] = AnnotatedImages(
                file,
                find_folder(self.root) / self.places[part][1],
                {category: label for label, category in enumerate(self.categories)},
                masks=self.masks,
                transforms=self.transforms if part == "train" else None,
                keep_empty=self.keep_empty,
            )
            if part == "train":
                self._warn(self.sets[part])

    def _warn(self, images: AnnotatedImages) -> None:
        """Say what of the training annotations is not learnt, or not as it is meant."""
        left_out, beyond, untrained = images.left_out(), images.beyond(), images.untrained()
        names = in_one_line(listed(untrained, 5))
        path = images.file.path
        for count, words in (
            (left_out, f"boxes of {path} are empty or outside their image, and training skips them: {left_out}"),
            (
                beyond,
                f"{beyond} boxes of {path} reach beyond their image and are clipped: COCO's boxes are x, y, width and height, "
                "no two corners; correct them if that is how they are meant",
            ),
            (
                len(untrained),
                f"{path} has no boxes to train on for {len(untrained)} of the {len(images.labels)} categories ({names}): the "
                "detector learns nothing of them",
            ),
        ):
            if count:
                rank_zero_warn(words, category=InvolutionWarning)

    def train_dataloader(self) -> DataLoader:
        """Return shuffled batches; each process of a distributed training gets its share."""
        return self.shuffled_loader(self.sets["train"], drop_last=self.drop_last, collate_fn=collate, **self._options)

    def val_dataloader(self) -> DataLoader:
        """Return the validation images in their order, each in one process."""
        return self.ordered_loader(self.sets["val"], collate_fn=collate, **self._options)

    def test_dataloader(self) -> DataLoader:
        """Return the test images in their order, each in one process."""
        return self.ordered_loader(self.sets["test"], collate_fn=collate, **self._options)

    def _read(self, part: str) -> CocoFile:
        annotations = self.places[part][0]
        if annotations not in self._files:
            self._files[annotations] = read_coco(find_folder(self.root) / annotations, masks=self.masks)
        return self._files[annotations]

    def _check(self, folder: str, entry: ImageEntry) -> None:
        root = find_folder(self.root)
        path = root / folder / entry.file_name
        if not path.exists():
            remedy = "add it there"
            for above in Path(folder).parents:
                if (root / above / entry.file_name).exists():
                    part = next(part for part, (_, images) in self.places.items() if images == folder)
                    remedy = f"it lies in {root / above}: give --data.{part}_images {above}"
            raise DataError(f"there is no image at {in_one_line(str(path))}, which the annotations name; {remedy}")
        width, height = read_size(path, verify=self.verify)
        if (width, height) != (entry.width, entry.height):
            raise DataError(
                f"{path} is {width} pixels wide and {height} high, its annotation says {entry.width} and {entry.height}"
            )
