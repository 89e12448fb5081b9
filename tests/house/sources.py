"""The sources as the tests of the house read them: modules by name, their syntax, and what each imports."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).parents[2]
# A module given as a string, to be imported when it is needed: in a table, or as an argument of import_module.
MODULE_STRING = re.compile(r"involution(\.\w+)+\.?")


class Module(NamedTuple):
    """A source file of the library."""

    name: str
    path: Path
    tree: ast.Module

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"


@cache
def modules() -> dict[str, Module]:
    """Return every module of the library by its name."""
    found = {}
    for path in sorted((REPOSITORY / "src").rglob("*.py")):
        name = ".".join(path.relative_to(REPOSITORY / "src").with_suffix("").parts).removesuffix(".__init__")
        found[name] = Module(name, path, ast.parse(path.read_text(encoding="utf-8"), str(path)))
    return found


def imports(module: Module) -> Iterator[tuple[int, str]]:
    """Yield line and dotted name of all that a module imports: anywhere in it, for types only, or by a string.

    A name taken from a module is part of the dotted name, because it may be a module itself.
    """
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = absolute("." * node.level + (node.module or ""), module)
            # A package's own path, which Python sets, makes no circle of a file and its package.
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names if alias.name != "__path__")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if MODULE_STRING.fullmatch(node.value):
                yield node.lineno, node.value.rstrip(".")
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            argument = node.args[0] if node.args else None
            if isinstance(argument, ast.Constant) and not MODULE_STRING.fullmatch(argument.value):
                yield node.lineno, absolute(argument.value, module)


def absolute(name: str, module: Module) -> str:
    """Return the full name of what ``module`` calls ``name``, with a dot in front for every package upwards."""
    bare = name.lstrip(".")
    level = len(name) - len(bare)
    if not level:
        return name
    package = module.name.split(".")
    package = package[: len(package) - level + module.is_package]
    return ".".join([*package, bare] if bare else package)


@cache
def arrows() -> dict[tuple[str, str], list[str]]:
    """Return for each pair of modules, user and used, the places of the imports."""
    found: dict[tuple[str, str], list[str]] = {}
    for module in modules().values():
        for line, name in imports(module):
            if name.partition(".")[0] not in ("involution", "involution_cli"):
                continue
            while name not in modules():
                name = name.rpartition(".")[0]
            if name != module.name:
                place = f"{module.path.relative_to(REPOSITORY)}:{line}"
                found.setdefault((module.name, name), []).append(place)
    return found
