"""What ``involution search`` does with a table of random nets: train it, let its nets be judged and timed, ask its record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import CommandError, in_one_line
from ..schema import find_problem
from .options import make_writable, refuse_to_lose, say, told_when_interrupted

__all__ = ["latency", "replay", "score", "table"]

# Times that a net of a table is timed; the median counts.
_ROUNDS = 100


def table(name: str, data_root: str | None, runs: Path, out: Path, from_record: str | None, show: bool) -> None:
    """Train the nets of a table, or show what is there."""
    from .. import records
    from ..studies.search import table

    declared = table.read(name)
    folder = runs / declared.name
    if from_record is not None:
        table.take_over(Path(from_record), declared, folder)
    there = out / f"{declared.name}.json"
    if there.exists():
        here = {(row["net"], row["seed"]) for row in table.results(declared, folder)}
        refuse_to_lose(there, len({(row["net"], row["seed"]) for row in table.rows_of(there)[1]} - here))

    def write(rows: list[dict[str, Any]]) -> None:
        records.write(declared.name, table.payload(declared, rows), out)

    if not show:
        asked = len(declared.entries())
        with told_when_interrupted(lambda: len(table.results(declared, folder)), asked, folder):
            table.work(declared, folder, data_root=data_root, say=say, on_result=write)
    rows = table.results(declared, folder)
    if not rows:
        raise CommandError(f"no training of {declared.name} is finished; leave out --show")
    write(rows)
    print(f"{len(rows)} trainings in {there}", flush=True)


def score(name: str, data_root: str | None, out: Path, epochs: int, seed: int) -> None:
    """Let proxies and a supernet judge the nets in a table's record."""
    from .. import records
    from ..studies.search import scores
    from ..studies.search.proxies import PROXIES

    declared, space, nets = _recorded(name, out)
    there = out / f"{declared.name}_scores.json"
    lost = sorted(_content(there).get("results", {}).keys() - {*PROXIES, *(["supernet"] if epochs else [])})
    if lost:
        raise CommandError(
            f"{there} holds {', '.join(lost)}, which would be lost; ask for a supernet too (--epochs), or move the file away"
        )
    found = scores.score(declared.recipe, space, nets, epochs=epochs, seed=seed, data_root=data_root, say=say)
    payload = {
        "seed": seed,
        "settings": {"recipe": declared.recipe, "epochs": epochs},
        "blocks": {net.name: net.blocks for net in nets},
        "results": found,
    }
    print(records.write(there.stem, payload, out), flush=True)


def latency(name: str, engine: str, runs: Path, out: Path) -> None:
    """Time the nets in a table's record in an engine."""
    from .. import records
    from ..models.searchable import Blocks
    from ..studies.search.latency import Latencies

    declared, _, nets = _recorded(name, out)
    # Few enough to be timed as a whole, each of them.
    latencies = Latencies(declared.recipe, engine, runs, rounds=_ROUNDS)
    found = {}
    for net in nets:
        found[net.name] = latencies.measured(Blocks.parse(net.blocks))
        say(f"{net.name}: {found[net.name]:.2f} ms")
    payload = {
        "seed": 0,
        "engine": engine,
        "threads": latencies.threads,
        "blocks": {net.name: net.blocks for net in nets},
        "results": found,
    }
    print(records.write(f"{declared.name}_latency", payload, out), flush=True)


def replay(path: Path, out: Path | None) -> None:
    """Run searches on the record of a table, and write its answers."""
    from .. import records
    from ..files import write_atomically
    from ..pictures.plots import png
    from ..studies.search import answers, replay

    space, nets = replay.read(path)
    times, scores = (_beside(path, what, nets) for what in ("latency", "scores"))
    nets = [replace(net, latency_ms=times.get(net.name)) for net in nets]
    unmeasured = sum(net.latency_ms is None for net in nets)
    if unmeasured:
        print(
            f"latency is left out: {unmeasured} net{'s were' if unmeasured > 1 else ' was'} not measured; involution search "
            "latency does it"
        )
    found = answers.answer(space, nets, scores=scores)
    folder = out or path.parent
    make_writable(folder)
    written = records.write(f"{path.stem}_answers", {"seed": 0, "table": path.name, "results": found}, folder)
    write_atomically(written.with_suffix(".png"), png(answers.figure(found)))
    print(f"{answers.markdown(found)}\n{written}", flush=True)


def _recorded(name: str, out: Path) -> tuple[Any, Any, Any]:
    """Return a table, its mixed space and the nets of its record, which has to be of this table."""
    from ..studies.search import replay, table

    declared = table.read(name)
    record = out / f"{declared.name}.json"
    table.check_record(record, declared)
    return declared, *replay.read(record)


def _content(path: Path) -> dict[str, Any]:
    """Return a record that lies beside a table's, nothing where there is none."""
    from .. import records

    try:
        record = dict(records.read(path)) if path.is_file() else {}
        problem = find_problem(record, {"results": dict, "blocks?": dict}) if record else ""
    except (OSError, ValueError, TypeError) as error:
        problem = in_one_line(error)
    if problem:
        raise CommandError(f"{path} is damaged: {problem}; move it away, and make it anew")
    return record


def _beside(path: Path, what: str, nets: Any) -> dict[str, Any]:
    """Return the results of another record of a table, nothing where there is none.

    Nets have the same names in every table: it has to be of these. Records from before they said so are taken at their word.
    """
    beside = path.with_name(f"{path.stem}_{what}.json")
    record = _content(beside)
    blocks = record.get("blocks", {})
    for net in nets:
        if blocks.get(net.name, net.blocks) != net.blocks:
            raise CommandError(
                f"{beside} is of another table: its {net.name} is {blocks[net.name]}, not {net.blocks}; move it away, and "
                "make it anew"
            )
    results = dict(record.get("results", {}))
    problem = _figures_problem({"results": results} if what == "latency" else results)
    # Costs are compared by their logarithms.
    if not problem and what == "latency" and results and min(results.values()) <= 0:
        problem = f"milliseconds must be above zero, got {min(results.values())}"
    if problem:
        raise CommandError(f"{beside} is damaged: {problem}; move it away, and make it anew")
    return results


def _figures_problem(figures: Mapping[str, Any]) -> str:
    """Say which of several mappings of nets to numbers is none; nothing where all are."""
    for name, values in figures.items():
        problem = find_problem(values, dict, name) or find_problem(values, dict.fromkeys(values, float), name)
        if problem:
            return problem
    return ""
