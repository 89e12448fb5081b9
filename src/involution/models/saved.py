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

from ..errors import CheckpointError, in_one_line
from ..files import encoded, read_json, replaced
from ..schema import find_address, find_large, find_problem, shown
from . import checkpoints
from .blueprint import blueprint, size_of_weights

__all__ = ["Description", "build", "check_classifier", "describe", "load", "save"]

CONFIG, WEIGHTS = "config.json", "model.safetensors"
# Folders of nets in that of a training: at its end, and after an interruption.
_NETS_OF_A_RUN = ("model", "model_so_far")

# Arguments by which a net looks for weights elsewhere; those of a saved net lie beside its description.
_SOURCES = ("weights", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir")


# Beyond these no description is meant: sides of images in pixels, enlargements, classes, and whatever else a net is told.
_LONGEST_SIDE, _MOST = 2**12, 2**20
MOST_CLASSES = _MOST


def _no_side(value: Any) -> str:
    is_side = not find_problem(value, int) and 1 <= value <= _LONGEST_SIDE
    return "" if is_side else f"must be a number of pixels from 1 to {_LONGEST_SIDE}, got {shown(value)}"


def _no_number_of_classes(value: Any) -> str:
    is_number = not find_problem(value, int) and 0 <= value <= _MOST
    return "" if is_number else f"must be a number from 0 to {_MOST:,}, got {shown(value)}"


def _no_factor(value: Any) -> str:
    is_factor = not find_problem(value, float) and 0.1 <= value <= 10
    return "" if is_factor else f"must be a number from 0.1 to 10, got {shown(value)}"


def _no_arguments(value: Any) -> str:
    if not isinstance(value, dict):
        return f"must be a mapping, got {shown(value)}"
    place = find_large(value, _MOST)
    return f"must have no number beyond {_MOST:,}, but has one at {place}" if place else ""


def _not_positive(value: Any) -> str:
    return "" if not find_problem(value, float) and value > 0 else "must be a number above zero"


_FORM = {
    "task": str,
    "architecture": str,
    "arguments": _no_arguments,
    "classes": [str],
    "mean": [float],
    "std": [_not_positive],
    "details": dict,
}
_OPTIONAL_SIZE = (None, [_no_side])
_DETAILS = {
    "detection": {"category_ids?": [int]},
    "segmentation": {
        "image_size?": _OPTIONAL_SIZE,
        "views?": {"window?": _OPTIONAL_SIZE, "stride?": _OPTIONAL_SIZE, "scales?": [_no_factor], "flip?": bool},
    },
}
_DETECTOR = {"min_size?": ([_no_side], _no_side), "max_size?": _no_side}
# What timm reads of a classifier's folder.
_TIMM_DATA = {
    "input_size?": [_no_side],
    "mean?": [float],
    "std?": [_not_positive],
    "crop_pct?": (None, _no_factor),
    "interpolation?": str,
}
_TIMM = {
    "architecture": str,
    "num_classes?": _no_number_of_classes,
    "label_names?": (None, list, dict),
    "model_args?": _no_arguments,
    "pretrained_cfg?": _TIMM_DATA,
    **_TIMM_DATA,
}

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

    The two take their places one directly after the other, once both are written: no file system replaces two at once. A
    process that is killed just between leaves the new weights beside the old description; where that matters, save into a
    new folder.

    Raises:
        CheckpointError: the weights cannot be written.
        OSError: the folder or the description cannot be written.
        TypeError: the arguments hold what JSON cannot, such as a function; name layers instead.
    """
    content = {**asdict(description), "arguments": _without_sources(description.arguments)}
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().cpu() for name, value in net.state_dict().items()}
    with replaced(folder / CONFIG) as file:
        file.write(encoded(text))
        file.flush()  # what the disk has no place for is refused before the weights are replaced
        checkpoints.write(state, folder / WEIGHTS, {"architecture": description.architecture})


def describe(folder: str | Path, *, allow_network: bool = False) -> Description | None:
    """Read and check the description of a saved net; None where the folder holds none of ours (timm's have no task).

    Args:
        folder: that `save` wrote, or another.
        allow_network: whether the description may name an architecture on a hub.

    Raises:
        CheckpointError: there is a description, and it is damaged, of another version, or names a place in a network
            while ``allow_network`` is false.
    """
    path = Path(folder) / CONFIG
    if not path.exists():
        return None
    config = _read(path)
    if not isinstance(config, dict) or "task" not in config:
        return None
    if config["task"] not in tuple(_BUILDERS):
        raise CheckpointError(
            f"{path} is of an unknown task {config['task']!r}; expected {', '.join(_BUILDERS)}; save the net anew"
        )
    unknown = sorted(config.keys() - _FORM.keys())
    problem = find_problem(config, _FORM) or find_problem(config["details"], _DETAILS[config["task"]], "details")
    if config["task"] == "detection":
        problem = problem or find_problem(config["arguments"], _DETECTOR, "arguments")
    if unknown:
        problem = problem or f"the key {unknown[0]!r} is unknown"
    if not problem and len(config["mean"]) != len(config["std"]):
        problem = f"mean and std must be as many, got {len(config['mean'])} and {len(config['std'])}"
    ids = config.get("details", {}).get("category_ids") if not problem else None
    if ids is not None and len(ids) != len(config["classes"]):
        problem = f"there are {len(ids)} category_ids for {len(config['classes'])} classes"
    if problem:
        raise CheckpointError(
            f"{path} is no description of this version's: {problem}; expected the keys {', '.join(_FORM)}; save the net "
            "anew"
        )
    _refuse_addresses(path, (config["architecture"], config["arguments"]), allow_network)
    tuples = {key: tuple(config[key]) for key in ("classes", "mean", "std")}
    return Description(**{**config, **tuples, "arguments": _without_sources(config["arguments"])})


def check_classifier(folder: str | Path, *, allow_network: bool = False) -> None:
    """Check the description in a folder that timm is about to read, and that the weights beside it can be its net's.

    Args:
        folder: of a classifier, as timm and ``involution fit`` write it.
        allow_network: whether the description may name an architecture on a hub.

    Raises:
        CheckpointError: it is missing, damaged, not of timm's form, names a place in a network while
            ``allow_network`` is false, or a net that the weights, if any, are too small for.
    """
    import timm

    path = Path(folder) / CONFIG
    config = _read(path)
    problem = find_problem(config, _TIMM)
    if problem:
        raise CheckpointError(f"{path} is no description of timm's: {problem}; save the net anew")
    _refuse_addresses(path, (config["architecture"], config.get("model_args")), allow_network)
    size = size_of_weights(path.parent)
    if not size:
        raise CheckpointError(f"{path.parent} holds no weights: expected {WEIGHTS} beside {CONFIG}; save the net anew")
    try:
        blueprint(lambda: timm.create_model(f"local-dir:{path.parent}"), size)
    except CheckpointError as error:
        raise CheckpointError(f"{path} describes another net than the weights are of: {error}; save it anew") from error
    except Exception:
        # What timm refuses, or cannot make without memory, it says when it makes the net.
        return


def _read(path: Path) -> Any:
    try:
        return read_json(path)
    except FileNotFoundError as error:
        inside = [path.parent / name for name in _NETS_OF_A_RUN if (path.parent / name / CONFIG).exists()]
        remedy = f"; name the net of this training, {inside[0]}" if inside else ""
        raise CheckpointError(f"{path.parent} holds no saved net: expected {CONFIG} and {WEIGHTS}{remedy}") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {in_one_line(error)}; save the net anew") from error


def _refuse_addresses(path: Path, parts: Any, allow_network: bool) -> None:
    address = "" if allow_network else find_address(parts)
    if address:
        raise CheckpointError(
            f"{path} names {address!r}, which would be fetched from a network; where you trust both, allow it "
            "(--allow-network, allow_network=True)"
        )


def _without_sources(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _without_sources(value) if isinstance(value, Mapping) else value
        for name, value in arguments.items()
        if name not in _SOURCES
    }


def build(description: Description) -> nn.Module:
    """Build the net of a description, with random weights.

    Raises:
        ValueError: the architecture or an argument is unknown.
    """
    create = import_module(_BUILDERS[description.task]).create
    return create(description.architecture, len(description.classes), **description.arguments)


def load(folder: str | Path, *, allow_network: bool = False) -> tuple[nn.Module, Description]:
    """Build a saved net, in evaluation mode, with exactly the weights that were saved.

    Args:
        folder: that `save` wrote.
        allow_network: whether the description may name an architecture on a hub, which is fetched then.

    Raises:
        CheckpointError: the folder holds no net of ours, weights and description do not fit one another, or the weights
            are no finite numbers.
    """
    description = describe(folder, allow_network=allow_network)
    if description is None:
        raise CheckpointError(f"{folder} holds no saved net: expected {CONFIG} with a task, and {WEIGHTS}")
    path = Path(folder) / WEIGHTS
    state = checkpoints.read(path)
    try:
        # First without memory for its weights: a description can name sizes that no file beside it has.
        expected = blueprint(lambda: build(description), path.stat().st_size).state_dict()
    except Exception as error:
        # What a description of the right form still says wrong, the classes it names say in their own ways.
        raise CheckpointError(
            f"{Path(folder) / CONFIG} describes a net that cannot be built: {in_one_line(error)}; save the net anew"
        ) from error
    problems = checkpoints.misfit(state, expected, listed=5)
    if problems:
        raise CheckpointError(f"{path} does not fit its description: {problems}; save the net anew")
    checkpoints.refuse_not_finite(state, path)
    net = build(description)
    net.load_state_dict(state)
    return net.eval(), description
