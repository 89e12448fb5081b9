"""Scenes of real handwritten digits with a class for every pixel: something to segment without a download."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from .label_maps import ClassTable
from .sampling import EvenSampler, ResumableDataModule
from .sources import load

__all__ = ["DigitScenes"]

MEAN, STD = 0.5, 0.25


class _Scenes(Dataset):
    """Digits of several sizes on a noisy ground, made anew from the number of the scene.

    Args:
        digits: uint8 ``(N, 1, 8, 8)``.
        labels: int64 ``(N,)``.
        count: number of scenes.
        size: height and width of a scene.
        seed: of all of them.
    """

    def __init__(self, digits: Tensor, labels: Tensor, count: int, size: tuple[int, int], seed: int) -> None:
        self.digits, self.labels, self.count, self.size, self.seed = digits, labels, count, size, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + (index if index >= 0 else ~index))

        def draw(low: int, high: int) -> int:
            return int(torch.randint(low, high, (), generator=generator))

        height, width = self.size
        canvas = torch.rand(1, generator=generator) * 0.4 + 0.15 * torch.rand(height, width, generator=generator)
        classes = torch.zeros(height, width, dtype=torch.int64)
        for _ in range(max(1, height * width // 900)):
            chosen = draw(0, len(self.labels))
            side = draw(16, 1 + min(32, height, width))
            digit = F.interpolate(self.digits[chosen][None].float() / 255, side, mode="bilinear", align_corners=False)[
                0, 0
            ]
            top, left = draw(0, height - side + 1), draw(0, width - side + 1)
            place = (slice(top, top + side), slice(left, left + side))
            canvas[place] = torch.maximum(canvas[place], digit)
            classes[place] = torch.where(digit > 0.4, 1 + self.labels[chosen], classes[place])
        image = ((canvas.clamp(0, 1) - MEAN) / STD).expand(3, -1, -1).contiguous()
        return image, classes if index >= 0 else torch.full_like(classes, 255)


class DigitScenes(ResumableDataModule):
    """Scenes of the 1,797 digits inside scikit-learn; a pixel's class is the digit whose ink it is, or the ground.

    Validation scenes hold other digits than training scenes. Every scene depends on its number and the seed alone.

    Args:
        count: training scenes of an epoch; validation has a quarter as many.
        size: height and width of a scene, at least 16 pixels each.
        batch_size: scenes of a batch, per device.
        seed: of scenes and order.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(
        self, *, count: int = 400, size: tuple[int, int] = (64, 96), batch_size: int = 16, seed: int = 0
    ) -> None:
        super().__init__(seed, batch_size)
        if count < 4 or min(size) < 16:
            raise ValueError(f"count must be at least 4 and both sides of size 16, got {count} and {tuple(size)}")
        self.count, self.size = count, (size[0], size[1])
        self.classes = ClassTable(("ground", *map(str, range(10))))
        self.sets: dict[str, _Scenes] = {}

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in the order of a net's outputs."""
        return self.classes.names

    @property
    def data_config(self) -> dict[str, Any]:
        """What prediction has to know to treat an image as it was validated here."""
        return {"mean": [MEAN] * 3, "std": [STD] * 3, "image_size": None, **self.classes.to_dict()}

    def setup(self, stage: str | None = None) -> None:
        """Read the digits."""
        if not self.sets:
            data = load("digits")
            self.sets["train"] = _Scenes(data.images, data.labels, self.count, self.size, 2 * self.seed)
            self.sets["val"] = _Scenes(
                data.test_images, data.test_labels, self.count // 4, self.size, 2 * self.seed + 1
            )

    def train_dataloader(self) -> DataLoader:
        """Return shuffled batches; each process of a distributed training gets its share."""
        return self.shuffled_loader(self.sets["train"], drop_last=self.count >= self.batch_size)

    def val_dataloader(self) -> DataLoader:
        """Return the validation scenes."""
        rank, processes = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        sampler = EvenSampler(self.sets["val"], num_replicas=processes, rank=rank)
        return DataLoader(self.sets["val"], self.batch_size, sampler=sampler, generator=torch.Generator())

    test_dataloader = val_dataloader
