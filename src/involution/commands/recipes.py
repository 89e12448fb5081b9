"""Recipes that build on another one: ``base: other.yaml`` at the head of a configuration file.

LightningCLI takes several ``--config``, but no file can say which one it belongs on: what a file names under ``config``
is merged before its own keys have a class, and a class's arguments, or a mapping such as ``model_args``, are replaced.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any, NoReturn

import yaml  # type: ignore[import-untyped]
from jsonargparse import get_loader
from lightning.pytorch.cli import LightningArgumentParser

from ..errors import CommandError, in_one_line
from .parsing import refuse

_DEEPEST, _MOST_VALUES = 50, 100_000


class RecipeParser(LightningArgumentParser):
    """Lightning's parser; a configuration file with ``base`` stands for itself merged into what it names."""

    def parse_path(self, path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
        """Parse a configuration file; the file alone, as Lightning does, where it names no base."""
        try:
            recipe = _load(Path(path))
        except (CommandError, OSError, ValueError):
            # Whatever is wrong with a file by itself, Lightning says.
            recipe = {}
        _refuse_tangled(recipe, os.fspath(path))
        if "base" not in recipe:
            try:
                return super().parse_path(path, *args, **kwargs)
            except UnicodeDecodeError as error:
                raise CommandError(f"{os.path.relpath(path)} is no text: {error}") from error
        return self.parse_string(
            yaml.safe_dump(resolve(path), sort_keys=False), os.path.basename(path), *args, **kwargs
        )

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """End with what is wrong in the first line, and no more than nine others."""
        if not self.exit_on_error:
            super().error(message, ex)
        refuse(message)


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


def resolve(path: str | os.PathLike[str], above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Return a recipe merged into the one that it names as its ``base``, and so on to the one that names none.

    Args:
        path: of the recipe; the path in ``base`` is relative to the file that holds it.
        above: the recipes, resolved paths, that led here by their ``base``.

    Raises:
        CommandError: a file is missing or no mapping, ``base`` is no path, or a recipe builds on itself.
    """
    file = Path(path).resolve()
    if file in above:
        chain = " → ".join(os.path.relpath(each) for each in (*above, file))
        raise CommandError(f"a recipe cannot build on itself: {chain}; remove one of these lines 'base'")
    if above and not file.is_file():
        raise CommandError(f"{os.path.relpath(above[-1])} has base {os.path.relpath(file)}, which is no file")
    recipe = _load(file)
    if "base" not in recipe:
        return recipe
    base = recipe.pop("base")
    if not isinstance(base, str):
        raise CommandError(f"{os.path.relpath(file)} has base {base!r}; expected the path of one recipe")
    return merge(resolve(file.parent / base, (*above, file)), recipe)


def merge(base: Any, delta: Any) -> Any:
    """Return ``base`` with what ``delta`` says differently.

    Mappings merge key by key. All else replaces: numbers, words, lists, and a mapping whose ``class_path`` is not the
    base's, since the arguments of one class mean nothing to another.
    """
    if not (isinstance(base, dict) and isinstance(delta, dict)):
        return delta
    if delta.get("class_path", base.get("class_path")) != base.get("class_path"):
        return delta
    return base | {key: merge(base[key], value) if key in base else value for key, value in delta.items()}


def _load(file: Path) -> dict[str, Any]:
    """Return what a YAML file holds, read as the parser reads it (``1e-3`` is a number)."""
    try:
        recipe = get_loader("yaml")(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise CommandError(f"{os.path.relpath(file)} is no YAML: {in_one_line(error)}") from error
    if not isinstance(recipe, dict):
        raise CommandError(f"{os.path.relpath(file)} holds no recipe; expected keys such as 'model' and 'data'")
    return recipe
