"""One training of a study: its folder, who has it, and the commands that bring it to its end."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import yaml  # type: ignore[import-untyped]

from ...errors import CommandError, DivergenceError, FolderInUseError
from ...files import locked, write_atomically
from ...recipes import load
from ...runs import RunFolder
from .declaration import Entry, Study
from .results import (
    collect,
    collect_diverged,
    difference_of_plans,
    difference_of_results,
    is_whole,
    judgement,
    keep,
    kept,
    key_of,
    plain,
    rows_of,
)

__all__ = ["Job", "Taken", "other_training", "part_of", "take_over"]

PLAN, LOG = "recipe.yaml", "log.txt"
# What runs `involution fit`.
COMMAND = (sys.executable, "-m", "involution")


class Taken(Exception):
    """Another process has the training; the message is what its lock says."""


def part_of(entry: Entry) -> Path:
    """Return the study's own folder inside that of a run; its lock says which study's process has the run."""
    return entry.run / "study"


def take_over(path: Path, study: Study) -> None:
    """Lay the results of a study's record where those of its trainings lie, so that none of them is trained again.

    For trainings whose folders are on another machine or gone. A result that is there already stays.

    Args:
        path: of the record.
        study: that it must be of.

    Raises:
        CommandError: see `rows_of`; or it holds a training that this study does not ask for, or asks for otherwise.
    """
    rows = rows_of(path)
    entries = {entry.key: entry for entry in study.entries(rows)}
    for row in rows:
        key = key_of(row)
        name = "-".join(str(part) for part in key if part != "")
        if key not in entries:
            raise CommandError(f"{path} holds {name}, which {study.name} does not train")
        problem = difference_of_results(entries[key], row)
        if problem:
            raise CommandError(f"{path} holds {name} of another recipe: {problem}")
    for row in rows:
        part = part_of(entries[key_of(row)])
        if kept(part) is None:
            keep(part, row)


def other_training(entry: Entry, problem: str) -> str:
    """Return the sentence that refuses the folder of a training because it holds another, whose difference is given."""
    return f"{entry.run} holds another training: {problem}; move it away, or let runs in the study name another folder"


class Job:
    """A training in work: claimed for this process until `close`.

    Args:
        entry: the training.
        study: that it belongs to.
        threads: that it computes with.
        data_root: folder of the data sets; None for what the environment says.

    Raises:
        Taken: another process has it.
        CommandError: its folder holds another training.
    """

    def __init__(self, entry: Entry, study: Study, threads: int, data_root: str | None) -> None:
        self.entry, self.study = entry, study
        self.started = time.monotonic()
        self._environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        if data_root is not None:
            self._environment["INVOLUTION_DATA"] = data_root
        self._folders = ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        self._part, self._run = part_of(entry), RunFolder(entry.run)
        self._part.mkdir(parents=True, exist_ok=True)
        try:
            self._folders.enter_context(locked(self._part))
            # A training that outlived its study has the run's own lock, as any other does.
            with locked(entry.run):
                pass
        except FolderInUseError as error:
            self._folders.close()
            raise Taken(str(error)) from error
        try:
            self.adopted = self._take_up()
        except BaseException:
            self._folders.close()
            raise
        self.epochs_before = len(self._run.history())
        self._commands = self._next_commands()

    def poll(self) -> bool:
        """Go on where a command has ended; return whether the training is finished and its result kept.

        Where a setting is chosen, a training that diverged is finished, too: it is a setting that cannot be.

        Raises:
            CommandError: a command ended with an error; the message has the last line of its log.
        """
        row = kept(self._part)
        if row is not None and is_whole(row, self.study):
            return True
        if self._process is not None:
            status = self._process.poll()
            if status is None:
                return False
            self._process = None
            if status == DivergenceError.exit_status and self.study.chooses_with(self.entry.seed):
                keep(self._part, collect_diverged(self.entry, self._last_words(), adopted=self.adopted))
                return True
            if status:
                raise CommandError(
                    f"{self.entry.name} ended with status {status}: {self._last_words()} (the whole in {self._part / LOG})"
                )
        command = next(self._commands, None)
        if command is not None:
            with self._log() as log:
                self._process = subprocess.Popen([*COMMAND, *command], env=self._environment, stdout=log, stderr=log)
            return False
        result = collect(self.entry, self.study, adopted=self.adopted)
        keep(self._part, result)
        return True

    def epochs(self) -> int:
        """Return how many epochs are behind the training."""
        return len(self._run.history())

    def close(self) -> None:
        """End what runs, and give the training up for others."""
        with self._folders:
            if self._process is None or self._process.poll() is not None:
                return
            self._process.terminate()
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _take_up(self) -> bool:
        """Write the plan, or compare it with what the folder holds; return whether somebody else trained there."""
        path, mark = self._part / PLAN, self._part / "adopted"
        text = yaml.safe_dump(plain(self.entry.plan), sort_keys=False, allow_unicode=True)
        if path.exists():
            problem, adopted = difference_of_plans(self.entry.plan, load(path)), mark.exists()
        elif (configuration := self._run.configuration()) is not None:
            problem, adopted = difference_of_plans(self._whole(text), configuration, stated=self.entry.plan), True
        else:
            problem, adopted = "", False
        if problem:
            raise CommandError(other_training(self.entry, problem))
        # The plan comes last: where it lies, what the folder holds was compared with it, whenever this process is killed.
        if adopted:
            write_atomically(mark, "")
        write_atomically(path, text)
        return adopted

    def _whole(self, text: str) -> dict[str, Any]:
        """Return the plan, YAML, with every default, as a run's folder keeps it."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / PLAN
            path.write_text(text, encoding="utf-8")
            done = subprocess.run(
                [*COMMAND, "fit", "--config", str(path), "--print_config"],
                env=self._environment,
                capture_output=True,
                text=True,
                check=False,
            )
        if done.returncode:
            raise CommandError(f"{self.entry.name} is refused: {(done.stderr.splitlines() or ['?'])[-1]}")
        return dict(yaml.safe_load(done.stdout))

    def _next_commands(self) -> Iterator[list[str]]:
        """Yield what is still to be run, each when what came before has ended."""
        common = [
            "--config",
            str(self._part / PLAN),
            "--run",
            str(self.entry.run),
            "--trainer.enable_progress_bar=false",
        ]
        if not self._run.is_finished(self.entry.epochs):
            go_on = ["--ckpt_path", "last"] if self._run.checkpoint.exists() else []
            yield ["fit", *common, *go_on]
        if self.study.judge and judgement(self._run, self.study.judge) is None:
            yield [self.study.judge, *common, "--ckpt_path", "last"]

    def _log(self) -> IO[bytes]:
        return (self._part / LOG).open("ab")

    def _last_words(self) -> str:
        path = self._part / LOG
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else []
        said = [line for line in lines if line.strip()]
        return said[-1] if said else "it said nothing"
