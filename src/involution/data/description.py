"""What a data module tells the task that trains on it. Data know no task; a task asks a `DataDescription`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["DataDescription", "DescribedImages", "DescribedObjects"]


class DescribedImages(Protocol):
    """What a data module offers whose images, or their pixels, have a class each."""

    @property
    @abstractmethod
    def class_names(self) -> Sequence[str]:
        """Names of the classes in the order of a net's outputs; empty where they are not known."""

    @property
    @abstractmethod
    def data_config(self) -> Mapping[str, Any]:
        """What prediction has to know to treat an image as it was validated: ``mean`` and ``std`` per channel, …"""


class DescribedObjects(Protocol):
    """What a data module offers whose images have objects.

    Attributes:
        masks: whether the targets hold masks.
        sets: images by part, ``"train"``, ``"val"`` and ``"test"``, as far as they are set up; one may say the ``sizes`` of
            its files.
    """

    masks: bool
    sets: Mapping[str, Sized]

    @property
    @abstractmethod
    def class_names(self) -> Sequence[str]:
        """Names of the classes in the order of their labels."""

    @property
    @abstractmethod
    def category_ids(self) -> Sequence[int]:
        """Ids of the classes in COCO's format, in the order of their labels."""


@dataclass(frozen=True)
class DataDescription:
    """What a task knows of its data: the members of `DescribedImages` and `DescribedObjects`, read where they are needed.

    Every one may be missing: any Lightning data module trains, and a training from plain loaders has none. What a module
    does not say is not known, and not asked for anywhere else.

    Attributes:
        data: the data module, or None.
    """

    data: object | None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes; empty where they are not known."""
        return tuple(getattr(self.data, "class_names", ()))

    def names_of(self, num_classes: int) -> tuple[str, ...]:
        """Return the names of the classes, numbers where they are not known."""
        return self.class_names or tuple(map(str, range(num_classes)))

    @property
    def data_config(self) -> dict[str, Any]:
        """What prediction has to know; empty where nothing is known of the images."""
        return dict(getattr(self.data, "data_config", None) or {})

    def see_as(self, weights: Mapping[str, Any]) -> None:
        """Let images be treated as a net's weights were trained to see them, as far as the module was not told how.

        Args:
            weights: entries of timm's configuration, ``mean``, ``std``, ``input_size``, …; empty changes nothing.
        """
        follow = getattr(self.data, "see_as", None)
        if follow is not None and weights:
            follow(weights)

    def ids_of(self, num_classes: int) -> tuple[int, ...]:
        """Return the ids of the classes, numbers from 1 where they are not known."""
        return tuple(getattr(self.data, "category_ids", range(1, num_classes + 1)))

    @property
    def lacks_masks(self) -> bool:
        """Whether it is known that the targets hold no masks."""
        return not getattr(self.data, "masks", True)

    def sizes(self) -> list[tuple[object, int, int]]:
        """Return file, width and height of the images of every part that is set up, as far as they are known."""
        parts = getattr(self.data, "sets", {})
        return [size for part in parts.values() for size in getattr(part, "sizes", ())]

    def source(self, part: str) -> dict[str, str | None]:
        """Return what a record says of where the images of a part came from, as far as it is known.

        Args:
            part: ``"train"``, ``"val"`` or ``"test"``.

        Returns:
            The kind of the module, its root, and how the part is called there.
        """
        root, parts = getattr(self.data, "root", None), getattr(self.data, "parts", None)
        return {
            "module": None if self.data is None else type(self.data).__name__,
            "root": None if root is None else str(root),
            "part": parts.get(part) if isinstance(parts, Mapping) else None,
        }
