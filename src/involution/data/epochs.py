"""The batches of an epoch, from any of them on, with the random state that an uninterrupted training has there."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ..errors import DataError

__all__ = ["EpochLoader", "random_states", "restore_random_states"]


def random_states() -> dict[str, Any]:
    """Return the states of Python's, NumPy's and PyTorch's generators, in what a checkpoint may hold."""
    version, numbers, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    states = {
        "python": (version, numbers, gauss),
        "numpy": (torch.from_numpy(np.asarray(keys, dtype=np.int64)), int(position), int(has_gauss), float(cached)),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def restore_random_states(states: Mapping[str, Any]) -> None:
    """Set the generators to what `random_states` returned; those of GPUs only where there are as many as then."""
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(states["torch"])
    if len(states.get("cuda", ())) == torch.cuda.device_count() > 0:
        torch.cuda.set_rng_state_all(states["cuda"])


class EpochLoader(DataLoader):
    """A loader whose checkpoint from the middle of an epoch is gone on from with the next batch.

    The batches that were trained on are read again and dropped, for what worker processes draw at random depends on
    what they drew before.

    Args:
        dataset: what to load.
        count: returns how many batches of the epoch the training has behind it.
        options: of ``DataLoader``.

    Attributes:
        before_batch: called before a batch is drawn; what it raises ends the epoch.
    """

    def __init__(self, dataset: Dataset, count: Callable[[], int], **options: Any) -> None:
        super().__init__(dataset, **options)
        self._count = count
        self.before_batch: Callable[[], None] | None = None
        self._drawn, self._is_drawing = 0, False
        self._before: dict[str, Any] = {}
        self._resumed: dict[str, Any] = {}

    def __iter__(self) -> Any:
        resumed, self._resumed = self._resumed, {}
        return self._batches(resumed.get("batches", 0), resumed.get("random"))

    def _batches(self, passed: int, states: Mapping[str, Any] | None) -> Iterator[Any]:
        batches = super().__iter__()
        for _ in range(passed):
            next(batches)
        if states:
            restore_random_states(states)
        self._drawn = passed
        while True:
            if self.before_batch:
                self.before_batch()
            self._before, self._is_drawing = random_states(), True
            try:
                batch = next(batches)
            except StopIteration:
                return
            self._drawn, self._is_drawing = self._drawn + 1, False
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return how many batches of the epoch are trained on, and the random state after them; nothing between epochs."""
        batches = self._count()
        if not batches:
            return {}
        # A batch that was drawn, or is being drawn, and not trained on will be drawn again.
        is_behind = self._is_drawing or self._drawn > batches
        random = self._before if is_behind else random_states()
        return {"batches": batches, "random": random, "batch_size": self.batch_size, "length": len(self)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Begin the next iteration there.

        Raises:
            DataError: an epoch of these batches is not that of the checkpoint.
        """
        self._resumed = dict(state_dict)
        if not self._resumed:
            return
        # Older checkpoints do not know them.
        length, size = state_dict.get("length", len(self)), state_dict.get("batch_size", self.batch_size)
        if (length, size) != (len(self), self.batch_size) or state_dict["batches"] > len(self):
            raise DataError(
                f"the checkpoint is from the middle of an epoch of {length} batches of {size} images, and an epoch has "
                f"{len(self)} of {self.batch_size} now; go on with the same data and batch size until the epoch is done"
            )
