"""The measurement: every net in every engine, all nets of an engine in turn; table, picture and record of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import metadata
from itertools import chain, product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ... import records
from ...backends import native
from ...files import write_atomically
from ...pictures.plots import png
from .drawing import picture
from .engines import ENGINES
from .results import Row, as_markdown
from .worker import SEED, Failure, Job, Worker

__all__ = ["Plan", "measure", "record_name", "write"]

# Relative differences beyond which a net in an engine is not the net; what int8 changes is said in the table.
_MOST_DIFFERENCE = {"float32": 1e-3, "bfloat16": 0.2}

# After a run an engine's threads look for work for a while, on the cores of the next one.
_PAUSE_S = 0.01


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        models: timm names, whose weights are random unless they have a tag, or folders with trained nets; the last is the
            control.
        engines: of `ENGINES`.
        dtypes: of `DTYPES`.
        batches: images that pass together.
        size: height and width of the images, in pixels.
        threads: that compute.
        rounds: times that each net is timed in each of its processes.
        processes: that each net is opened in, one after the other.
        calibration: folder of images that int8 is calibrated on.
        accuracy: folder with one folder of images per class, of which the nets' accuracy is measured, in the first of
            ``batches``.
        profile: whether each engine's own profiler says where the time goes, after all rounds.
    """

    models: tuple[str, ...]
    engines: tuple[str, ...]
    dtypes: tuple[str, ...]
    batches: tuple[int, ...]
    size: tuple[int, int]
    threads: int
    rounds: int
    processes: int = 1
    calibration: Path | None = None
    accuracy: Path | None = None
    profile: bool = False


def measure(plan: Plan, announce: Callable[[str], None] = lambda words: None) -> Iterator[list[Row]]:
    """Yield the rows of all nets in one engine, dtype and batch after the other.

    Each net is in a process of its own, of which there are several one after the other: a process keeps the memory that
    the system gives it, and may be up to two fifths faster or slower for its whole life. In every round each net runs twice, the
    second run is timed; they begin in turn.

    Args:
        plan: what is measured.
        announce: is told what is going on: a compiler takes minutes.
    """
    for dtype, batch, engine in product(plan.dtypes, plan.batches, plan.engines):
        rows = [Row(model, engine, dtype, batch) for model in plan.models]
        reason = ENGINES[engine].missing(dtype)
        if reason is None and dtype == "int8" and plan.calibration is None:
            reason = "int8 needs images to calibrate by; give --calibration FOLDER"
        yield [replace(row, reason=reason) for row in rows] if reason else _measured(plan, rows, announce)


def _measured(plan: Plan, rows: Sequence[Row], announce: Callable[[str], None]) -> list[Row]:
    found = dict(enumerate(rows))
    times: dict[int, list[tuple[float, ...]]] = {}
    with ExitStack() as stack:
        folders: dict[int, Path] = {}
        for number, row in found.items():
            announce(f"{row.model} is made ready for {row.engine}, {row.dtype}, batch {row.batch}")
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="involution-")))
            try:
                with Worker(_job(plan, row), folder) as worker:
                    worker.prepare()
            except Failure as error:
                found[number] = replace(row, reason=str(error))
                continue
            folders[number], times[number] = folder, []
        for process in range(plan.processes):
            announce(
                f"{rows[0].engine}, {rows[0].dtype}, batch {rows[0].batch}: process {process + 1}, {plan.rounds} rounds"
            )
            still = {number: folder for number, folder in folders.items() if not found[number].reason}
            for number, row in _in_processes(plan, rows, still, last=process == plan.processes - 1).items():
                times[number].append(row.times_ms)
                all_times = () if row.reason else tuple(chain(*times[number]))
                found[number] = replace(row, times_ms=all_times, processes=process + 1)
    return _with_ratios(list(found.values()))


def _job(plan: Plan, row: Row) -> Job:
    calibration = plan.calibration if row.dtype == "int8" else None
    return Job(row.model, row.engine, row.dtype, row.batch, plan.size, plan.threads, calibration)


def _in_processes(plan: Plan, rows: Sequence[Row], folders: Mapping[int, Path], *, last: bool) -> dict[int, Row]:
    """Open each net that has a folder in a process, time all in turn, and return their rows by number."""
    found: dict[int, Row] = {}
    workers: dict[int, Worker] = {}
    times: dict[int, list[float]] = {number: [] for number in folders}

    def give_up(number: int, error: Failure) -> None:
        found[number] = replace(rows[number], reason=str(error))
        workers.pop(number, None)

    with ExitStack() as stack:
        for number, folder in folders.items():
            try:
                worker = stack.enter_context(Worker(_job(plan, rows[number]), folder))
                difference = worker.open()
                most = _MOST_DIFFERENCE.get(rows[number].dtype)
                if most is not None and not difference <= most:
                    raise Failure(f"differs from PyTorch by {difference:.1e} of the largest output")
            except Failure as error:
                give_up(number, error)
            else:
                workers[number], found[number] = worker, replace(rows[number], difference=difference)
        for round_number in range(plan.rounds):
            turn = list(workers)
            for number in turn[round_number % len(turn) :] + turn[: round_number % len(turn)] if turn else ():
                time.sleep(_PAUSE_S)
                try:
                    times[number].append(workers[number].time(round_number))
                except Failure as error:
                    give_up(number, error)
        for number, worker in list(workers.items()):
            found[number] = replace(found[number], times_ms=tuple(times[number]))
            if last:
                found[number] = _with_what_is_asked_once(plan, found[number], worker)
    return found


def _with_what_is_asked_once(plan: Plan, row: Row, worker: Worker) -> Row:
    """Add what is asked of one process; what it cannot say costs no times."""
    asked: dict[str, Callable[[], Any]] = {"peak_mib": worker.peak_mib}
    if plan.accuracy is not None and row.batch == plan.batches[0]:
        asked["accuracy"] = partial(worker.accuracy, plan.accuracy)
    if plan.profile:
        asked["profile"] = worker.profile
    for name, ask in asked.items():
        try:
            row = replace(row, **{name: ask()})
        except Failure as error:
            row = replace(row, missing="; ".join(filter(None, [row.missing, f"no {name}: {error}"])))
    return row


def _with_ratios(rows: list[Row]) -> list[Row]:
    control = rows[-1].median_ms
    if control is None or len(rows) == 1:
        return rows
    return [replace(row, to_control=row.median_ms / control if row.median_ms else None) for row in rows]


def record_name(kind: str, threads: int) -> str:
    """Return what the record of a measurement on the CPU is called where nobody says otherwise: ``"engines-cpu-2-threads"``.

    Args:
        kind: what is measured.
        threads: that compute.
    """
    return f"{kind}-cpu-{threads}-thread{'s' if threads > 1 else ''}"


def write(plan: Plan, rows: Sequence[Row], folder: Path, *, finished: bool, name: str | None = None) -> list[Path]:
    """Write table, picture and record of the rows.

    Args:
        plan: what was asked for.
        rows: what was measured of it.
        folder: made where it does not exist.
        finished: whether that is all.
        name: of the files, without their endings; that of `record_name` by default.

    Returns:
        The files.

    Raises:
        OSError: a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = name or record_name("engines", plan.threads)
    table, drawing = folder / f"{name}.md", folder / f"{name}.png"
    write_atomically(table, as_markdown(rows))
    write_atomically(drawing, png(picture(rows, plan.models)))
    payload = {
        "seed": SEED,
        "instruction_set": native.instruction_set(),
        "engines": _versions(),
        "settings": {key: str(value) if isinstance(value, Path) else value for key, value in asdict(plan).items()},
        "finished": finished,
        "results": [row.record() for row in rows],
    }
    return [table, drawing, records.write(name, payload, folder)]


def _versions() -> dict[str, str]:
    found = {}
    for package in ("onnx", "onnxscript", "onnxruntime", "openvino", "nncf"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
