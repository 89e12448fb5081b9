"""A DataModule that holds a small image set in memory and cuts batches from it without worker processes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from . import sources
from .description import DescribedImages
from .sampling import UNJUDGED, ResumableDataModule

Scaling = Literal["standard", "unit", "raw"]


class TensorImages(Dataset):
    """Images and labels as tensors; a whole batch is one gather.

    An index below zero gives an image that is not judged, see `involution.data.sampling.EvenSampler`.

    Args:
        images: uint8 ``(N, C, H, W)``.
        labels: int64 ``(N,)``.
        mean: subtracted from the pixels (0 to 255), per channel.
        std: what the pixels are divided by, per channel.
        shift: shift every image by up to this many pixels, at random, and fill with zeros (after scaling).
        flip: mirror every other image, at random.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        shift: int = 0,
        flip: bool = False,
    ) -> None:
        self.images, self.labels, self.shift, self.flip = images, labels, shift, flip
        self.mean = torch.tensor(mean).view(-1, 1, 1)
        self.std = torch.tensor(std).view(-1, 1, 1)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        images, labels = self.__getitems__([index])
        return images[0], labels[0]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the float32 images ``(B, C, H, W)`` and labels ``(B,)`` of ``indices``."""
        chosen = torch.as_tensor(indices)
        labels = self.labels[chosen].where(chosen >= 0, UNJUDGED)
        return self._augmented((self.images[chosen] - self.mean) / self.std), labels

    def _augmented(self, images: Tensor) -> Tensor:
        batch, _, height, width = images.shape
        if self.flip:
            images = torch.where(torch.rand(batch, 1, 1, 1) < 0.5, images.flip(3), images)
        if self.shift:
            images = F.pad(images, [self.shift] * 4)
            top, left = torch.randint(2 * self.shift + 1, (2, batch, 1))
            rows, columns = top + torch.arange(height), left + torch.arange(width)
            at = torch.arange(batch)[:, None, None]
            images = images.permute(0, 2, 3, 1)[at, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
        return images


class SmallImages(ResumableDataModule, DescribedImages):
    """MNIST, Fashion-MNIST, CIFAR-10 through torchvision, or the 1,797 8×8 digits inside scikit-learn.

    These sets have no validation part: validation and testing both see the test images, unless ``validation_share`` sets
    some of the training images apart. The order of the training
    images depends on ``seed`` and the epoch alone, so that a resumed training sees what an uninterrupted one does.

    Args:
        dataset: ``"digits"``, ``"mnist"``, ``"fashion_mnist"`` or ``"cifar10"``.
        data_root: folder of the data sets; see `involution.data.find_data_root`.
        batch_size: images of a training batch, per device; one that is left over in the end, of which a batch norm makes
            nothing, is left out.
        scaling: ``"standard"`` for zero mean and unit variance over the training set, per channel; ``"unit"`` for
            0 to 1; ``"raw"`` for 0 to 255.
        shift: shift training images by up to this many pixels, at random.
        flip: mirror every other training image, at random.
        seed: of the order of the training images; that of ``--seed_everything`` in a command, and else 0, where it is None.
        download: fetch a missing set.
        train_share: share of the training images that is trained on, always the same ones of every class; their mean and
            standard deviation are still those of all.
        validation_share: share of the training images, the last ones of every class, that validation sees in the place of
            the test images; they are not trained on.

    Raises:
        ValueError: ``dataset`` or ``scaling`` is unknown, ``batch_size`` is below 1, ``train_share`` not above 0,
            ``validation_share`` below 0, or both together more than 1.
    """

    def __init__(
        self,
        dataset: str = "digits",
        data_root: str | Path | None = None,
        *,
        batch_size: int = 128,
        scaling: Scaling = "standard",
        shift: int = 0,
        flip: bool = False,
        seed: int | None = None,
        download: bool = True,
        train_share: float = 1.0,
        validation_share: float = 0.0,
    ) -> None:
        super().__init__(seed, batch_size)
        if not 0 < train_share <= 1:
            raise ValueError(f"train_share must lie above 0 and be at most 1, got {train_share}")
        # Shares such as 0.9 and 0.1 are a little more than 1 together.
        if not 0 <= validation_share <= 1 - train_share + 1e-9:
            raise ValueError(
                f"validation_share must be at least 0 and leave train_share its images, got {validation_share} beside "
                f"{train_share}"
            )
        if dataset not in sources.DATASETS:
            raise ValueError(f"unknown data set {dataset!r}; expected one of {', '.join(sources.DATASETS)}")
        if shift < 0:
            raise ValueError(f"shift must not be negative, got {shift}")
        if scaling not in ("standard", "unit", "raw"):
            raise ValueError(f"scaling must be 'standard', 'unit' or 'raw', got {scaling!r}")
        self.dataset, self.data_root, self.download = dataset, data_root, download
        self.scaling, self.shift, self.flip = scaling, shift, flip
        self.train_share, self.validation_share = train_share, validation_share
        self._sets: tuple[TensorImages, TensorImages, TensorImages] | None = None

    @property
    def train_set(self) -> TensorImages:
        """The training images, read at the first use."""
        return self._loaded()[0]

    @property
    def test_set(self) -> TensorImages:
        """The test images, read at the first use."""
        return self._loaded()[1]

    @property
    def validation_set(self) -> TensorImages:
        """The images that validation sees: training images set apart, else the test images; read at the first use."""
        return self._loaded()[2]

    def prepare_data(self) -> None:
        """Download the set if it is missing; one process per machine does it.

        Raises:
            DataError: a file is missing, truncated or damaged.
        """
        if self._sets is None:
            sources.prepare(self.dataset, self.data_root, self.download)

    def setup(self, stage: str | None = None) -> None:
        """Read the set into memory, once.

        Raises:
            DataError: a file is missing, truncated or damaged.
        """
        self._loaded()

    def _loaded(self) -> tuple[TensorImages, TensorImages, TensorImages]:
        if self._sets is None:
            data = sources.load(self.dataset, self.data_root, self.download)
            mean, std = self._statistics(data.images)
            kept, apart = self._shares(data.labels)
            test = TensorImages(data.test_images, data.test_labels, mean, std)
            self._sets = (
                TensorImages(data.images[kept], data.labels[kept], mean, std, shift=self.shift, flip=self.flip),
                test,
                TensorImages(data.images[apart], data.labels[apart], mean, std) if self.validation_share else test,
            )
        return self._sets

    def _shares(self, labels: Tensor) -> tuple[Tensor | slice, Tensor]:
        """Return which training images are trained on, the first ones of every class, and which are set apart."""
        parts = [(labels == label).nonzero().flatten() for label in labels.unique()]
        apart = [len(part) - round(self.validation_share * len(part)) for part in parts]
        last = torch.cat([part[start:] for part, start in zip(parts, apart)]).sort().values
        if self.train_share == 1:
            return slice(None), last
        first = [part[: min(start, max(1, round(self.train_share * len(part))))] for part, start in zip(parts, apart)]
        return torch.cat(first).sort().values, last

    def _statistics(self, images: Tensor) -> tuple[list[float], list[float]]:
        channels = images.shape[1]
        if self.scaling != "standard":
            return [0.0] * channels, [255.0 if self.scaling == "unit" else 1.0] * channels
        # From a histogram: exact, and without a float copy of the set.
        values = torch.arange(256, dtype=torch.float64)
        shares = torch.stack([torch.bincount(images[:, c].flatten(), minlength=256) for c in range(channels)]).double()
        shares = shares / shares.sum(1, keepdim=True)
        mean = shares @ values
        variance = shares @ values.square() - mean.square()
        return mean.tolist(), variance.clamp_min(1e-12).sqrt().tolist()

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in the order of their labels."""
        return sources.DATASETS[self.dataset].classes

    @property
    def data_config(self) -> dict[str, Any]:
        """What timm has to know to evaluate a net as it was validated here; its pixels go from 0 to 1."""
        images = self.test_set
        mean, std = ((values.flatten() / 255).tolist() for values in (images.mean, images.std))
        return {"input_size": tuple(images.images.shape[1:]), "mean": mean, "std": std, "crop_pct": 1.0}

    def train_dataloader(self) -> DataLoader:
        """Return shuffled batches; each process of a distributed training gets its share."""
        return self.shuffled_loader(self.train_set, drop_single=True, collate_fn=_as_is)

    def val_dataloader(self) -> DataLoader:
        """Return the images that validation sees, in their order."""
        return self._in_order(self.validation_set)

    def test_dataloader(self) -> DataLoader:
        """Return the test images in their order."""
        return self._in_order(self.test_set)

    def _in_order(self, images: TensorImages) -> DataLoader:
        return self.even_loader(images, max(self.batch_size, 500), collate_fn=_as_is)


def _as_is(batch: Any) -> Any:
    """Pass a batch on: `TensorImages.__getitems__` collated it."""
    return batch
