"""Weights that come with the library: a folder each in ``involution/weights``, named as timm names weights, NAME.TAG.

A folder holds what ``involution fit`` wrote, ``config.json`` (to which the licence was added) and ``model.safetensors``, and
a card, ``README.md``. It is found by ``timm.create_model("NAME.TAG", pretrained=True)`` and wherever weights are named: adding a folder is all there
is to do.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, in_one_line
from ..files import read_json
from ..schema import find_problem

__all__ = ["FOLDER", "configurations", "find", "names", "place", "seen_by"]

FOLDER = Path(__file__).parents[1] / "weights"

# What timm has to know of weights beside where they are; the keys of its configurations that a folder states.
_INPUT = ("input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std")
_NET = ("num_classes", "first_conv", "classifier", "license", "origin_url", "paper_name", "paper_ids")
_FORM = {"pretrained_cfg": {"input_size": [int], "mean": [float], "std": [float], "num_classes": int}}


def names() -> list[str]:
    """Return the names of all weights that come with the library, ``NAME.TAG``, sorted."""
    return sorted(path.parent.name for path in FOLDER.glob("*.*/config.json"))


def find(name: str | Path) -> Path | None:
    """Return the folder of weights that come with the library; None where none have this name."""
    return FOLDER / name if str(name) in names() else None


def place(weights: str | Path | None) -> Path | None:
    """Return the folder or file that is meant by weights to start from.

    Args:
        weights: a name of `names`, a folder or a file; None and the word ``none`` (as a command line can say it) for none.
    """
    if weights is None or str(weights).lower() == "none":
        return None
    return find(weights) or Path(weights)


def configurations(architectures: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return timm's configuration of all weights of these architectures, by ``NAME.TAG``.

    Raises:
        CheckpointError: a folder's description is damaged.
    """
    wanted = set(architectures)
    return {name: _configuration(FOLDER / name) for name in names() if name.partition(".")[0] in wanted}


def seen_by(weights: str | Path | None) -> dict[str, Any]:
    """Return how a net with these weights is to see an image: ``input_size``, ``mean``, ``std``, …

    Args:
        weights: a name of `names`, a folder in timm's form, or a file.

    Returns:
        The entries of timm's configuration; empty where the weights do not say, as those in a file do not.

    Raises:
        CheckpointError: the folder's description is damaged.
    """
    folder = place(weights)
    if folder is None or not (folder / "config.json").is_file():
        return {}
    described = _read(folder).get("pretrained_cfg") or {}
    return {key: described[key] for key in _INPUT if key in described}


def _configuration(folder: Path) -> dict[str, Any]:
    config = _read(folder)
    problem = find_problem(config, _FORM)
    if problem:
        raise CheckpointError(f"{folder / 'config.json'} is damaged: {problem}; install the library anew")
    described = config["pretrained_cfg"]
    # JSON has no tuples.
    entries = {key: _tuple(described[key]) for key in (*_INPUT, *_NET) if key in described}
    labels = config.get("label_names")
    return {**entries, "label_names": labels and tuple(labels), "file": str(folder / "model.safetensors")}


def _read(folder: Path) -> Any:
    try:
        return read_json(folder / "config.json")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / 'config.json'} is damaged: {in_one_line(error)}") from error


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
