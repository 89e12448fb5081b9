"""The public names: docs/api.md lists them as they are, and each says what it takes."""

import ast
import importlib
import inspect
import re
import sys
from types import ModuleType
from typing import Any

import pytest
from house.sources import REPOSITORY, Module, imports, modules
from pages import blocks

from involution.backends.request import Backend, SpanBackend

BLOCK = re.compile(r"^\.\. automodule:: (\S+)\n   :members:(.*\n(?:      .+\n)*)", re.MULTILINE)

# Public functions and classes that do not describe every argument yet. Whoever describes them removes their lines.
UNDESCRIBED = {
    "involution.backends.choose",
    "involution.backends.explain",
    "involution.backends.register",
    "involution.models.saved.save",
}


def inventory() -> dict[str, list[str]]:
    """Return the names that docs/api.md lists, by module."""
    text = (REPOSITORY / "docs" / "api.md").read_text(encoding="utf-8")
    return {module: re.split(r",\s*", members.strip()) for module, members in BLOCK.findall(text)}


INVENTORY = inventory()
OF_BACKENDS = {name for protocol in (Backend, SpanBackend) for name in (*vars(protocol), *protocol.__annotations__)}
OBJECTS = {
    f"{module}.{name}": getattr(importlib.import_module(module), name, None)
    for module, names in INVENTORY.items()
    for name in names
}


def exported(module: str) -> list[str]:
    """Return the public names of a module, without modules, which have lists of their own, and ``__version__``.

    Neither are there the names by which a module is a backend: the protocols describe them.
    """
    found = importlib.import_module(module)
    names = [n for n in found.__all__ if not n.startswith("__") and not isinstance(getattr(found, n), ModuleType)]
    return [n for n in names if n not in OF_BACKENDS]


def test_the_inventory_has_every_public_module():
    door = importlib.import_module("involution")
    public = {f"involution.{name}" for name in door.__all__ if isinstance(getattr(door, name), ModuleType)}
    for module in modules().values():
        if (
            module.is_package
            and module.name.count(".") <= 1
            and hasattr(importlib.import_module(module.name), "__all__")
        ):
            public.add(module.name)
    assert public <= INVENTORY.keys(), "add a block of its names to docs/api.md"


def test_the_inventory_has_what_pages_import():
    missing = {
        name: block.place
        for block in blocks("python")
        for statement in ast.parse(block.text).body
        if isinstance(statement, (ast.Import, ast.ImportFrom))
        for _, name in imports(Module(block.page, REPOSITORY, statement))
        if name.partition(".")[0] == "involution" and name not in {*INVENTORY, *OBJECTS}
    }
    assert not missing, "add a block of its names to docs/api.md, or show something public"


@pytest.mark.parametrize("module", INVENTORY)
def test_the_inventory_is_what_is_exported(module):
    assert INVENTORY[module] == exported(module), "docs/api.md and __all__ differ"


@pytest.mark.parametrize("name", OBJECTS)
def test_public_names_say_what_they_are_and_take(name):
    found = OBJECTS[name]
    if not callable(found):
        return
    assert inspect.getdoc(found), f"{name} has no docstring"
    missing = undescribed(found)
    if name in UNDESCRIBED:
        assert missing, "described: remove its line from UNDESCRIBED"
    else:
        assert not missing, f"{name}: the docstring has no entry under Args for {', '.join(missing)}"


def test_what_is_undescribed_is_public():
    assert OBJECTS.keys() >= UNDESCRIBED


def undescribed(found: Any) -> list[str]:
    """Return the arguments that a function or class of the library takes, more than one, and does not describe.

    It describes them under Args or Attributes, or refers to another function or class that does: "as in `other`".
    """
    own = own_arguments(found)
    if len(own) < 2:
        return []
    text = inspect.getdoc(found) or ""
    scope = vars(sys.modules[found.__module__])
    for reference in re.findall(r"(?:as|as in|after|see) `(\w+)`", text):
        text += "\n" + (inspect.getdoc(scope.get(reference)) or "")
    return [name for name in own if not re.search(rf"^ +{name}(, \w+)*:", text, re.MULTILINE)]


def own_arguments(found: Any) -> list[str]:
    """Return the named arguments, but not those that a constructor leaves to another library's."""
    if hasattr(found, "_fields"):
        return list(found._fields)
    if inspect.isclass(found):
        inherited = not getattr(found.__init__, "__module__", "").startswith("involution")
        if inherited or getattr(found, "_is_protocol", False):
            return []
    parameters = inspect.signature(found).parameters.values()
    return [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def documented(first: int, second: int) -> None:
    """Stand for a function.

    Args:
        first: an argument.
    """


def referring(first: int, second: int) -> None:
    """Stand for a function; arguments as in `documented`."""


def alone(first: int) -> None:
    """Stand for a function of one argument."""


@pytest.mark.parametrize(("function", "missing"), [(documented, ["second"]), (referring, ["second"]), (alone, [])])
def test_arguments_without_a_description_are_found(function, missing):
    assert undescribed(function) == missing
