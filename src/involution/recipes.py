"""Recipes as files: a mapping of what is trained and how, and what it says differently from the one that is its base.

LightningCLI takes several ``--config``, but no file can say which one it belongs on: what a file names under ``config``
is merged before its own keys have a class, and a class's arguments, or a mapping such as ``model_args``, are replaced.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .errors import CommandError, in_one_line

__all__ = ["beside", "find", "leaves", "load", "merge", "names", "resolve"]

# Where an installed library has the recipes, and where a checkout has them.
_PLACES = (Path(__file__).with_name("_shipped") / "recipes", Path(__file__).parents[2] / "recipes")


def find(path: str | os.PathLike[str]) -> Path:
    """Return a recipe's path, where this folder has no such file that of the library's own (``recipes/…``).

    Args:
        path: of the file; whatever is there is taken as it is.
    """
    given = Path(path)
    if given.exists() or given.is_absolute() or given.parts[:1] != ("recipes",):
        return given
    inside = Path(*given.parts[1:])
    return next((place / inside for place in _PLACES if (place / inside).is_file()), given)


def names(folder: str) -> list[str]:
    """Return the names of the recipes in a folder of ``recipes/``: of this folder's, or, where it has none, the library's."""
    places = [place / folder for place in (Path("recipes"), *_PLACES)]
    return next((found for place in places if (found := sorted(file.stem for file in place.glob("*.yaml")))), [])


def beside(file: Path, path: str) -> Path:
    """Return the path of what a file names: relative to the file's own place, or one of the library's own (``recipes/…``).

    Args:
        file: that names it.
        path: as it stands there; where there is neither, the result is relative to the file's place.
    """
    near, own = file.parent / path, find(path)
    return own if not near.exists() and own.is_file() else near


def resolve(path: str | os.PathLike[str], above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Return a recipe merged into the one that it names as its ``base``, and so on to the one that names none.

    Args:
        path: of the recipe; the path in ``base`` is that of `beside`.
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
    recipe = load(file)
    if "base" not in recipe:
        return recipe
    base = recipe.pop("base")
    if not isinstance(base, str):
        raise CommandError(f"{os.path.relpath(file)} has base {base!r}; expected the path of one recipe")
    return merge(resolve(beside(file, base), (*above, file)), recipe)


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


def leaves(mapping: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value that is no mapping, after the keys that lead to it, joined by dots."""
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def load(file: Path) -> dict[str, Any]:
    """Return what a YAML file holds, read as the parser reads it (``1e-3`` is a number).

    Raises:
        CommandError: it is no YAML, or no mapping, or has a key twice.
        OSError: it cannot be read.
    """
    import yaml  # type: ignore[import-untyped]
    from jsonargparse import get_loader

    try:
        text = file.read_text(encoding="utf-8")
        recipe = get_loader("yaml")(text)
        twice = _key_twice(yaml.compose(text, Loader=yaml.SafeLoader))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise CommandError(f"{os.path.relpath(file)} is no YAML: {in_one_line(error)}") from error
    if not isinstance(recipe, dict):
        raise CommandError(f"{os.path.relpath(file)} holds no recipe; expected keys such as 'model' and 'data'")
    if twice:
        raise CommandError(
            f"{os.path.relpath(file)} has {twice}, of which the last alone would count; remove the others"
        )
    return recipe


def _key_twice(document: Any) -> str:
    """Return which key a mapping of a YAML document has twice, however deep; nothing where there is none."""
    import yaml

    left, seen = [document], set()
    while left:
        node = left.pop()
        # An anchor's node may stand in many places, in itself as well.
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            again = [key for key, count in Counter(key.value for key in keys).items() if count > 1]
            if again:
                lines = [str(key.start_mark.line + 1) for key in keys if key.value == again[0]]
                return f"the key {again[0]!r} in lines {' and '.join(lines)}"
            left += [value for _, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            left += node.value
    return ""
