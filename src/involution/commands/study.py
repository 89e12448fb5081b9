"""The command ``involution study``: train what a file declares, seed after seed, and judge what somebody claimed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import CommandError
from .options import make_writable, refuse_to_lose, say, told_when_interrupted

__all__ = ["study"]


def study(
    study: str,
    *,
    processes: int = 1,
    threads: int | None = None,
    data_root: str | None = None,
    out: str = "results/studies",
    from_record: str | None = None,
    show: bool = False,
) -> None:
    """Train every net of a study with every seed, and write its record: means, 95 % intervals, verdicts on claims.

    Every training is one of ``involution fit`` with a folder of its own. Interrupted or killed at any moment, the same
    command goes on after the last whole epoch of each, and repeats nothing that is finished; several may work on one
    study. Folders in which ``involution fit`` trained the same recipe with the same seed are taken as they are. Writes
    NAME.json and NAME.png, anew after every training.

    Args:
        study: a file, or the name of one in recipes/studies.
        processes: trainings at a time.
        threads: of each training; by default the processor's cores shared among them.
        data_root: folder of the data sets; by default the variable INVOLUTION_DATA, else data.
        out: folder of the record and the picture.
        from_record: a record of this study, begun on another machine or of trainings whose folders are gone; what it holds
            is not trained again.
        show: train nothing; write and print what is there.

    Raises:
        CommandError: the file is no study, an argument is out of range, the record is of another study, what is written
            would have fewer trainings than the record that is there, or trainings failed.
    """
    from .. import records
    from ..studies.declared import reading
    from ..studies.declared.jobs import take_over
    from ..studies.declared.queue import Queue
    from ..studies.declared.results import key_of, rows_of

    if processes < 1 or (threads is not None and threads < 1):
        raise CommandError(f"--processes and --threads must be at least 1, got {processes} and {threads}")
    declared = reading.read(reading.find(study))
    make_writable(Path(out))
    if from_record is not None:
        take_over(Path(from_record), declared)

    there = Path(out) / f"{declared.name}.json"
    before = {key_of(row) for row in rows_of(there)} if there.exists() else set()

    def write(rows: list[dict[str, Any]]) -> None:
        # Those that are trained and wait to be judged stay in the record as they are until all have been.
        if before <= {key_of(row) for row in rows}:
            _write(declared, rows, Path(out))

    queue = Queue(
        declared,
        processes=processes,
        threads=threads or max(1, records.cores() // processes),
        data_root=data_root,
        say=say,
        on_result=write,
    )
    lost = before - queue.trained()
    not_asked = lost - {entry.key for entry in declared.every_entry()}
    if not_asked:
        raise CommandError(
            f"{there} holds {len(not_asked)} trainings that {declared.name} does not ask for (any more); choose another "
            "--out, or move the record away"
        )
    refuse_to_lose(there, len(lost))
    if not show:
        with told_when_interrupted(lambda: queue.counts()[0], queue.counts()[1], declared.folder):
            queue.work()
    rows = queue.results()
    if not rows:
        raise CommandError(f"no training of {declared.name} is finished; leave out --show")
    waiting = before - {key_of(row) for row in rows}
    if waiting:
        raise CommandError(
            f"{len(waiting)} trainings of {there} are to be judged otherwise and wait for it; leave out --show"
        )
    path, text = _write(declared, rows, Path(out))
    print(f"\n{text}\nrecord: {path}", flush=True)


def _write(declared: Any, rows: list[dict[str, Any]], out: Path) -> tuple[Path, str]:
    """Write record and pictures; return the record's path and the tables."""
    from .. import records
    from ..files import write_atomically
    from ..pictures.plots import png
    from ..studies.declared import costs_drawing, drawing, outcome

    content = outcome.payload(declared, rows)
    path = records.write(declared.name, content, out)
    record = records.read(path)
    write_atomically(path.with_suffix(".png"), png(drawing.draw(record)))
    if costs_drawing.drawn_costs(record):
        write_atomically(path.with_name(f"{path.stem}_costs.png"), png(costs_drawing.draw(record)))
    return path, outcome.markdown(record)
