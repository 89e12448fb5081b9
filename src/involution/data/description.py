"""What a data module tells the task that trains on it. Data know no task; a task asks `describe`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, field
from typing import Any, Protocol

__all__ = ["DataDescription", "DescribedImages", "DescribedObjects", "describe"]


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
        sets: images by part, ``"train"``, ``"val"`` and ``"test"``, as far as they are set up.
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
    """What a task knows of its data.

    Attributes:
        class_names: empty where they are not known.
        data_config: empty where nothing is known of the images.
        category_ids: None where they are not known.
        masks: whether the targets hold masks; None where that is not known.
        images: their number by part, as far as it is known.
    """

    class_names: tuple[str, ...] = ()
    data_config: Mapping[str, Any] = field(default_factory=dict)
    category_ids: tuple[int, ...] | None = None
    masks: bool | None = None
    images: Mapping[str, int] = field(default_factory=dict)

    def names_of(self, num_classes: int) -> tuple[str, ...]:
        """Return the names of the classes, numbers where they are not known."""
        return self.class_names or tuple(map(str, range(num_classes)))


def describe(data: object | None) -> DataDescription:
    """Return what a data module says of itself, whose members are those of `DescribedImages` and `DescribedObjects`.

    Every one may be missing: any Lightning data module trains, and a training from plain loaders has none. What is not
    said is not known, and not asked for anywhere else.
    """
    ids, masks = getattr(data, "category_ids", None), getattr(data, "masks", None)
    return DataDescription(
        class_names=tuple(getattr(data, "class_names", None) or ()),
        data_config=dict(getattr(data, "data_config", None) or {}),
        category_ids=None if ids is None else tuple(ids),
        masks=None if masks is None else bool(masks),
        images={part: len(images) for part, images in (getattr(data, "sets", None) or {}).items()},
    )
