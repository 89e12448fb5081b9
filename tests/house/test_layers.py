"""Arrows never run upwards: a table of the rooms from bottom to top, and every import against it."""

import ast

import pytest
from house.sources import REPOSITORY, Module, arrows, imports, modules

# From bottom to top. A room may use those of the rows below it; rooms of one row do not know one another. A room is a
# file or a folder of src/involution; "involution" is the door, the names in its __init__.py, which no room below needs.
ROOMS = (
    ("errors", "involution_cli.commands"),
    ("geometry", "memory_layout", "files", "schema", "logs"),
    ("records", "recipes"),
    ("backends",),
    ("operators",),
    ("span",),
    ("functional",),
    ("kernel_generation",),
    ("modules", "upsampling"),
    ("counting",),
    ("surgery", "export", "keras"),
    ("involution",),
    ("models", "data", "pictures"),
    ("runs",),
    ("tasks",),
    ("studies", "browser"),
    ("commands",),
    ("__main__", "involution_cli"),
)
ROWS = {room: row for row, rooms in enumerate(ROOMS) for room in rooms}

# Arrows that run upwards or between the rooms of a row, with the reason. Whoever removes one removes its line.
KNOWN: dict[tuple[str, str], str] = {}


def room(module: str) -> str:
    """Return the room of a module: the file or folder of src/involution; each file of src/involution_cli is one."""
    if module.partition(".")[0] == "involution_cli":
        return module
    return module.split(".")[1] if "." in module else module


def bare(module: str) -> str:
    return module.removeprefix("involution.")


def upward() -> dict[tuple[str, str], list[str]]:
    found = {}
    for (user, used), places in arrows().items():
        rooms = room(user), room(used)
        if rooms[0] == rooms[1] or not ROWS.keys() >= set(rooms):
            continue
        if ROWS[rooms[0]] <= ROWS[rooms[1]]:
            found[bare(user), bare(used)] = places
    return found


def test_every_file_has_a_room():
    rooms = {room(name) for name in modules()}
    assert not rooms - ROWS.keys(), "give the new room a row in ROOMS"


def test_no_arrow_runs_upwards():
    unknown = {arrow: places for arrow, places in upward().items() if arrow not in KNOWN}
    assert not unknown, "\n".join(
        f"{places[0]}: {user} uses {used}, which stands above or beside it; move what is needed down"
        for (user, used), places in unknown.items()
    )


def test_known_arrows_are_still_there():
    assert upward().keys() >= KNOWN.keys(), "gone: remove its line from KNOWN"


def circles() -> dict[str, set[str]]:
    """Return by room the files that need themselves through others of their room."""
    uses: dict[str, set[str]] = {}
    for user, used in arrows():
        if room(user) == room(used):
            uses.setdefault(user, set()).add(used)
    reached = {name: set(used) for name, used in uses.items()}
    for through in uses:
        for name in uses:
            if through in reached[name]:
                reached[name] |= reached[through]
    found: dict[str, set[str]] = {}
    for name in uses:
        if name in reached[name]:
            found.setdefault(room(name), set()).add(bare(name))
    return found


def test_no_room_has_a_circle():
    assert not circles(), "files that need one another: move what both need into a third"


def test_the_library_knows_nothing_around_it():
    outside = {"benchmarks", "tools", "tests"} | {path.stem for path in (REPOSITORY / "tests").rglob("*.py")}
    for module in modules().values():
        for line, name in imports(module):
            assert name.partition(".")[0] not in outside, f"{module.path}:{line} imports {name}, which is not installed"


@pytest.mark.parametrize(
    ("file", "source", "expected"),
    [
        ("data/a.py", "def f():\n    from ..tasks import x", ["involution.tasks.x"]),
        ("data/a.py", "from . import b", ["involution.data.b"]),
        ("data/__init__.py", "from .b import c", ["involution.data.b.c"]),
        ("data/__init__.py", "from .. import tasks", ["involution.tasks"]),
        ("a.py", "if TYPE_CHECKING:\n    import involution.tasks as t", ["involution.tasks"]),
        ("a.py", "BUILDERS = {'x': 'involution.models.detection'}", ["involution.models.detection"]),
        ("a.py", "import_module('involution.commands.main')", ["involution.commands.main"]),
        ("a.py", "import_module(f'involution.commands.{name}')", ["involution.commands"]),
        ("data/a.py", "importlib.import_module('..tasks', __package__)", ["involution.tasks"]),
        ("data/a.py", "from . import __path__ as folders", []),
        ("a.py", "operator = torch.ops.load('involution')", []),
    ],
)
def test_imports_are_found_wherever_they_stand(file, source, expected):
    path = REPOSITORY / "src" / "involution" / file
    name = ".".join(("involution", *file.removesuffix(".py").split("/"))).removesuffix(".__init__")
    found = [name for _, name in imports(Module(name, path, ast.parse(source)))]
    assert found == expected
