"""A net of the space as a recipe of ``involution fit``, and its training inside this process."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import timm
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningCLI

from ... import models  # noqa: F401  (registers the nets)
from ...counting import Cost, count
from ...errors import CommandError, DivergenceError
from ...logs import errors_alone
from ...models.searchable import Blocks
from ...recipes import merge
from ...schema import find_problem
from ...tasks.callbacks import EpochSeed, History, Row
from ..fitting import fit, quiet

__all__ = ["MOST_ENDED", "Training", "build", "channels", "check", "cost", "input_size", "recipe_of", "train"]

MODEL = "searchable_rednet"
# Processes that may end at a net, without having been asked to, before it is taken for what ends them.
MOST_ENDED = 3

_SIZES = {"digits": (1, 8, 8), "mnist": (1, 28, 28), "fashion_mnist": (1, 28, 28), "cifar10": (3, 32, 32)}
# What of a recipe the search itself reads.
_FORM = {
    "model": {"class_path": str, "init_args": {"num_classes": int, "model_args?": dict}},
    "data": {"class_path": str, "init_args?": {"dataset?": str, "validation_share?": float}},
}


@dataclass(frozen=True)
class Training:
    """What a training gave.

    Attributes:
        history: a row an epoch, see `involution.tasks.callbacks.History`; its test figures are those of validation.
        failure: why the training ended before its last epoch; empty where it did not.
    """

    history: tuple[Row, ...]
    failure: str = ""

    @property
    def accuracy(self) -> float | None:
        """Share of the validation images, from 0 to 1, after the last epoch; None of a training that failed."""
        return None if self.failure or not self.history else float(self.history[-1]["test_accuracy"])


def check(recipe: Mapping[str, Any]) -> None:
    """Refuse a recipe that nets cannot be chosen by: what chooses has to see images that are neither trained on nor tested.

    Raises:
        CommandError: it names no data or no classifier that a search can train, its net takes other images than its data
            are, or it sets no training images apart: then validation would see the test images.
    """
    problem = find_problem(recipe, _FORM)
    if problem:
        raise CommandError(f"the recipe cannot train the nets of a search: {problem}")
    channels = input_size(recipe)[0]
    taken = recipe["model"]["init_args"].get("model_args", {}).get("in_chans", 3)
    if taken != channels:
        raise CommandError(
            f"the recipe's nets take images of {taken} channels, its data have {channels}; give model.init_args.model_args "
            f"in_chans: {channels}"
        )
    if not recipe["data"].get("init_args", {}).get("validation_share", 0) > 0:
        raise CommandError(
            "the recipe sets no images apart, so that the test images would choose; give data.init_args a "
            "validation_share above 0, and a train_share that leaves it its images"
        )


def recipe_of(base: Mapping[str, Any], blocks: Blocks | str, seed: int) -> dict[str, Any]:
    """Return the recipe that trains a net as ``base`` trains its own.

    Args:
        base: a recipe of ``involution fit``; its ``model_args`` say what all nets share, such as the stem.
        blocks: the net.
        seed: of weights, order of the images and augmentation.
    """
    net = {"model": {"init_args": {"model": MODEL, "model_args": {"blocks": str(blocks)}}}}
    data = {"data": {"init_args": {"seed": seed}}}
    return merge(merge(dict(base), net), {"seed_everything": seed, **data})


def build(recipe: Mapping[str, Any]) -> torch.nn.Module:
    """Return the net of a recipe, with random weights.

    Raises:
        CommandError: it cannot be built.
    """
    arguments = recipe["model"]["init_args"]
    try:
        return timm.create_model(
            arguments["model"], num_classes=arguments["num_classes"], **arguments.get("model_args", {})
        )
    except (RuntimeError, ValueError, TypeError) as error:
        raise CommandError(f"the net {arguments} cannot be built: {error}") from error


def input_size(recipe: Mapping[str, Any]) -> tuple[int, int, int]:
    """Return channels, height and width of the images that a recipe trains on.

    Raises:
        CommandError: the recipe's data are none of the small image sets.
    """
    data = recipe["data"]
    name = data.get("init_args", {}).get("dataset", "digits")
    if not str(data.get("class_path")).endswith("SmallImages") or name not in _SIZES:
        raise CommandError(
            f"the nets of a search classify SmallImages; let the recipe's data be one of {', '.join(_SIZES)}, got {data}"
        )
    return _SIZES[name]


def channels(recipe: Mapping[str, Any]) -> int:
    """Return the channels of the images that a recipe trains a classifier on.

    Raises:
        CommandError: it trains none, or on data whose images are unknown here.
    """
    problem = find_problem(recipe, _FORM)
    if problem:
        raise CommandError(f"the recipe cannot train a net of a search: {problem}")
    # The data that are read from files of colour images.
    if recipe["data"]["class_path"].endswith(("ImageFolders", "ImageShards")):
        return 3
    return input_size(recipe)[0]


def cost(recipe: Mapping[str, Any]) -> Cost:
    """Return parameters and multiply-adds of the net of a recipe, for an image of its data."""
    with torch.device("meta"):
        return count(build(recipe), input_size(recipe))


def train(
    recipe: Mapping[str, Any], *, data_root: str | None = None, on_row: Callable[[list[Row]], None] | None = None
) -> Training:
    """Train a recipe as ``involution fit`` does; nothing is written.

    Args:
        recipe: with ``seed_everything``.
        data_root: folder of the data sets; None for what the recipe or the environment says.
        on_row: called with the history after every epoch; what it raises ends the training.

    Raises:
        KeyboardInterrupt: Ctrl-C.
        SystemExit: SIGTERM.
    """
    history = History(on_row)
    silent = {
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "logger": False,
        "num_sanity_val_steps": 0,
    }
    changes: dict[str, Any] = {"trainer": silent}
    if data_root is not None:
        changes["data"] = {"init_args": {"data_root": data_root}}
    plan = merge({key: value for key, value in recipe.items() if key != "run"}, changes)
    with quiet(), errors_alone("lightning.fabric"):
        # It is meant here, and the words of a shell are not read.
        warnings.filterwarnings("ignore", "LightningCLI's args parameter")
        cli = _made(plan, [EpochSeed(int(recipe["seed_everything"])), history])
        try:
            fit(cli.trainer, cli.model, cli.datamodule)
        except DivergenceError as error:
            return Training(tuple(history.rows), str(error).partition(";")[0])
    return Training(tuple(history.rows))


def _made(plan: Mapping[str, Any], callbacks: list[Callback]) -> LightningCLI:
    return LightningCLI(
        LightningModule,
        LightningDataModule,
        trainer_class=Trainer,
        trainer_defaults={"callbacks": callbacks},
        subclass_mode_model=True,
        subclass_mode_data=True,
        save_config_callback=None,
        run=False,
        args=dict(plan),
    )
