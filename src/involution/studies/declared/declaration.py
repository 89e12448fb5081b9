"""A study as its file declares it, and the trainings that it asks for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from ... import recipes
from ...errors import CommandError
from ...schema import find_problem
from ..claims import LESS, Claim
from ..runs import takes_seed_of_training

__all__ = ["Choice", "Entry", "Row", "Study", "find", "read"]

# Where `find` looks for a study by its name.
FOLDER = Path("recipes") / "studies"

_NET = {"recipe?": str, "overrides?": dict}
_ROW = {"net": str, "label?": str, "published?": float, "published_as?": str}
_FORM = {
    "title": str,
    "metric": (str, [str]),
    "seeds": [int],
    "nets": dict,
    "data?": dict,
    "settings?": dict,
    "choose?": {"by": str, "seeds": [int]},
    "overrides?": dict,
    "runs?": str,
    "judge?": (str, None),
    "tables?": dict,
    "published?": str,
    "claims?": (list, None),
}


@dataclass(frozen=True)
class Entry:
    """One training of a study.

    Attributes:
        net: its name in the study.
        data: name of what it is trained on, empty where the study varies none.
        setting: name of the setting, likewise.
        seed: of weights, order and augmentation of the images, and dropout.
        plan: the whole recipe, ``seed_everything`` and, where the recipe gives the data none, their ``seed`` included.
        run: folder of the training.
    """

    net: str
    data: str
    setting: str
    seed: int
    plan: Mapping[str, Any]
    run: Path

    @property
    def name(self) -> str:
        """What a line of the log calls it."""
        return "-".join([*filter(None, (self.net, self.data, self.setting)), str(self.seed)])

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What no other training of the study has."""
        return self.net, self.data, self.setting, self.seed

    @property
    def epochs(self) -> int:
        """How long the training is."""
        return int(self.plan.get("trainer", {}).get("max_epochs", 1))


@dataclass(frozen=True)
class Choice:
    """How a setting is chosen for every net: by the mean of a value, over some of the seeds.

    Attributes:
        by: name of the value, the larger the better; of the validation images, so that the test images choose nothing.
        seeds: with which every setting is trained; the other seeds take the chosen one alone.
    """

    by: str
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        net: whose values it shows.
        label: its name there.
        published: a published figure to lay beside them.
        published_as: what the source calls the row, where that differs.
    """

    net: str
    label: str
    published: float | None = None
    published_as: str = ""


@dataclass(frozen=True)
class Study:
    """What a study's file says.

    Attributes:
        name: of the file.
        title: in print.
        metric: name of the value that is compared, or names whose mean it is; see `involution.studies.declared.outcome`.
        seeds: with which every net is trained, in this order.
        plans: the recipe of every net, merged with the study's and the net's ``overrides``.
        data: what is trained on, by name: overrides; one without a name where nothing is varied.
        settings: likewise, of what is chosen among.
        choice: how a setting is chosen; None where there is only one.
        runs: folders of the trainings, with ``{name}``, ``{net}``, ``{data}``, ``{setting}`` and ``{seed}``.
        judge: ``"test"`` where the last checkpoint is judged by ``involution test``; None where its validation is.
        tables: rows by the table's title.
        published: what the published figures are.
        claims: as the file has them.
        source: the file's content, for the record.
    """

    name: str
    title: str
    metric: tuple[str, ...]
    seeds: tuple[int, ...]
    plans: Mapping[str, Mapping[str, Any]]
    data: Mapping[str, Mapping[str, Any]]
    settings: Mapping[str, Mapping[str, Any]]
    choice: Choice | None
    runs: str
    judge: str | None
    tables: Mapping[str, tuple[Row, ...]]
    published: str = ""
    claims: Sequence[Mapping[str, Any]] = ()
    source: Mapping[str, Any] = field(default_factory=dict)

    def entries(self, rows: Iterable[Mapping[str, Any]] = ()) -> list[Entry]:
        """Return the trainings that are asked for, seed by seed, so that every net has one before one has two.

        Args:
            rows: results so far, as `involution.studies.claims.values_of` takes them, with ``setting``; where a setting is
                chosen, what follows from the choice comes when all that it depends on is there.
        """
        found = list(rows)
        first = self.choice.seeds if self.choice else self.seeds
        entries = [self._entry(n, d, s, seed) for seed in first for n, d in self._pairs() for s in self.settings]
        later = [seed for seed in self.seeds if seed not in first]
        for seed in later:
            for net, data in self._pairs():
                setting = self.chosen(found, net, data)
                if setting is not None:
                    entries.append(self._entry(net, data, setting, seed))
        return entries

    def chosen(self, rows: Iterable[Mapping[str, Any]], net: str, data: str) -> str | None:
        """Return the setting that is chosen for a net and data; None where it is not known yet."""
        if self.choice is None:
            return next(iter(self.settings))
        values: dict[str, list[float]] = {}
        for row in rows:
            if (row["net"], row["data"]) == (net, data) and row["seed"] in self.choice.seeds:
                value = row["values"].get(self.choice.by)
                if value is not None:
                    values.setdefault(row["setting"], []).append(value)
        counts = {setting: len(values.get(setting, ())) for setting in self.settings}
        if min(counts.values()) < len(self.choice.seeds):
            return None
        return max(self.settings, key=lambda setting: mean(values[setting]))

    def reported(self, rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Return the results that the tables and claims speak of: where a setting is chosen, those of the chosen one."""
        found = list(rows)
        if self.choice is None:
            return found
        chosen = {(net, data): self.chosen(found, net, data) for net, data in self._pairs()}
        return [row for row in found if row["setting"] == chosen.get((row["net"], row["data"]))]

    def _pairs(self) -> Iterator[tuple[str, str]]:
        for net in self.plans:
            for data in self.data:
                yield net, data

    def _entry(self, net: str, data: str, setting: str, seed: int) -> Entry:
        plan = recipes.merge(recipes.merge(self.plans[net], self.data[data]), self.settings[setting])
        if takes_seed_of_training(plan.get("data", {})):
            # Else the seeds of a net would share the order of the images, and with worker processes their augmentation.
            plan = recipes.merge(plan, {"data": {"init_args": {"seed": seed}}})
        parts = {"net": net, "data": data, "setting": setting, "seed": str(seed)}
        name = "-".join(filter(None, parts.values()))
        run = Path(self.runs.format(name=name, **parts))
        return Entry(net, data, setting, seed, {**plan, "seed_everything": seed}, run)


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
    problem = find_problem(source, _FORM)
    unknown = sorted(source.keys() - {key.removesuffix("?") for key in _FORM})
    if problem or unknown:
        raise CommandError(f"{file} is no study: {problem or f'the key {unknown[0]!r} is unknown'}")
    nets = source["nets"]
    plans = {str(name): _plan(file, str(name), net, source.get("overrides") or {}) for name, net in nets.items()}
    metric = source["metric"]
    study = Study(
        name=file.stem,
        title=source["title"],
        metric=(metric,) if isinstance(metric, str) else tuple(metric),
        seeds=tuple(source["seeds"]),
        plans=plans,
        data=source.get("data") or {"": {}},
        settings=source.get("settings") or {"": {}},
        choice=_choice(source),
        runs=source.get("runs", f"runs/studies/{file.stem}/{{name}}"),
        judge=source.get("judge"),
        tables=_tables(file, source, plans),
        published=source.get("published", ""),
        claims=tuple(source.get("claims") or ()),
        source=source,
    )
    _check(file, study)
    return study


def _plan(file: Path, name: str, net: Any, overrides: Mapping[str, Any]) -> Mapping[str, Any]:
    problem = find_problem(net, _NET, f"nets.{name}") or ("" if "recipe" in net else f"nets.{name} names no recipe")
    if problem:
        raise CommandError(f"{file} is no study: {problem}")
    recipe = recipes.beside(file, net["recipe"])
    if not recipe.is_file():
        raise CommandError(f"{file} names the recipe {recipe}, which is no file")
    plan = recipes.merge(recipes.merge(recipes.resolve(recipe), overrides), net.get("overrides", {}))
    return {key: value for key, value in plan.items() if key != "run"}


def _choice(source: Mapping[str, Any]) -> Choice | None:
    choose = source.get("choose")
    return Choice(choose["by"], tuple(choose["seeds"])) if choose else None


def _tables(file: Path, source: Mapping[str, Any], plans: Mapping[str, Any]) -> dict[str, tuple[Row, ...]]:
    given = source.get("tables")
    if not given:
        return {"": tuple(Row(net, net) for net in plans)}
    problem = find_problem(list(given.values()), [[_ROW]], "tables")
    rows = [row for part in given.values() for row in part] if not problem else []
    problem = problem or next((f"a table names {r['net']}, which is no net" for r in rows if r["net"] not in plans), "")
    if problem:
        raise CommandError(f"{file} is no study: {problem}")
    return {str(title): tuple(Row(**{"label": row["net"], **row}) for row in part) for title, part in given.items()}


def _check(file: Path, study: Study) -> None:
    """Refuse what would be found out after hours of training."""
    folders = [entry.run for entry in study.entries()]
    problem = "two trainings have the same folder; put {name} into runs" if len(set(folders)) < len(folders) else ""
    if study.judge not in (None, "test"):
        problem = f"judge must be test or left out, got {study.judge!r}"
    if len(study.settings) > 1 and study.choice is None:
        problem = "several settings need choose, which says by what one of them is chosen for each net"
    if study.choice and not set(study.choice.seeds) <= set(study.seeds):
        problem = "choose.seeds must be among the seeds"
    for data in study.claims:
        try:
            claim = Claim.read(data, study.metric)
        except ValueError as error:
            problem = str(error)
            continue
        for side in (one for both in (claim.of, claim.than) if both is not None for one in both.split(LESS)):
            net, _, part = side.partition("/")
            if net not in study.plans or (part and part not in study.data):
                problem = f"a claim names {side}, which the study does not train"
            elif not part and len(study.data) > 1:
                problem = f"a claim names {side} without saying on which data; write {side}/{next(iter(study.data))}"
    if problem:
        raise CommandError(f"{file} is no study: {problem}")
