"""A DataModule that streams images from tar shards, for sets too large for a folder of files."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, IterableDataset

from ..errors import DataError
from .description import DescribedImages
from .image_transforms import ImageTransforms, transformed
from .images import read_image
from .sampling import check_loading, epoch_seed, parts_of
from .shards import LEAST_BYTES, find_shards, read_index, read_shard
from .sources import find_data_root, named_folder
from .workers import worker_options

__all__ = ["ImageShards"]


class ImageShards(LightningDataModule, DescribedImages):
    """A data set in tar shards, read as a stream: no file per image, nothing unpacked, local or from a server.

    Hugging Face's ``datasets`` splits the shards among the processes of a distributed training and their workers and
    shuffles them: their order, and the images in a buffer. The order depends on ``seed`` and the epoch alone. An epoch
    of training has ``train_images // (batch_size · processes)`` batches in every process; one whose shards hold fewer
    images begins them anew. A checkpoint from the middle of an epoch remembers how many batches were seen: the resumed
    epoch goes on with the images that had not been.

    Args:
        root: folder of the shards, or an address that fsspec knows (``https://…``, ``hf://datasets/…``, ``s3://…``); a
            relative one is looked for in the data root (`involution.data.find_data_root`), too.
        train: names of the training shards, with wildcards (``train-*.tar``) or ranges (``train-{0000..1023}.tar``).
        val: names of the validation shards; tests see them as well where ``test`` is None.
        test: names of the test shards.
        train_images: number of training images; from ``index.json`` where ``involution pack`` wrote it.
        classes: names of the classes in the order of their labels; from ``index.json`` likewise.
        batch_size: images of a batch, per device.
        num_workers: processes that read shards, per device; at most one a shard is used.
        transforms: what happens to an image; by default as in `involution.data.ImageFolders`.
        seed: of the order of the training images; that of ``--seed_everything`` in a command, and else 0, where it is None.
        buffer: images among which the next one is drawn.

    Raises:
        ValueError: ``batch_size``, ``num_workers``, ``seed``, ``buffer`` or ``train_images`` is out of range, or ``classes``
            or ``root`` is empty.
        ImportError: ``datasets`` is missing.
    """

    def __init__(
        self,
        root: str,
        *,
        train: str = "train-*.tar",
        val: str = "val-*.tar",
        test: str | None = None,
        train_images: int | None = None,
        classes: list[str] | None = None,
        batch_size: int = 64,
        num_workers: int = 4,
        transforms: ImageTransforms | None = None,
        seed: int | None = None,
        buffer: int = 1000,
    ) -> None:
        super().__init__()
        seed = 0 if seed is None else seed
        check_loading(seed, batch_size, num_workers)
        for name, value in (("buffer", buffer), ("train_images", 1 if train_images is None else train_images)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if classes is not None and not classes:
            raise ValueError(
                "classes must name a class for every label, got none; leave it out where they are not known"
            )
        _datasets()
        if "://" not in root and not named_folder(root).is_absolute() and not Path(root).exists():
            root = str(find_data_root() / root)
        self.root, self.patterns = root, {"train": train, "val": val, "test": test or val}
        self.batch_size, self.num_workers, self.seed, self.buffer = batch_size, num_workers, seed, buffer
        self.transforms = transforms or ImageTransforms()
        self._train_images, self._classes = train_images, classes
        self._index: dict[str, Any] | None = None
        self._position: dict[str, int] = {}
        self._loader: _TrainLoader | None = None

    @property
    def index(self) -> Mapping[str, Any]:
        """What ``involution pack`` wrote down of the shards; empty where others made them."""
        if self._index is None:
            self._index = read_index(self.root)
        return self._index

    @property
    def train_images(self) -> int:
        """Number of training images.

        Raises:
            DataError: neither ``index.json`` nor the argument says it.
        """
        number = self._train_images or self.index.get("train", {}).get("images")
        if number is None:
            raise DataError(
                f"{self.root} has no index.json that says how many training images there are; give their number with "
                "--data.train_images"
            )
        return number

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in the order of their labels, where they are known."""
        return tuple(self._classes or self.index.get("classes", ()))

    @property
    def data_config(self) -> dict[str, Any]:
        """What timm has to know to evaluate a net as it was validated here."""
        return self.transforms.data_config

    def see_as(self, weights: Mapping[str, Any]) -> None:
        """Treat images as weights were trained to see them, as `involution.data.ImageFolders` does."""
        self.transforms.see_as(weights)

    def setup(self, stage: str | None = None) -> None:
        """Look for the shards of every part that ``stage`` needs, and count the batches of an epoch.

        Raises:
            DataError: there are no shards of a part, not enough images for one batch, or fewer bytes than so many images
                would take.
        """
        for part in parts_of(stage) if stage else ():
            shards = self._shards(part)
            if part == "train":
                self._refuse_too_many([_size(*shard) for shard in shards])
        if stage == "fit" and self.batches_per_epoch < 1:
            raise DataError(
                f"the training images ({self.train_images}) do not fill one batch of {self.batch_size} in each of "
                f"{self._processes[1]} processes; lower --data.batch_size"
            )

    def _shards(self, part: str) -> list[tuple[str, int | None]]:
        """Return the shards of a part with their sizes, where ``index.json`` says them."""
        sizes = {name: int(size) for name, size in self.index.get(part, {}).get("bytes", {}).items()}
        return [(shard, sizes.get(shard.rpartition("/")[2])) for shard in find_shards(self.root, self.patterns[part])]

    def _refuse_too_many(self, sizes: Sequence[int | None]) -> None:
        """Refuse a number of images that the shards cannot hold: an epoch would begin them anew without end."""
        total = sum(size or 0 for size in sizes)
        if None not in sizes and self.train_images > total // LEAST_BYTES:
            raise DataError(
                f"the training shards of {self.root} have {total:,} bytes, which {self.train_images:,} images cannot be in; "
                "correct --data.train_images, or pack the images anew"
            )

    @property
    def batches_per_epoch(self) -> int:
        """Training batches of an epoch in every process."""
        return self.train_images // (self.batch_size * self._processes[1])

    def train_dataloader(self) -> DataLoader:
        """Return a loader of shuffled batches that knows where it stands."""
        samples, workers = self._samples("train", self.transforms.train, shuffled=True)
        self._loader = _TrainLoader(self, samples, **self._workers(workers), **self._options)
        self._loader.load_state_dict(self._position)
        return self._loader

    def val_dataloader(self) -> DataLoader:
        """Return the validation images in their order; every process gets its share."""
        samples, workers = self._samples("val", self.transforms.evaluate)
        return DataLoader(samples, **self._workers(workers), **self._options)

    def test_dataloader(self) -> DataLoader:
        """Return the test images in their order; every process gets its share."""
        samples, workers = self._samples("test", self.transforms.evaluate)
        return DataLoader(samples, **self._workers(workers), **self._options)

    def state_dict(self) -> dict[str, int]:
        """Return epoch and number of batches seen of it, for a checkpoint."""
        return self._loader.state_dict() if self._loader else {}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on from a checkpoint."""
        self._position = state_dict

    @property
    def _processes(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _workers(self, number: int) -> dict[str, Any]:
        return worker_options(number, self._processes[1], ["datasets"])

    @property
    def _options(self) -> dict[str, Any]:
        # A generator of its own: from the global random state, drawing the workers' seed would shift dropout.
        generator = torch.Generator()
        return {
            "batch_size": self.batch_size,
            "pin_memory": torch.accelerator.is_available(),
            "generator": generator,
        }

    def _samples(self, part: str, transform: Any, shuffled: bool = False) -> tuple[_Samples, int]:
        """Return the images of a part for this process, and how many workers can read them."""
        datasets = _datasets()
        shards = self._shards(part)
        features = datasets.Features(
            {"image": datasets.Value("binary"), "label": datasets.Value("int64"), "name": datasets.Value("string")}
        )
        stream = datasets.IterableDataset.from_generator(_read, features=features, gen_kwargs={"shards": shards})
        if shuffled:
            stream = stream.shuffle(seed=self.seed, buffer_size=self.buffer)
        rank, world_size = self._processes
        stream = datasets.distributed.split_dataset_by_node(stream, rank, world_size)
        if shuffled:
            stream = stream.repeat(None)
        # Where the processes do not divide the shards, every one reads all of them and takes its share of the images.
        read = len(shards) // world_size if len(shards) % world_size == 0 else len(shards)
        return _Samples(stream, transform, len(self.class_names)), min(self.num_workers, read)


class _Samples(IterableDataset):
    """Images of a stream, decoded and transformed."""

    def __init__(self, stream: Any, transform: Any, classes: int) -> None:
        # The number of classes, 0 where it is not known.
        self.stream, self.transform, self.classes = stream, transform, classes
        self.rounds = self.batch_size = 0

    def __iter__(self) -> Iterator[tuple[Any, int]]:
        # Workers make the batches in turn, so each made the same number of those that are passed over.
        for row in islice(self.stream, self.rounds * self.batch_size, None):
            image = read_image(io.BytesIO(row["image"]), name=f"the image {row['name']}", expected=None)
            if self.classes and row["label"] >= self.classes:
                raise DataError(
                    f"the label of the image {row['name']} is {row['label']}, but there are {self.classes} classes; "
                    "correct it, or name all with --data.classes"
                )
            yield transformed(image, self.transform, f"the image {row['name']}"), row["label"]


class _TrainLoader(DataLoader):
    """Batches of one epoch after the other, each in its own order, from any position on."""

    def __init__(self, module: ImageShards, samples: _Samples, **options: Any) -> None:
        super().__init__(samples, **options)
        self._module, self._samples = module, samples
        self._epoch = self._batches = 0
        self._resumed: dict[str, int] = {}

    def __len__(self) -> int:
        return self._module.batches_per_epoch

    def __iter__(self) -> Any:
        trainer = self._module.trainer
        self._epoch, self._batches = trainer.current_epoch if trainer else 0, 0
        if self._resumed.get("epoch") == self._epoch and self._resumed["batches"] < len(self):
            self._batches = self._resumed["batches"]
        elif self._resumed.get("epoch") == self._epoch:
            self._epoch += 1
        self._resumed = {}
        self._samples.stream.set_epoch(self._epoch)
        # Whole rounds of the workers are passed over unread, the rest of the batches that were seen is dropped.
        rounds, rest = divmod(self._batches, max(1, self.num_workers))
        self._samples.rounds, self._samples.batch_size = rounds, self._module.batch_size
        rank = self._module.trainer.global_rank if trainer else 0
        self.generator.manual_seed(epoch_seed(self._module.seed, self._epoch, rank))
        for batch in islice(super().__iter__(), rest, rest + len(self) - self._batches):
            self._batches += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return epoch and number of batches seen of it."""
        return {"epoch": self._epoch, "batches": self._batches}

    def load_state_dict(self, state_dict: Mapping[str, int]) -> None:
        """Begin the next iteration there."""
        self._resumed = dict(state_dict)


def _size(shard: str, size: int | None) -> int | None:
    """Return the bytes of a shard as they are known, or those of a file of this machine; None where it would take a server."""
    if size is None and Path(shard).is_file():
        return Path(shard).stat().st_size
    return size


def _read(shards: Iterable[tuple[str, int | None]]) -> Iterator[dict[str, Any]]:
    for shard, size in shards:
        yield from (sample._asdict() for sample in read_shard(shard, size))


def _datasets() -> Any:
    try:
        import datasets
        import datasets.distributed
    except ImportError as error:
        raise ImportError(
            'streaming from shards needs datasets; install it with: pip install "involution[streaming]"'
        ) from error
    datasets.disable_progress_bars()
    # Its remarks on the number of workers; it is chosen here.
    logging.getLogger("datasets").setLevel(logging.ERROR)
    return datasets
