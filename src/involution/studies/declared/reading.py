"""Read a study's file, and refuse what would be found out after hours of training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ... import recipes
from ...errors import CommandError
from ...schema import find_problem, find_seed_problem, find_unknown
from ..claims import LESS, Claim
from .declaration import Choice, Row, Study

__all__ = ["find", "read"]

# Where `find` looks for a study by its name.
FOLDER = Path("recipes") / "studies"

_NET = {"recipe": str, "overrides?": (dict, None)}
_ROW = {"net": str, "label?": str, "published?": float, "published_as?": str}
_CHOICE = {"by": str, "seeds": [int]}
_FORM = {
    "title": str,
    "metric": (str, [str]),
    "seeds": [int],
    "nets": dict,
    "data?": (dict, None),
    "settings?": (dict, None),
    "choose?": (_CHOICE, None),
    "overrides?": (dict, None),
    "runs?": str,
    "judge?": (str, None),
    "tables?": (dict, None),
    "curves?": (dict, None),
    "published?": str,
    "claims?": (list, None),
}


def find(name: str) -> Path:
    """Return the file of a study: a path, or the name of one in ``recipes/studies``, of this folder or the library's own.

    Raises:
        CommandError: there is none.
    """
    for path in (Path(name), recipes.find(FOLDER / f"{name}.yaml")):
        if path.is_file():
            return path
    known = ", ".join(recipes.names(FOLDER.name))
    raise CommandError(f"there is no study {name!r}; name a file, or one of {known}")


def read(path: str | Path) -> Study:
    """Read a study's file and the recipes that it names, relative to its own place.

    Raises:
        CommandError: it is damaged, has not the form of a study, or names a net or recipe that is not there.
    """
    file = Path(path)
    source = recipes.load(file)
    _refuse(file, find_problem(source, _FORM) or find_unknown(source, _FORM))
    _refuse(file, next(filter(None, _parts_problems(source)), ""))
    plans = {name: _plan(file, name, net, source.get("overrides") or {}) for name, net in source["nets"].items()}
    metric, choose = source["metric"], source.get("choose")
    study = Study(
        name=file.stem,
        title=source["title"],
        metric=(metric,) if isinstance(metric, str) else tuple(metric),
        seeds=tuple(source["seeds"]),
        plans=plans,
        data=source.get("data") or {"": {}},
        settings=source.get("settings") or {"": {}},
        choice=Choice(choose["by"], tuple(choose["seeds"])) if choose else None,
        runs=source.get("runs", f"runs/studies/{file.stem}/{{name}}"),
        judge=source.get("judge"),
        tables=_tables(source),
        curves={str(name): tuple(sides) for name, sides in (source.get("curves") or {}).items()},
        published=source.get("published", ""),
        claims=tuple(source.get("claims") or ()),
        source=source,
    )
    _refuse(file, next(filter(None, _study_problems(study)), ""))
    return study


def _refuse(file: Path, problem: str) -> None:
    if problem:
        raise CommandError(f"{file} is no study: {problem}")


def _parts_problems(source: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the parts whose names are the study's own, nothing or empty texts if all is right."""
    if not source["nets"]:
        yield "nets names no net"
    for part, form in (("nets", _NET), ("data", None), ("settings", None)):
        for name, content in (source.get(part) or {}).items():
            if not isinstance(name, str):
                yield f"{part} has the name {name!r}, which is no text; write it in quotes"
            elif "/" in name or LESS in name:
                yield f"{part} has the name {name!r}; a claim would take NET/DATA and A{LESS}B apart there, name it otherwise"
            where = f"{part}.{name}"
            yield find_problem(content, form or dict, where) or (find_unknown(content, form, where) if form else "")
    if source.get("choose"):
        yield find_unknown(source["choose"], _CHOICE, "choose")
    tables = source.get("tables") or {}
    yield find_problem(list(tables.values()), [[_ROW]], "tables") if tables else ""
    for name, sides in (source.get("curves") or {}).items():
        yield find_problem(sides, [str], f"curves.{name}")
    for row in (row for rows in tables.values() for row in rows):
        yield find_unknown(row, _ROW, "tables")
        yield "" if row["net"] in source["nets"] else f"a table names {row['net']}, which is no net"


def _plan(file: Path, name: str, net: Mapping[str, Any], overrides: Mapping[str, Any]) -> Mapping[str, Any]:
    recipe = recipes.beside(file, net["recipe"])
    if not recipe.is_file():
        raise CommandError(f"{file} names the recipe {recipe}, which is no file")
    plan = recipes.merge(recipes.merge(recipes.resolve(recipe), overrides), net.get("overrides") or {})
    return {key: value for key, value in plan.items() if key != "run"}


def _tables(source: Mapping[str, Any]) -> dict[str, tuple[Row, ...]]:
    given = source.get("tables") or {"": [{"net": net} for net in source["nets"]]}
    return {str(title): tuple(Row(**{"label": row["net"], **row}) for row in part) for title, part in given.items()}


def _study_problems(study: Study) -> Iterator[str]:
    """Yield what would be found out after hours of training, nothing or empty texts if all is right."""
    yield from (f"a seed {problem}" for problem in map(find_seed_problem, study.seeds) if problem)
    if len(set(study.seeds)) < len(study.seeds):
        yield "seeds has the same seed twice"
    try:
        every = study.every_entry()
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        yield (
            f"runs is {study.runs!r}, of which no folder can be made ({error}); it may have {{name}}, or {{net}}, {{data}}, "
            "{setting} and {seed}"
        )
        return
    if len({entry.run for entry in every}) < len(every):
        yield "two trainings have the same folder; put {name} into runs"
    for entry in every:
        problem = find_problem(entry.plan, {"trainer": {"max_epochs": int}})
        if problem or entry.epochs < 1:
            yield f"{entry.name} must be trained for a number of epochs: {problem or 'trainer.max_epochs is below 1'}"
    if study.judge not in (None, "test"):
        yield f"judge must be test or left out, got {study.judge!r}"
    if len(study.settings) > 1 and study.choice is None:
        yield "several settings need choose, which says by what one of them is chosen for each net"
    if study.choice:
        if not set(study.choice.seeds) <= set(study.seeds):
            yield "choose.seeds must be among the seeds"
        if len(set(study.choice.seeds)) < len(study.choice.seeds):
            yield "choose.seeds has the same seed twice"
        if study.choice.by in study.metric or study.choice.by.startswith("test"):
            yield (
                f"choose.by is {study.choice.by}, by which the nets are judged; choose by another figure, of validation "
                "images, or the best of several counts as if it were any"
            )
    for sides in study.curves.values():
        yield from (_side_problem(study, "a curve", side) for side in sides)
    for data in study.claims:
        yield from _claim_problems(study, data)


def _claim_problems(study: Study, data: Any) -> Iterator[str]:
    try:
        claim = Claim.read(data, study.metric)
    except ValueError as error:
        yield str(error)
        return
    if not set(claim.seen) <= set(study.seeds):
        yield f"a claim has seen {list(claim.seen)}, which must be among the seeds"
    for side in (one for both in (claim.of, claim.than) if both is not None for one in both.split(LESS)):
        yield _side_problem(study, "a claim", side)


def _side_problem(study: Study, what: str, side: str) -> str:
    """Return what is wrong with a net, or a net on some of the data, that a claim or a curve names."""
    net, _, part = side.partition("/")
    if net not in study.plans or (part and part not in study.data):
        return f"{what} names {side}, which the study does not train"
    if not part and len(study.data) > 1:
        return f"{what} names {side} without saying on which data; write {side}/{next(iter(study.data))}"
    return ""
