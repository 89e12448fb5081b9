"""A study as its file declares it, and the trainings that it asks for."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from ... import recipes
from ...runs import takes_seed_of_training
from ..claims import side_of

__all__ = ["Choice", "Entry", "Row", "Study"]


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
        return int(self.plan["trainer"]["max_epochs"])


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
        curves: nets, or nets on some of the data (``NET/DATA``), that are drawn over their costs, by the curve's name.
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
    curves: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
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
        entries = self._with_every_setting(first)
        later = [seed for seed in self.seeds if seed not in first]
        for seed in later:
            for net, data in self._pairs():
                setting = self.chosen(found, net, data)
                if setting is not None:
                    entries.append(self._entry(net, data, setting, seed))
        return entries

    def every_entry(self) -> list[Entry]:
        """Return all trainings that could be asked for, whatever is chosen."""
        return self._with_every_setting(self.seeds)

    @property
    def folder(self) -> Path:
        """The folder that has those of all trainings inside."""
        return Path(*itertools.takewhile(lambda part: "{" not in part, Path(self.runs).parts))

    def chooses_with(self, seed: int) -> bool:
        """Return whether trainings with a seed are those by which a setting is chosen."""
        return self.choice is not None and seed in self.choice.seeds

    def chosen(self, rows: Iterable[Mapping[str, Any]], net: str, data: str) -> str | None:
        """Return the setting that is chosen for a net and data; None where it is not known yet, or where all diverged."""
        if self.choice is None:
            return next(iter(self.settings))
        values: dict[str, list[float]] = {}
        diverged = set()
        for row in rows:
            if (row["net"], row["data"]) == (net, data) and row["seed"] in self.choice.seeds:
                value = row["values"].get(self.choice.by)
                if row.get("diverged"):
                    diverged.add(row["setting"])
                elif value is not None:
                    values.setdefault(row["setting"], []).append(value)
        possible = [setting for setting in self.settings if setting not in diverged]
        if not possible or any(len(values.get(setting, ())) < len(self.choice.seeds) for setting in possible):
            return None
        return max(possible, key=lambda setting: mean(values[setting]))

    def without_setting(self, rows: Iterable[Mapping[str, Any]]) -> list[str]:
        """Return which nets, or nets on some of the data (``NET/DATA``), diverged with every setting.

        Args:
            rows: results, as `entries` takes them.
        """
        diverged = {(row["net"], row["data"], row["setting"]) for row in rows if row.get("diverged")}
        return [
            side_of(net, data)
            for net, data in self._pairs()
            if all((net, data, setting) in diverged for setting in self.settings)
        ]

    def reported(self, rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Return the results that the tables and claims speak of: where a setting is chosen, those of the chosen one."""
        found = list(rows)
        if self.choice is None:
            return found
        chosen = {(net, data): self.chosen(found, net, data) for net, data in self._pairs()}
        return [row for row in found if row["setting"] == chosen.get((row["net"], row["data"]))]

    def _with_every_setting(self, seeds: Iterable[int]) -> list[Entry]:
        return [self._entry(n, d, s, seed) for seed in seeds for n, d in self._pairs() for s in self.settings]

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
