"""Train what a study asks for on some cores, each training once, whoever else works on the same study."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from typing import Any

from ...errors import CommandError, InvolutionError
from ..claims import LESS, Claim
from .declaration import Entry, Study
from .jobs import Job, Taken, other_training, part_of
from .results import difference_of_results, is_whole, kept, key_of

__all__ = ["Queue"]

Key = tuple[str, str, str, int]

# Seconds between two looks at what runs, and between two lines on how far it is.
_LOOK, _TELL = 0.5, 600.0


class Queue:
    """The trainings of a study, done and to do.

    A training belongs to the process that has the lock of its folder, and is finished when its result lies there: killed
    at any moment, the next `work` goes on from the last whole epoch of each. What another process has is left to it, and
    waited for in the end.

    Args:
        study: what to train.
        processes: trainings at a time.
        threads: of each.
        data_root: folder of the data sets; None for what the environment says.
        say: called with every line of the log.
        on_result: called with all results after each training that is finished.
    """

    def __init__(
        self,
        study: Study,
        *,
        processes: int = 1,
        threads: int = 1,
        data_root: str | None = None,
        say: Callable[[str], None] = print,
        on_result: Callable[[list[dict[str, Any]]], None] | None = None,
    ) -> None:
        self.study, self.processes, self.threads, self.data_root = study, processes, threads, data_root
        self._say, self._on_result = say, on_result
        self._jobs: list[Job] = []
        # By the keys of their entries.
        self._failed: dict[Key, str] = {}
        self._waited_for: set[Key] = set()
        self._told = time.monotonic()

    def results(self) -> list[dict[str, Any]]:
        """Return the results of all trainings that are finished, those of other processes included.

        Raises:
            CommandError: one is damaged, or of another recipe.
        """
        return self._look()[1]

    def trained(self) -> set[Key]:
        """Return the keys of all trainings that are there, also of those that are still to be judged."""
        return {entry.key for entry in self.study.every_entry() if kept(part_of(entry)) is not None}

    def counts(self) -> tuple[int, int]:
        """Return how many trainings are finished and how many are known to be asked for."""
        entries, rows = self._look()
        return len(rows), len(entries)

    def work(self) -> list[dict[str, Any]]:
        """Train what is not finished; return all results.

        Raises:
            CommandError: trainings failed, or all settings of a net diverged, and the others are finished; or no training
                has a figure that is asked for.
            KeyboardInterrupt: Ctrl-C; what runs has been ended, and is gone on with by the next call.
            SystemExit: SIGTERM; likewise.
        """
        try:
            while True:
                self._advance()
                entries, rows = self._look()
                self._refuse_unknown_figures(rows)
                waiting = self._start(entries, {key_of(row) for row in rows})
                if not self._jobs and not waiting:
                    break
                self._tell(len(rows), len(entries))
                time.sleep(_LOOK)
        finally:
            with ExitStack() as closing:
                # Every one of them, whatever comes while one ends.
                for job in self._jobs:
                    closing.callback(job.close)
            self._jobs = []
        if self._failed:
            unchosen = [e for e in entries if e.key in self._failed and self.study.chooses_with(e.seed)]
            nets = ", ".join(sorted({entry.net for entry in unchosen}))
            choice = f"; no setting is chosen for {nets} before they are trained" if nets else ""
            raise CommandError(
                f"{len(self._failed)} of {len(entries)} trainings failed, and are tried again by the same command: "
                + "; ".join(self._failed.values())
                + choice
            )
        hopeless = self.study.without_setting(rows)
        if hopeless:
            raise CommandError(f"{', '.join(hopeless)} diverged with every setting; add one with a lower learning rate")
        return rows

    def _look(self) -> tuple[list[Entry], list[dict[str, Any]]]:
        """Return what is asked for and what is there of it."""
        entries = self.study.entries()
        while True:
            rows = [row for row in map(self._result, entries) if row is not None]
            more = self.study.entries(rows)
            if len(more) == len(entries):
                return more, rows
            entries = more

    def _result(self, entry: Entry) -> dict[str, Any] | None:
        """Return the result of a training; None where it is not finished."""
        row = kept(part_of(entry))
        if row is None or not is_whole(row, self.study):
            return None
        problem = difference_of_results(entry, row)
        if problem:
            raise CommandError(other_training(entry, problem))
        # The same training may have had another name, in another study or when the file was another.
        return {**row, "net": entry.net, "data": entry.data, "setting": entry.setting, "seed": entry.seed}

    def _refuse_unknown_figures(self, rows: list[dict[str, Any]]) -> None:
        """Refuse to go on for a figure that no training has; what is trained stays, and the file can be corrected."""
        asked = [*self.study.metric, *([self.study.choice.by] if self.study.choice else [])]
        for name, nets in [*((name, self.study.plans.keys()) for name in asked), *self._figures_of_claims()]:
            known = {figure for row in rows if row["net"] in nets for figure in row["values"]}
            if known and name not in known:
                raise CommandError(
                    f"{self.study.name} asks for {name}, which its trainings do not have; they have "
                    f"{', '.join(sorted(known))}"
                )

    def _figures_of_claims(self) -> Iterator[tuple[str, Collection[str]]]:
        """Yield what claims compare, and the nets that have to have it."""
        for claim in (Claim.read(data, self.study.metric) for data in self.study.claims):
            for side, metric in ((claim.of, claim.metric), (claim.than, claim.than_metric or claim.metric)):
                nets = {one.partition("/")[0] for one in side.split(LESS)} if side else set()
                yield from ((name, nets) for name in metric)

    def _advance(self) -> None:
        for job in list(self._jobs):
            try:
                is_finished = job.poll()
            except InvolutionError as error:
                self._failed[job.entry.key] = str(error)
                self._say(f"{job.entry.name}: {error}")
                self._end(job)
                continue
            if is_finished:
                self._end(job)
                rows = self.results()
                self._say(f"{job.entry.name}: {self._figures(job)}")
                if self._on_result:
                    self._on_result(rows)

    def _end(self, job: Job) -> None:
        job.close()
        self._jobs.remove(job)

    def _start(self, entries: list[Entry], finished: Collection[Key]) -> bool:
        """Start as many trainings as there is room for; return whether others are waited for."""
        running = {job.entry.key for job in self._jobs}
        waiting = False
        for entry in entries:
            if len(self._jobs) >= self.processes:
                break
            if entry.key in running or entry.key in self._failed or entry.key in finished:
                continue
            try:
                job = Job(entry, self.study, self.threads, self.data_root)
            except Taken as taken:
                waiting = True
                if entry.key not in self._waited_for:
                    self._waited_for.add(entry.key)
                    self._say(f"{entry.name}: left to another process, {taken}".partition("; wait")[0])
                continue
            except InvolutionError as error:
                self._failed[entry.key] = str(error)
                self._say(f"{entry.name}: {error}")
                continue
            self._jobs.append(job)
            where = f"goes on after epoch {job.epochs_before} of {entry.epochs}" if job.epochs_before else "begins"
            self._say(f"{entry.name}: {'adopted, ' if job.adopted else ''}{where}")
        return waiting

    def _tell(self, finished: int, asked: int) -> None:
        """Say from time to time how far everything is."""
        now = time.monotonic()
        if now - self._told < _TELL or not self._jobs:
            return
        self._told = now
        for job in self._jobs:
            epochs = job.epochs()
            new = epochs - job.epochs_before
            pace = f", {(now - job.started) / new / 60:.1f} min an epoch" if new > 0 else ""
            self._say(f"{job.entry.name}: epoch {epochs} of {job.entry.epochs}{pace}")
        self._say(f"{finished} of {asked} trainings finished, {len(self._jobs)} running")

    def _figures(self, job: Job) -> str:
        row = kept(part_of(job.entry)) or {}
        if row.get("diverged"):
            return f"diverged: {row['diverged']}"
        values = row.get("values", {})
        shown = [f"{name} {values[name]:.2f}" for name in self.study.metric if name in values]
        return f"{', '.join(shown[:3]) or 'finished'}, {(time.monotonic() - job.started) / 60:.1f} min"
