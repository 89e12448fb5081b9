"""Trained detectors and segmentation nets as folders: ``config.json`` and ``model.safetensors``.

Classifiers are timm's models and are saved as timm's folders, which any user of timm reads. What timm cannot build is
described here completely enough to be built again: the task, the architecture by name and its arguments.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import CheckpointError
from ..files import write_atomically
from . import checkpoints

__all__ = ["Description", "build", "describe", "load", "save"]

CONFIG, WEIGHTS = "config.json", "model.safetensors"

# The module of each task; its ``create(architecture, num_classes, **arguments)`` builds the nets.
_BUILDERS = {
    "detection": "involution.models.detection",
    "segmentation": "involution.models.segmentation",
}


@dataclass(frozen=True)
class Description:
    """What is needed to build a net again, and to say what its outputs mean.

    Attributes:
        task: ``"detection"`` or ``"segmentation"``.
        architecture: name of the net, e.g. ``"faster_rcnn"``.
        arguments: of its function, in values that JSON can hold.
        classes: names of the classes in the order of their labels.
        mean: per channel, subtracted from pixels from 0 to 1.
        std: per channel, divided by.
        details: what else the task needs to predict, e.g. ``{"category_ids": [1, 3]}``.
    """

    task: str
    architecture: str
    arguments: Mapping[str, Any]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    details: Mapping[str, Any] = field(default_factory=dict)


def save(folder: str | Path, net: nn.Module, description: Description) -> None:
    """Write ``net`` into ``folder``, which is made where it does not exist; each file is replaced as a whole.

    Raises:
        CheckpointError: the weights cannot be written.
        OSError: the folder or the description cannot be written.
        TypeError: the arguments hold what JSON cannot, such as a function; name layers instead.
    """
    text = json.dumps(asdict(description), indent=2, ensure_ascii=False) + "\n"
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().cpu() for name, value in net.state_dict().items()}
    checkpoints.write(state, folder / WEIGHTS, {"architecture": description.architecture})
    write_atomically(folder / CONFIG, text)


def describe(folder: str | Path) -> Description | None:
    """Read the description of a saved net; None where the folder holds none of ours (timm's have no task).

    Raises:
        CheckpointError: there is a description, and it is damaged or of another version.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        return None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {error}; save the net anew") from error
    if not isinstance(config, dict) or "task" not in config:
        return None
    try:
        tuples = {key: tuple(config[key]) for key in ("classes", "mean", "std")}
        description = Description(**{**config, **tuples})
    except (TypeError, KeyError) as error:
        raise CheckpointError(
            f"{path} is no description of this version's: expected the keys "
            f"{', '.join(Description.__dataclass_fields__)}, got {', '.join(config)}; save the net anew"
        ) from error
    if description.task not in _BUILDERS:
        raise CheckpointError(f"{path} is of an unknown task {description.task!r}; expected {', '.join(_BUILDERS)}")
    return description


def build(description: Description) -> nn.Module:
    """Build the net of a description, with random weights.

    Raises:
        ValueError: the architecture or an argument is unknown.
    """
    create = import_module(_BUILDERS[description.task]).create
    return create(description.architecture, len(description.classes), **description.arguments)


def load(folder: str | Path) -> tuple[nn.Module, Description]:
    """Build a saved net, in evaluation mode, with exactly the weights that were saved.

    Raises:
        CheckpointError: the folder holds no net of ours, or weights and description do not fit one another.
    """
    description = describe(folder)
    if description is None:
        raise CheckpointError(f"{folder} holds no saved net: expected {CONFIG} with a task, and {WEIGHTS}")
    try:
        net = build(description)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{Path(folder) / CONFIG} describes a net that cannot be built: {error}") from error
    path = Path(folder) / WEIGHTS
    state = checkpoints.read(path)
    problems = checkpoints.misfit(state, net.state_dict(), listed=5)
    if problems:
        raise CheckpointError(f"{path} does not fit its description: {problems}")
    net.load_state_dict(state)
    return net.eval(), description
