"""What a checkpoint of a training says of its data beside the weights: the names of the classes, and how images are seen."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..schema import find_problem

__all__ = ["FORM", "TrainedData"]

_CLASSES, _SEEN = "involution_classes", "involution_images"

# Of timm's configuration, what says how a net is to see an image.
_INPUT: dict[str, Any] = {"input_size": [int], "interpolation": str, "crop_pct": float, "mean": [float], "std": [float]}

# Of the entries in a checkpoint, for `involution.schema.find_problem`.
FORM = {f"{_CLASSES}?": (None, [str]), f"{_SEEN}?": {f"{key}?": form for key, form in _INPUT.items()}}


@dataclass(frozen=True)
class TrainedData:
    """What is known of the data that a net was trained on.

    Attributes:
        class_names: in the order of the labels; empty where they are not known.
        seen: how images are seen, by the names of timm's configuration: ``mean`` and ``std`` per channel of pixels from 0 to
            1, ``input_size`` (C, H, W), ``crop_pct``, ``interpolation``, as far as they are known.
    """

    class_names: tuple[str, ...] = ()
    seen: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of_module(cls, class_names: Sequence[object], config: Mapping[str, Any]) -> TrainedData:
        """Return what a data module says, without the types of arrays; what has another form is left out."""
        values = {key: _plain(config[key]) for key in _INPUT if key in config}
        seen = {key: value for key, value in values.items() if not find_problem(value, _INPUT[key])}
        return cls(tuple(str(name) for name in class_names), seen)

    @classmethod
    def of_checkpoint(cls, content: Mapping[str, Any]) -> TrainedData:
        """Return what a checkpoint says; nothing where it is of no training, or has an entry of another form."""
        if find_problem(content, FORM):
            return cls()
        return cls(tuple(content.get(_CLASSES) or ()), content.get(_SEEN, {}))

    @classmethod
    def of_metadata(cls, metadata: Mapping[str, str]) -> TrainedData:
        """Return what the metadata of a ``.safetensors`` file say; nothing where they are of no training."""
        try:
            return cls.of_checkpoint({key: json.loads(metadata[key]) for key in (_CLASSES, _SEEN) if key in metadata})
        except ValueError:
            return cls()

    def entries(self) -> dict[str, Any]:
        """Return what stands in a checkpoint: numbers and text only, which reading runs no code for."""
        return {_CLASSES: list(self.class_names) or None, _SEEN: dict(self.seen)}

    def metadata(self) -> dict[str, str]:
        """Return the same for a ``.safetensors`` file, whose metadata are text; empty where nothing is known."""
        return {key: json.dumps(value, ensure_ascii=False) for key, value in self.entries().items() if value}


def _plain(value: Any) -> Any:
    """Return numbers and text of any kind of array as Python's; None for what is no array."""
    try:
        return np.asarray(value).tolist()
    except (TypeError, ValueError):
        return None
