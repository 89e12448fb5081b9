"""The order of training images: a function of seed and epoch alone, for any number of processes, resumed or not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from ..errors import DataError, InvolutionWarning
from ..schema import find_seed_problem, shown
from .epochs import EpochLoader
from .workers import worker_options

__all__ = ["UNJUDGED", "EvenSampler", "ResumableDataModule", "check_loading", "epoch_seed", "parts_of"]

# Label of an image that another process judges, or this one did before; a number that PyTorch's losses pass over, too.
UNJUDGED = -100

_MOST_WORKERS = 1024


def parts_of(stage: str | None) -> tuple[str, ...]:
    """Return the parts of a data set that a stage of Lightning's needs: all of them where it is None."""
    parts = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), None: ("train", "val", "test")}
    return parts.get(stage, ())


def check_loading(seed: int, batch_size: int, num_workers: int) -> None:
    """Refuse what no data set is read by, the same for all of them.

    Raises:
        ValueError: ``seed`` is not from 0 to 2³² − 1, ``batch_size`` below 1 or beyond 31 bits, or ``num_workers`` negative
            or more than 1,024, which would all be started.
    """
    problem = find_seed_problem(seed)
    if problem:
        raise ValueError(f"seed {problem}")
    for name, value, least, most in (
        ("batch_size", batch_size, 1, 2**31 - 1),
        ("num_workers", num_workers, 0, _MOST_WORKERS),
    ):
        if not least <= value <= most:
            limit = f"at least {least}" if value < least else f"at most {most:,}"
            raise ValueError(f"{name} must be {limit}, got {shown(value)}")


def epoch_seed(seed: int, epoch: int, rank: int) -> int:
    """Return a seed for one epoch in one process of a training."""
    return ((seed * 1_000_003 + epoch) * 4096 + rank) % 2**32


class EpochSampler(DistributedSampler):
    """Shuffle by seed and epoch, and seed what worker processes draw the same way.

    Args:
        dataset: what to shuffle.
        generator: of the loader, which takes from it the seed of its workers.
        epoch: where to begin.
        options: of ``DistributedSampler``.
    """

    def __init__(self, dataset: Dataset, generator: torch.Generator, epoch: int, **options: Any) -> None:
        super().__init__(dataset, **options)
        self.generator = generator
        self.set_epoch(epoch)

    def set_epoch(self, epoch: int) -> None:
        """Prepare the order and the seeds of an epoch; Lightning calls it before each."""
        super().set_epoch(epoch)
        self.generator.manual_seed(epoch_seed(self.seed, epoch, self.rank))


class PartSampler(DistributedSampler):
    """Give every process its share of the images in their order, none twice.

    PyTorch's own sampler repeats images until the shares are equal, which a metric over the whole set would count.

    Args:
        dataset: what to share.
        options: ``num_replicas`` and ``rank`` of ``DistributedSampler``.
    """

    def __init__(self, dataset: Dataset, **options: Any) -> None:
        super().__init__(dataset, shuffle=False, **options)
        self.num_samples = len(range(self.rank, len(dataset), self.num_replicas))  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.rank, len(self.dataset), self.num_replicas))  # type: ignore[arg-type]


class EvenSampler(DistributedSampler):
    """The images in their order, every one judged once, the same number in every process.

    Where they cannot be shared out evenly, the last turns go to an image that was judged already: as ``~index``, a
    number below zero, for which the data set returns a target that counts for nothing.

    Args:
        dataset: what to evaluate on.
        num_replicas: number of processes.
        rank: of this one.
    """

    def __init__(self, dataset: Dataset, num_replicas: int, rank: int) -> None:
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, shuffle=False)

    def __iter__(self) -> Iterator[int]:
        length = len(self.dataset)  # type: ignore[arg-type]
        for turn in range(self.num_samples):
            index = turn * self.num_replicas + self.rank
            yield index if index < length else ~0


class ResumableDataModule(LightningDataModule):
    """A DataModule whose training batches, in a resumed training, are those of an uninterrupted one.

    Attributes:
        seed: of the order of the training images; 0 where None was given.
        batch_size: images of a training batch, per device.
        num_workers: processes that read images, per device.

    Raises:
        ValueError: one of them is out of range, see `check_loading`.
    """

    def __init__(self, seed: int | None, batch_size: int, num_workers: int = 0) -> None:
        super().__init__()
        seed = 0 if seed is None else seed
        check_loading(seed, batch_size, num_workers)
        self.seed, self.batch_size, self.num_workers = seed, batch_size, num_workers
        self._first_epoch = 0

    def parts_to_prepare(self) -> tuple[str, ...]:
        """Return the parts that the stage which is about to run needs, all of them where no trainer is there."""
        stage = self.trainer.state.fn if self.trainer else None
        return parts_of(getattr(stage, "value", None))

    def state_dict(self) -> dict[str, int]:
        """Return the epoch that follows the state of the training, for its checkpoint."""
        if self.trainer is None:
            return {"next_epoch": 0}
        finished = self.trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        return {"next_epoch": self.trainer.current_epoch + int(finished)}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Remember the epoch to begin with: a resumed training draws its first batches before Lightning names it."""
        self._first_epoch = state_dict["next_epoch"]

    def shuffled_loader(
        self, dataset: Dataset, *, drop_last: bool = False, drop_single: bool = False, **options: Any
    ) -> DataLoader:
        """Return shuffled batches; each process of a distributed training gets its share.

        Args:
            dataset: what to load.
            drop_last: leave out the images of an epoch that do not fill a batch.
            drop_single: leave out one image that is left over, whose maps of a pixel a batch norm cannot train on.
            options: of ``DataLoader``.

        Raises:
            DataError: the images do not fill a batch in every process, and such batches are left out.
        """
        images, step = len(dataset), self.batch_size * self._processes["num_replicas"]  # type: ignore[arg-type]
        if images < step:
            words = f"the training images ({images}) are fewer than the {step} of a step (batch size times processes)"
            if drop_last:
                raise DataError(f"{words}, and what does not fill a batch is left out; lower --data.batch_size")
            rank_zero_warn(f"{words}: an epoch is a single step", category=InvolutionWarning)
        generator = torch.Generator()
        sampler = EpochSampler(
            dataset, generator, self._first_epoch, seed=self.seed, drop_last=drop_last, **self._processes
        )
        is_single = sampler.num_samples > self.batch_size > 1 == sampler.num_samples % self.batch_size
        return EpochLoader(
            dataset,
            self._count_batches,
            batch_size=self.batch_size,
            sampler=sampler,
            generator=generator,
            drop_last=drop_last or (drop_single and is_single),
            **options,
        )

    def _count_batches(self) -> int:
        """Return how many batches of an epoch that is not finished the training has behind it."""
        if self.trainer is None or self.trainer.world_size > 1:
            return 0
        progress = self.trainer.fit_loop.epoch_loop.batch_progress
        return 0 if progress.is_last_batch else progress.current.processed

    def ordered_loader(self, dataset: Dataset, **options: Any) -> DataLoader:
        """Return batches in order; each process of a distributed evaluation gets its share, no image twice."""
        return DataLoader(dataset, self.batch_size, sampler=PartSampler(dataset, **self._processes), **options)

    def even_loader(self, dataset: Dataset, batch_size: int, **options: Any) -> DataLoader:
        """Return batches in order; each process of a distributed evaluation gets as many images, see `EvenSampler`."""
        # A generator of its own: a loader draws a number whenever it is iterated, from the global random state one that
        # would change what a resumed training draws.
        sampler, generator = EvenSampler(dataset, **self._processes), torch.Generator()
        return DataLoader(dataset, batch_size, sampler=sampler, generator=generator, **options)

    @property
    def _options(self) -> dict[str, Any]:
        """What the loaders of files share: worker processes, and memory that an accelerator copies from directly."""
        processes = self.trainer.world_size if self.trainer else 1
        return {**worker_options(self.num_workers, processes), "pin_memory": torch.accelerator.is_available()}

    @property
    def _processes(self) -> dict[str, int]:
        return {
            "num_replicas": self.trainer.world_size if self.trainer else 1,
            "rank": self.trainer.global_rank if self.trainer else 0,
        }
