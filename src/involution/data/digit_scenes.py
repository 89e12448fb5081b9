"""Scenes of real handwritten digits: something to segment and to detect without a download."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from .coco_images import Target, collate
from .description import DescribedImages, DescribedObjects
from .label_maps import IGNORE, ClassTable
from .sampling import ResumableDataModule
from .sources import load

__all__ = ["DigitObjects", "DigitScenes"]

MEAN, STD = 0.5, 0.25


class _Digit(NamedTuple):
    """A digit of a scene.

    Attributes:
        label: 0 to 9.
        ink: bool ``(H, W)``.
    """

    label: int
    ink: Tensor


class _Scenes(Dataset):
    """Digits of several sizes on a noisy ground, made anew from the number of the scene.

    Args:
        digits: uint8 ``(N, 1, 8, 8)``.
        labels: int64 ``(N,)``.
        count: number of scenes.
        size: height and width of a scene.
        seed: of all of them.
    """

    pixels_per_digit: ClassVar[int] = 900

    def __init__(self, digits: Tensor, labels: Tensor, count: int, size: tuple[int, int], seed: int) -> None:
        self.digits, self.labels, self.count, self.size, self.seed = digits, labels, count, size, seed

    def __len__(self) -> int:
        return self.count

    def scene(self, index: int) -> tuple[Tensor, list[_Digit]]:
        """Return the image ``(H, W)`` from 0 to 1 and its digits, later ones over earlier ones."""
        if not 0 <= index < self.count:
            raise IndexError(f"there are {self.count} scenes, got the number {index}")
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + index)

        def draw(low: int, high: int) -> int:
            return int(torch.randint(low, high, (), generator=generator))

        height, width = self.size
        canvas = torch.rand(1, generator=generator) * 0.4 + 0.15 * torch.rand(height, width, generator=generator)
        digits = []
        for _ in range(max(1, height * width // self.pixels_per_digit)):
            chosen = draw(0, len(self.labels))
            side = draw(16, 1 + min(32, height, width))
            digit = F.interpolate(self.digits[chosen][None].float() / 255, side, mode="bilinear", align_corners=False)[
                0, 0
            ]
            top, left = draw(0, height - side + 1), draw(0, width - side + 1)
            place = (slice(top, top + side), slice(left, left + side))
            canvas[place] = torch.maximum(canvas[place], digit)
            ink = torch.zeros(height, width, dtype=torch.bool)
            ink[place] = digit > 0.4
            digits.append(_Digit(int(self.labels[chosen]), ink))
        return canvas.clamp(0, 1), digits


class _ClassScenes(_Scenes):
    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        canvas, digits = self.scene(index if index >= 0 else ~index)
        classes = torch.zeros(self.size, dtype=torch.int64)
        for digit in digits:
            classes[digit.ink] = 1 + digit.label
        image = ((canvas - MEAN) / STD).expand(3, -1, -1).contiguous()
        return image, classes if index >= 0 else torch.full_like(classes, IGNORE)


class _ObjectScenes(_Scenes):
    pixels_per_digit = 1800

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        canvas, digits = self.scene(index)
        seen, labels, masks = torch.zeros(self.size, dtype=torch.bool), [], []
        for digit in reversed(digits):
            visible = digit.ink & ~seen
            seen |= digit.ink
            # What others cover is no object any more.
            if visible.any(1).sum() > 1 and visible.any(0).sum() > 1 and 3 * visible.sum() > digit.ink.sum():
                labels.append(digit.label)
                masks.append(visible)
        boxes = torch.tensor([_box(mask) for mask in masks], dtype=torch.float32).view(-1, 4)
        target = {
            "boxes": boxes,
            "labels": torch.tensor(labels, dtype=torch.int64),
            "area": torch.tensor([mask.sum() for mask in masks], dtype=torch.float32),
            "iscrowd": torch.zeros(len(labels), dtype=torch.int64),
            "image_id": torch.tensor(index),
            "masks": torch.stack(masks).to(torch.uint8) if masks else torch.zeros(0, *self.size, dtype=torch.uint8),
        }
        return canvas.expand(3, -1, -1).contiguous(), target


def _box(mask: Tensor) -> tuple[int, int, int, int]:
    rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


class _DigitModule(ResumableDataModule):
    _scenes: ClassVar[type[_Scenes]]
    _collate: ClassVar[Callable | None] = None

    def __init__(
        self, *, count: int = 400, size: tuple[int, int] = (64, 96), batch_size: int = 16, seed: int | None = None
    ) -> None:
        super().__init__(seed, batch_size)
        if count < 4 or min(size) < 16:
            raise ValueError(f"count must be at least 4 and both sides of size 16, got {count} and {tuple(size)}")
        self.count, self.size = count, (size[0], size[1])
        self.sets: dict[str, _Scenes] = {}

    def setup(self, stage: str | None = None) -> None:
        """Read the digits."""
        if not self.sets:
            data = load("digits")
            self.sets["train"] = self._scenes(data.images, data.labels, self.count, self.size, 2 * self.seed)
            self.sets["val"] = self.sets["test"] = self._scenes(
                data.test_images, data.test_labels, self.count // 4, self.size, 2 * self.seed + 1
            )

    def train_dataloader(self) -> DataLoader:
        """Return shuffled batches; each process of a distributed training gets its share."""
        whole = self.count >= self.batch_size
        return self.shuffled_loader(self.sets["train"], drop_last=whole, collate_fn=type(self)._collate)

    @abstractmethod
    def val_dataloader(self) -> DataLoader:
        """Return the validation scenes."""

    def test_dataloader(self) -> DataLoader:
        """Return the validation scenes."""
        return self.val_dataloader()


class DigitScenes(_DigitModule, DescribedImages):
    """Scenes of the 1,797 digits inside scikit-learn; a pixel's class is the digit whose ink it is, or the ground.

    Validation scenes hold other digits than training scenes. Every scene depends on its number and the seed alone.

    Args:
        count: training scenes of an epoch; validation has a quarter as many.
        size: height and width of a scene, at least 16 pixels each.
        batch_size: scenes of a batch, per device.
        seed: of scenes and order; that of ``--seed_everything`` in a command, and else 0, where it is None.

    Raises:
        ValueError: a number is out of range.
    """

    _scenes = _ClassScenes
    classes = ClassTable(("ground", *map(str, range(10))))

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in the order of a net's outputs."""
        return self.classes.names

    @property
    def data_config(self) -> dict[str, Any]:
        """What prediction has to know to treat an image as it was validated here."""
        return {"mean": [MEAN] * 3, "std": [STD] * 3, "image_size": None, **self.classes.to_dict()}

    def val_dataloader(self) -> DataLoader:
        """Return the validation scenes."""
        return self.even_loader(self.sets["val"], self.batch_size)


class DigitObjects(_DigitModule, DescribedObjects):
    """The same scenes for detectors: every digit that others leave to be seen has a label, a box and a mask.

    Images are float32 ``(3, H, W)`` from 0 to 1, targets as those of `CocoImages` with masks.

    Args:
        count: training scenes of an epoch; validation has a quarter as many.
        size: height and width of a scene, at least 16 pixels each.
        batch_size: scenes of a batch, per device.
        seed: of scenes and order; that of ``--seed_everything`` in a command, and else 0, where it is None.

    Raises:
        ValueError: a number is out of range.
    """

    _scenes = _ObjectScenes
    _collate = staticmethod(collate)
    masks = True
    sets: dict[str, _Scenes]

    @property
    def class_names(self) -> Sequence[str]:
        """Names of the classes in the order of their labels."""
        return tuple(map(str, range(10)))

    @property
    def category_ids(self) -> Sequence[int]:
        """Ids of the classes in COCO's format, from 1."""
        return range(1, 11)

    def val_dataloader(self) -> DataLoader:
        """Return the validation scenes."""
        return self.ordered_loader(self.sets["val"], collate_fn=collate)
