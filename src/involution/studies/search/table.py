"""A table of nets drawn at random and trained: what a file declares, the trainings, and the record of those that are done."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import torch

from ... import __version__, records
from ...errors import CommandError, FolderInUseError
from ...files import locked, read_text, write_atomically
from ...models.searchable import Blocks
from ...recipes import beside, find, load, resolve
from ...schema import find_problem, find_unknown
from ..declared.results import keep, kept, read_record
from . import evaluate
from .space import SPACES, Choices, Space

__all__ = ["Entry", "Net", "Table", "check_record", "payload", "read", "results", "rows_of", "take_over", "work"]


# Of a record, what `take_over` needs.
_RECORD = {
    "settings": {"recipe": dict, "widths": [int]},
    "results": [{"net": str, "seed": int, "blocks": str, "versions": {"torch": str, "involution": str}}],
}
_FORM = {
    "title": str,
    "recipe": str,
    "widths": [int],
    "draw": dict,
    "draw_seed": int,
    "seeds": [int],
    "repeat?": {"every": int, "seeds": [int]},
}


@dataclass(frozen=True)
class Net:
    """A net of the table.

    Attributes:
        name: ``SPACE-NUMBER``.
        space: that it was drawn from.
        choices: that were drawn.
        blocks: what they are.
    """

    name: str
    space: Space
    choices: Choices
    blocks: Blocks


@dataclass(frozen=True)
class Entry:
    """One training of the table."""

    net: Net
    seed: int
    recipe: Mapping[str, Any]

    @property
    def name(self) -> str:
        """What a line of the log calls it."""
        return f"{self.net.name}-{self.seed}"

    def folder(self, root: Path) -> Path:
        """Return where its result lies; what another recipe or version trained has another name."""
        text = json.dumps([self.recipe, __version__, torch.__version__], sort_keys=True)
        return root / f"{self.name}-{sha256(text.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class Table:
    """What the file of a table says.

    Attributes:
        name: of the file.
        title: in print.
        recipe: that trains every net.
        widths: of the space, see `involution.studies.search.space.Space`.
        draw: nets that are drawn, by space.
        draw_seed: of the draw.
        seeds: with which every net is trained.
        repeat_every: every so many-th net is trained with more seeds; 0 for none.
        repeat_seeds: these.
    """

    name: str
    title: str
    recipe: Mapping[str, Any]
    widths: tuple[int, ...]
    draw: Mapping[str, int]
    draw_seed: int
    seeds: tuple[int, ...]
    repeat_every: int
    repeat_seeds: tuple[int, ...]

    def nets(self) -> list[Net]:
        """Return the nets: those of the spaces in turn, in proportion, no net twice."""
        drawn = [net for name, number in self.draw.items() for net in self._drawn(name, number)]
        return [net for _, net in sorted(drawn, key=lambda pair: pair[0])]

    def entries(self) -> list[Entry]:
        """Return the trainings: all seeds of a net, then the next net."""
        found = []
        for number, net in enumerate(self.nets()):
            is_repeated = self.repeat_every > 0 and number % self.repeat_every == 0
            for seed in (*self.seeds, *(self.repeat_seeds if is_repeated else ())):
                found.append(Entry(net, seed, evaluate.recipe_of(self.recipe, net.blocks, seed)))
        return found

    def _drawn(self, name: str, number: int) -> Iterator[tuple[float, Net]]:
        space, generator = Space(name, self.widths), Random(f"{name} {self.draw_seed}")
        seen: set[str] = set()
        while len(seen) < number:
            choices = space.draw(generator)
            blocks = space.net(choices)
            if str(blocks) not in seen:
                place = (len(seen) + 0.5) / number
                yield place, Net(f"{name}-{len(seen):03}", space, choices, blocks)
                seen.add(str(blocks))


def read(path: str | Path) -> Table:
    """Read the file of a table and the recipe that it names, relative to its own place.

    Raises:
        CommandError: it is missing, damaged, or has not the form of a table, or its recipe is one that
            `involution.studies.search.evaluate.check` refuses.
    """
    file = find(path)
    if not file.is_file():
        raise CommandError(f"there is no table {file}; name a file such as recipes/tables/random_nets_cifar10.yaml")
    source = load(file)
    problem = find_problem(source, _FORM) or find_unknown(source, _FORM)
    if not problem:
        bad = [name for name, number in source["draw"].items() if name not in SPACES or not _is_number(number)]
        problem = f"draw must be numbers of nets by space ({', '.join(SPACES)}), got {source['draw']}" if bad else ""
    if not problem and "repeat" in source and not _is_number(source["repeat"]["every"]):
        problem = (
            f"repeat.every must be at least 1, got {source['repeat']['every']}; leave repeat out for no more seeds"
        )
    seeds = [] if problem else [*source["seeds"], *source.get("repeat", {}).get("seeds", [])]
    if len(set(seeds)) < len(seeds):
        problem = f"seeds and repeat.seeds have the same seed twice, got {seeds}"
    if not problem and not beside(file, source["recipe"]).is_file():
        problem = f"its recipe {beside(file, source['recipe'])} is no file"
    if problem:
        raise CommandError(f"{file} is no table: {problem}")
    repeat = source.get("repeat") or {"every": 0, "seeds": []}
    try:
        Space("mixed", tuple(source["widths"]))
    except ValueError as error:
        raise CommandError(f"{file} is no table: {error}") from error
    recipe = resolve(beside(file, source["recipe"]))
    evaluate.check(recipe)
    return Table(
        name=file.stem,
        title=source["title"],
        recipe=recipe,
        widths=tuple(source["widths"]),
        draw=source["draw"],
        draw_seed=source["draw_seed"],
        seeds=tuple(source["seeds"]),
        repeat_every=repeat["every"],
        repeat_seeds=tuple(repeat["seeds"]),
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 100_000


def results(table: Table, root: Path) -> list[dict[str, Any]]:
    """Return the results of all trainings that are finished, in the order of the table.

    Raises:
        CommandError: one is damaged.
    """
    return [row for entry in table.entries() if (row := kept(entry.folder(root))) is not None]


def rows_of(path: Path) -> tuple[Mapping[str, Any], list[dict[str, Any]]]:
    """Return the settings and the results in a table's record.

    Raises:
        CommandError: it is missing, damaged, or no record of a table.
    """
    record = read_record(path, _RECORD, "a table")
    return record["settings"], record["results"]


def check_record(path: Path, table: Table) -> None:
    """Refuse a record that is not one of this table's.

    Raises:
        CommandError: see `rows_of`; or another recipe or other widths trained it.
    """
    _refuse_another(path, rows_of(path)[0], table)


def _refuse_another(path: Path, settings: Mapping[str, Any], table: Table) -> None:
    here = json.loads(json.dumps({"recipe": table.recipe, "widths": table.widths}))
    for key, value in here.items():
        if settings[key] != value:
            raise CommandError(f"{path} is of another table: its {key} differs from that of {table.name}")


def take_over(path: Path, table: Table, root: Path) -> None:
    """Lay the results of a table's record where those of its trainings lie, so that none of them is trained again.

    For trainings whose folders are on another machine or gone. A result that is there already stays.

    Args:
        path: of the record, as `payload` makes it.
        table: that it must be of.
        root: the folder of the trainings.

    Raises:
        CommandError: see `rows_of`; or another recipe, other widths or versions trained it, or it holds a training that
            this table does not ask for.
    """
    settings, rows = rows_of(path)
    _refuse_another(path, settings, table)
    entries = {(entry.net.name, entry.seed): entry for entry in table.entries()}
    versions = records.versions()
    for row in rows:
        entry, name = entries.get((row["net"], row["seed"])), f"{row['net']}-{row['seed']}"
        if entry is None or str(entry.net.blocks) != row["blocks"]:
            raise CommandError(f"{path} holds {name} ({row['blocks']}), which {table.name} does not train")
        for package in ("torch", "involution"):
            if row["versions"][package] != versions[package]:
                was = row["versions"][package]
                raise CommandError(f"{path} holds {name} of {package} {was}; {versions[package]} is installed")
    for row in rows:
        folder = entries[row["net"], row["seed"]].folder(root)
        if kept(folder) is None:
            keep(folder, row)


def work(
    table: Table,
    root: Path,
    *,
    data_root: str | None = None,
    say: Callable[[str], None] = print,
    on_result: Callable[[list[dict[str, Any]]], None] = lambda rows: None,
) -> list[dict[str, Any]]:
    """Train what is not finished, one training after the other; return all results.

    Several processes may work on one table: a training belongs to who has the lock of its folder, and a killed one gives it
    up; not for ever: what has ended its process `evaluate.MOST_ENDED` times, as where memory runs out, is a training that
    failed; errors and interruptions do not count. What others have at work in the end is left to them.

    Args:
        table: what to train.
        root: a folder for the trainings.
        data_root: folder of the data sets; None for what the recipe or the environment says.
        say: called with every line of the log.
        on_result: called with all results after each training.

    Raises:
        CommandError: a result is damaged.
        KeyboardInterrupt: Ctrl-C; the training that ran begins anew with the next call.
        SystemExit: SIGTERM; likewise.
    """
    entries, here = table.entries(), records.environment()
    for number, entry in enumerate(entries, 1):
        folder = entry.folder(root)
        if kept(folder) is not None:
            continue
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with locked(folder):
                if kept(folder) is not None:
                    continue
                say(f"{entry.name} ({number} of {len(entries)}): {entry.net.blocks}")
                row = _row(entry, _trained(entry, folder, data_root), here)
                keep(folder, row)
        except FolderInUseError as error:
            say(f"{entry.name}: left to another process, {error}".partition("; wait")[0])
            continue
        accuracy = row["accuracy_percent"]
        say(f"{entry.name}: " + (row["failure"] if accuracy is None else f"{accuracy:.2f} %, {row['train_s']:.0f} s"))
        on_result(results(table, root))
    return results(table, root)


def payload(table: Table, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the content of the table's record; of a part of the trainings it is as valid as of all.

    Args:
        table: what was asked for.
        rows: its results so far.
    """
    return {
        "title": table.title,
        "settings": {
            "recipe": table.recipe,
            "widths": table.widths,
            "draw": table.draw,
            "seeds": table.seeds,
            "repeat_every": table.repeat_every,
            "repeat_seeds": table.repeat_seeds,
        },
        "seed": table.draw_seed,
        "finished": len(rows) == len(table.entries()),
        "asked": len(table.entries()),
        "results": rows,
    }


def _trained(entry: Entry, folder: Path, data_root: str | None) -> evaluate.Training:
    begun = folder / "begun"
    ended = int(read_text(begun)) if begun.exists() else 0
    if ended >= evaluate.MOST_ENDED:
        return evaluate.Training((), f"ended its process {ended} times")
    write_atomically(begun, str(ended + 1))
    try:
        return evaluate.train(entry.recipe, data_root=data_root)
    except BaseException:
        # Only what leaves no time for this has ended its process: a wrong folder of the data sets, for one, does not count.
        write_atomically(begun, str(ended))
        raise


def _row(entry: Entry, training: evaluate.Training, here: Mapping[str, Any]) -> dict[str, Any]:
    costs = evaluate.cost(entry.recipe)
    # JSON has no infinities, and a loss may be one.
    history = [{key: v if math.isfinite(v) else None for key, v in row.items()} for row in training.history]
    return {
        "net": entry.net.name,
        "space": entry.net.space.name,
        "seed": entry.seed,
        "blocks": str(entry.net.blocks),
        "choices": entry.net.choices,
        "params": costs.params,
        "macs": costs.macs,
        "accuracy_percent": None if training.accuracy is None else 100 * training.accuracy,
        "failure": training.failure,
        "train_s": sum(float(row["train_s"]) for row in training.history),
        "train_cpu_s": sum(float(row["train_cpu_s"]) for row in training.history),
        "history": history,
        "commit": here["commit"],
        "modified": here["modified"],
        "finished": records.date(),
        "machine": here["machine"],
        "versions": here["versions"],
    }
