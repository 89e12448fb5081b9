"""The parser of ``fit``, ``validate`` and ``test``: configuration files may name a ``base``, and errors are short."""

from __future__ import annotations

import itertools
import os
import re
from enum import Enum
from inspect import signature
from pathlib import Path
from typing import Any, NoReturn

import yaml  # type: ignore[import-untyped]
from jsonargparse import set_dumper
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser

from .. import data, tasks
from ..errors import CommandError
from ..recipes import load, names, resolve
from ..schema import shown
from .parsing import WithExample, refuse

_DEEPEST, _MOST_VALUES = 50, 100_000
# What the parser calls the form that `_as_recipe` writes.
_FORMAT = "involution recipe"


class _Dumper(yaml.SafeDumper):
    """Writes a constant of an enumeration as its value: defaults that are annotated as text come as such."""


_Dumper.add_multi_representer(Enum, lambda dumper, constant: dumper.represent_data(constant.value))


def _as_recipe(content: Any) -> str:
    try:
        return yaml.dump(content, Dumper=_Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False)
    except yaml.representer.RepresenterError as error:
        value = error.args[-1]
        raise CommandError(
            f"the configuration holds {shown(value)} of the kind {type(value).__name__}, which no file of it can hold; give "
            "that argument as plain text"
        ) from error


set_dumper(_FORMAT, _as_recipe)


class RecipeParser(WithExample, LightningArgumentParser):
    """Lightning's parser; a configuration file with ``base`` stands for itself merged into what it names."""

    def parse_path(self, path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
        """Parse a configuration file; the file alone, as Lightning does, where it names no base."""
        try:
            recipe = load(Path(path))
        except OSError:
            # What is wrong with a path, Lightning says.
            recipe = {}
        _refuse_tangled(recipe, os.fspath(path))
        if "base" not in recipe:
            return super().parse_path(path, *args, **kwargs)
        return self.parse_string(
            yaml.safe_dump(resolve(path), sort_keys=False), os.path.basename(path), *args, **kwargs
        )

    def dump(self, namespace: Any, format: str = "parser_mode", *args: Any, **kwargs: Any) -> str:
        """Return a configuration as the text of a recipe, or in another form that is asked for."""
        return super().dump(namespace, _FORMAT if format == "parser_mode" else format, *args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """End with what is wrong in the first line, and no more than nine others."""
        if not self.exit_on_error:
            super().error(message, ex)
        refuse(message + _hint(message))


def _hint(message: str) -> str:
    """Return what was meant by a flag without its part, and which recipes there are in the place of one that is missing."""
    unknown = re.match(r"unrecognized arguments: --([\w-]+)", message)
    missing = re.search(r"File does not exist: '.*?(recipes/\w+)/[^/]*'", message)
    if unknown:
        flags = _flags(unknown[1].replace("-", "_"))
        return f"; expected {' or '.join(flags)}" if flags else ""
    known = names(missing[1].removeprefix("recipes/")) if missing else []
    return f"; {missing[1]} holds {', '.join(known)}" if missing and known else ""


def _flags(name: str) -> list[str]:
    """Return the flags of a training that end with ``name``, of the library's tasks and data and of the trainer."""
    parts = {"model": vars(tasks), "data": vars(data), "trainer": {"Trainer": Trainer}}
    kinds = (LightningModule, LightningDataModule, Trainer)
    return [
        f"--{part}.{name}"
        for part, found in parts.items()
        if any(
            name in signature(value).parameters
            for value in found.values()
            if isinstance(value, type) and issubclass(value, kinds)
        )
    ]


def _refuse_tangled(recipe: dict[str, Any], path: str) -> None:
    """Refuse what an alias of YAML's makes endless, or much larger than the file."""
    waiting: list[tuple[Any, int]] = [(recipe, 0)]
    for seen in itertools.count():
        if not waiting:
            return
        value, depth = waiting.pop()
        if depth > _DEEPEST or seen > _MOST_VALUES:
            raise CommandError(
                f"{os.path.relpath(path)} is nested too deeply, or has a part that contains itself; write out what its "
                "aliases (*name) stand for"
            )
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        waiting += [(part, depth + 1) for part in parts]
