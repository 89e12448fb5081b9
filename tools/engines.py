"""Tables of the records of ``involution benchmark``, for `tools.tables`."""

from __future__ import annotations

import statistics
from dataclasses import replace
from typing import Any

from involution.studies.latency.engines import DTYPES, ENGINES
from involution.studies.latency.results import Row, as_markdown, best, profile_section

from .markdown import spread, table


def engine_tables(runs: list[dict[str, Any]]) -> list[str]:
    """Return the latency of nets in every engine, medians of the runs that measured it, and their fastest engines."""
    of_runs = [[Row.of(result) for result in record["results"]] for record in runs]
    models = list(dict.fromkeys(row.model for row in of_runs[0]))
    cells: dict[tuple[str, str, int], dict[str, list[Row]]] = {}
    for row in (row for rows in of_runs for row in rows if row.times_ms):
        cells.setdefault((row.engine, row.dtype, row.batch), {}).setdefault(row.model, []).append(row)
    lines = []
    in_order = sorted(cells, key=lambda cell: (DTYPES.index(cell[1]), cell[2], list(ENGINES).index(cell[0])))
    for cell in in_order:
        nets = cells[cell]
        line: list[Any] = [*cell]
        for model in models:
            found = nets.get(model, [])
            times = [value for row in found for value in row.process_medians_ms]
            # Systems that do not say it have none.
            memory = [row.peak_mib for row in found if row.peak_mib is not None]
            line += [spread(times, 1) if times else "–", f"{statistics.median(memory):.0f}" if memory else "–"]
        control = _merged(nets[models[-1]]).median_ms if models[-1] in nets else None
        for model in models[:-1]:
            own = _merged(nets[model]).median_ms if model in nets else None
            line.append(f"{own / control:.2f}" if own and control else "–")
        processes = max(sum(row.processes for row in found) for found in nets.values())
        lines.append([*line, processes, f"{_most_difference(nets):.0e}"])
    size, versions = _size_and_versions(runs[0])
    head = ["engine", "dtype", "batch", *(column for m in models for column in (f"{m} ms", "peak MiB"))]
    head += [*(f"{model} / {models[-1]}" for model in models[:-1]), "processes", "largest difference"]
    fastest = best([_merged(found) for nets in cells.values() for found in nets.values()], models)
    return [
        "",
        "Medians of processes, and the range of those of single processes; ratios are of the medians of all.",
        "",
        *table(head, lines),
        "",
        f"Images of {size}; {versions}.",
        "",
        *(f"- {words}" for words in fastest),
        *profile_section(row for rows in of_runs for row in rows),
    ]


def accuracy_tables(record: dict[str, Any]) -> list[str]:
    """Return what each engine makes of trained nets, in float32, bfloat16 and int8: time, accuracy, and where the time goes."""
    size, versions = _size_and_versions(record)
    return [
        "",
        *as_markdown(Row.of(result) for result in record["results"]).splitlines(),
        "",
        f"Images of {size}; `int8` calibrated on training images; accuracy on all images of "
        f"the other part; {versions}.",
    ]


def _size_and_versions(record: dict[str, Any]) -> tuple[str, str]:
    versions = ", ".join(f"{name} {version}" for name, version in record["engines"].items())
    return "×".join(map(str, record["settings"]["size"])), versions


def _most_difference(nets: dict[str, list[Row]]) -> float:
    return max(row.difference or 0.0 for rows in nets.values() for row in rows)


def merged(runs: list[dict[str, Any]]) -> list[Row]:
    """Return what runs measured in rows whose times are the medians of all processes."""
    found: dict[tuple[str, str, int, str], list[Row]] = {}
    for row in (Row.of(result) for run in runs for result in run["results"] if result["times_ms"]):
        found.setdefault((row.engine, row.dtype, row.batch, row.model), []).append(row)
    return [_merged(rows) for rows in found.values()]


def _merged(rows: list[Row]) -> Row:
    times = tuple(value for row in rows for value in row.process_medians_ms)
    return replace(rows[0], times_ms=times, processes=len(times))
