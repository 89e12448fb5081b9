"""A search in a storage of Optuna's: proposed, trained and told one net at a time, by any number of processes.

A trial belongs to the process that has the lock of its folder, which the operating system takes back from a process that
ends, however it ends. A trial that runs by the storage and whose lock is free was abandoned: it is told as failed, and its
net is queued once to be trained anew; not where the net has ended its process several times. What ends by an error or an
interruption, however early, is marked as interrupted: a net has ended only what was killed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any

from ...errors import CommandError, FolderInUseError, in_one_line
from ...files import locked, locked_in_turn
from ...models.searchable import Blocks
from ...tasks.callbacks import Row
from . import evaluate
from .plan import Plan, ask, create_sampler, optuna

__all__ = ["Search", "count_finished", "finished", "open_storage"]

State = optuna.trial.TrialState

# Nets that must be known at an epoch before one is given up for being behind them.
_FEWEST = 5
# Proposals beyond the limits, one after the other, until the limits are taken for impossible.
_MOST_REFUSED = 200
_SEED = 0


class _Behind(Exception):
    """A net is given up."""


@contextmanager
def _marked(trial: optuna.Trial) -> Iterator[None]:
    """Mark a trial whose block ends by an error, an interruption included: its net is not what ended the process."""
    try:
        yield
    except BaseException:
        # Where the storage itself is gone, that is what is said.
        with suppress(optuna.exceptions.OptunaError):
            trial.set_user_attr("interrupted", True)
        raise


def open_storage(place: str, *, new: bool = True) -> optuna.storages.BaseStorage:
    """Open a storage of Optuna's.

    Args:
        place: a file of SQLite's, or an address such as ``postgresql://…``.
        new: make it where it does not exist.

    Raises:
        CommandError: it cannot be opened, or does not exist and shall not be made.
    """
    from sqlalchemy.exc import SQLAlchemyError

    file = place.removeprefix("sqlite:///")
    if not new and "://" not in file and not Path(file).is_file():
        raise CommandError(f"there is no storage {place}; name the file or the address that the search was given")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    address = place if "://" in place else f"sqlite:///{place}"
    try:
        # Several processes write: one that finds the file in use waits.
        arguments = {"connect_args": {"timeout": 60}} if address.startswith("sqlite") else {}
        return optuna.storages.RDBStorage(address, engine_kwargs=arguments)
    except (SQLAlchemyError, ImportError, ValueError, RuntimeError, optuna.exceptions.OptunaError) as error:
        raise CommandError(
            f"the storage {place} cannot be opened: {in_one_line(error)}; name a file that can be written, or an address"
        ) from error


def finished(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Return the trials that have an outcome: trained, given up, diverged, or known from an equal net.

    Neither those beyond the limits, which were not trained, nor the abandoned ones, whose nets have another trial.
    """
    trials = study.get_trials(deepcopy=False)
    abandoned = {trial.user_attrs.get("retry_of") for trial in trials}
    return [
        trial
        for trial in trials
        if trial.state.is_finished() and trial.number not in abandoned and "outcome" in trial.user_attrs
    ]


def count_finished(study: optuna.Study) -> int:
    """Return how many trials have an outcome."""
    return len(finished(study))


class Search:
    """A study that this process works on.

    Args:
        plan: what is searched.
        storage: where its trials lie, see `open_storage`.
        folder: for locks, on a file system that all processes share.
        latency_ms: returns the milliseconds of a net; None where no objective and no limit needs it.
        data_root: folder of the data sets; None for what the recipe or the environment says.
        say: called with every line of the log.

    Raises:
        CommandError: the storage cannot be opened, or has a study of this name that searches otherwise.
    """

    def __init__(
        self,
        plan: Plan,
        storage: str,
        folder: Path,
        *,
        latency_ms: Callable[[Blocks], float] | None = None,
        data_root: str | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        self.plan, self.folder = plan, folder
        self._latency_ms, self._data_root, self._say = latency_ms, data_root, say
        self._durations: list[float] = []
        folder.mkdir(parents=True, exist_ok=True)
        with self._alone():
            # Two that make its tables at once would be in each other's way.
            self.study = optuna.create_study(
                study_name=plan.name, storage=open_storage(storage), directions=plan.directions, load_if_exists=True
            )
            self._compare()

    def work(
        self, trials: int, *, seconds: float | None = None, on_trial: Callable[[Search], None] = lambda search: None
    ) -> None:
        """Train nets until the study has so many with an outcome, or the time is over.

        Args:
            trials: of the study, those of earlier calls and other processes included.
            seconds: of this call; no net is begun that would take longer, by the median of those before it. Of the first
                one nothing is known.
            on_trial: called after every net.

        Raises:
            CommandError: no net is within the limits.
            KeyboardInterrupt: Ctrl-C; the net that was being trained is abandoned, and trained anew by the next call.
            SystemExit: SIGTERM; likewise.
        """
        began = time.monotonic()
        while True:
            expected = median(self._durations) if self._durations else 0.0
            if seconds is not None and time.monotonic() - began + expected > seconds:
                return
            with self._claimed(trials) as trial:
                if trial is None:
                    return
                start = time.monotonic()
                with _marked(trial):
                    self._evaluate(trial)
                self._durations.append(time.monotonic() - start)
            on_trial(self)

    @contextmanager
    def _claimed(self, trials: int) -> Iterator[optuna.Trial | None]:
        """Give a trial that is this process's until the block ends; None where there is none left to begin."""
        with ExitStack() as stack:
            with self._alone():
                self._retry_abandoned()
                at_work = self.study.get_trials(deepcopy=False, states=(State.RUNNING,))
                trial = self._proposed() if count_finished(self.study) + len(at_work) < trials else None
                if trial is not None:
                    stack.enter_context(locked(self._place(trial.number)))
            yield trial

    def _proposed(self) -> optuna.Trial:
        """Return a trial whose net is within the limits, its figures kept with it."""
        for _ in range(_MOST_REFUSED):
            # Without the retried ones, so that a search that was interrupted proposes what another does.
            number = sum("retry_of" not in trial.user_attrs for trial in self.study.get_trials(deepcopy=False))
            self.study.sampler = create_sampler(self.plan.sampler, (self.plan.seed, number))
            trial = ask(self.study, self.plan.distributions())
            with _marked(trial):
                figures = self._figures(self.plan.space.net(trial.params))
            for name, value in figures.items():
                trial.set_user_attr(name, value)
            excess = self.plan.excess(figures)
            for name, value in excess.items():
                trial.set_constraint(name, value)
            if max(excess.values(), default=0) <= 0:
                return trial
            self.study.tell(trial, state=State.PRUNED)
        raise CommandError(
            f"none of {_MOST_REFUSED} nets is within the limits {dict(self.plan.limits or {})}; raise them, or give the "
            "space smaller widths"
        )

    def _figures(self, blocks: Blocks) -> dict[str, Any]:
        cost = evaluate.cost(evaluate.recipe_of(self.plan.recipe, blocks, _SEED))
        figures: dict[str, Any] = {"blocks": str(blocks), "params": cost.params, "macs": cost.macs}
        if self._latency_ms is not None:
            figures["latency_ms"] = self._latency_ms(blocks)
        return figures

    def _evaluate(self, trial: optuna.Trial) -> None:
        figures = dict(trial.user_attrs)
        known = self._known(figures["blocks"])
        if known is not None:
            for name in ("history", "accuracy_percent"):
                trial.set_user_attr(name, known.user_attrs[name])
            self._tell(trial, f"the net of trial {known.number}", known.user_attrs["accuracy_percent"])
            return
        if figures.get("ended", 0) >= evaluate.MOST_ENDED:
            self._tell(trial, f"ended its process {evaluate.MOST_ENDED} times, not trained again", None, State.FAIL)
            return

        def on_row(rows: list[Row]) -> None:
            trial.set_user_attr("history", [dict(row) for row in rows])
            if self.plan.prune and self._is_behind(figures, rows):
                raise _Behind

        recipe = evaluate.recipe_of(self.plan.recipe, figures["blocks"], _SEED)
        try:
            training = evaluate.train(recipe, data_root=self._data_root, on_row=on_row)
        except _Behind:
            self._tell(trial, "given up, behind nets that cost no more", None)
            return
        if training.accuracy is None:
            self._tell(trial, training.failure, None, State.FAIL)
            return
        trial.set_user_attr("accuracy_percent", 100 * training.accuracy)
        self._tell(trial, "trained", 100 * training.accuracy)

    def _tell(self, trial: optuna.Trial, outcome: str, accuracy: float | None, state: Any = State.PRUNED) -> None:
        """Keep the outcome; the state comes last, and makes the trial one that has an outcome."""
        trial.set_user_attr("outcome", outcome)
        if accuracy is None:
            self.study.tell(trial, state=state)
        else:
            self.study.tell(trial, self.plan.values({**trial.user_attrs, "accuracy_percent": accuracy}))
        shown = "" if accuracy is None else f", {accuracy:.2f} %"
        figures = f"{trial.user_attrs['params']:,} parameters"
        if "latency_ms" in trial.user_attrs:
            figures += f", {trial.user_attrs['latency_ms']:.2f} ms"
        self._say(f"trial {trial.number}: {trial.user_attrs['blocks']} ({figures}): {outcome}{shown}")

    def _known(self, blocks: str) -> optuna.trial.FrozenTrial | None:
        complete = self.study.get_trials(deepcopy=False, states=(State.COMPLETE,))
        return next((trial for trial in complete if trial.user_attrs["blocks"] == blocks), None)

    def _is_behind(self, figures: dict[str, Any], rows: Sequence[Row]) -> bool:
        """Whether a net is worse, so early, than half of the other ones that cost no more in any objective.

        Those that were given up count as far as they were trained, or a net would be laid beside the best alone; a net that
        was proposed again counts once.
        """
        epoch, costs = len(rows), self.plan.costs(figures)
        others: dict[str, float] = {}
        for trial in self.study.get_trials(deepcopy=False, states=(State.COMPLETE, State.PRUNED)):
            known, blocks = trial.user_attrs, trial.user_attrs["blocks"]
            history = known.get("history", ())
            # After the last epoch nothing is saved by giving up.
            is_last = trial.state == State.COMPLETE and len(history) == epoch
            is_cheaper = all(mine >= their for mine, their in zip(costs, self.plan.costs(known)))
            if is_cheaper and len(history) >= epoch and not is_last and blocks != figures["blocks"]:
                others[blocks] = history[epoch - 1]["test_accuracy"]
        return len(others) >= _FEWEST and rows[-1]["test_accuracy"] < median(others.values())

    def _retry_abandoned(self) -> None:
        """Queue the nets of processes that are gone; a kill in the middle of it leaves nothing half done."""
        trials = self.study.get_trials(deepcopy=False)
        retried = {trial.user_attrs.get("retry_of") for trial in trials}
        for number in [trial.number for trial in trials if trial.state == State.RUNNING]:
            try:
                with locked(self._place(number)):
                    # It may have been told between the look and the lock.
                    trial = self.study.get_trials(deepcopy=False)[number]
                    if trial.state != State.RUNNING:
                        continue
                    if number not in retried:
                        choices = {**trial.user_attrs.get("choices", {}), **trial.params}
                        ended = trial.user_attrs.get("ended", 0) + ("interrupted" not in trial.user_attrs)
                        self.study.enqueue_trial(choices, {"retry_of": number, "choices": choices, "ended": ended})
                    self.study.tell(number, state=State.FAIL)
                    self._say(f"trial {number}: abandoned by its process; its net is trained anew")
            except FolderInUseError:
                continue
        for trial in trials:
            if trial.state.is_finished():
                with suppress(OSError):
                    (self.folder / f"trial-{trial.number}").rmdir()

    def _place(self, number: int) -> Path:
        place = self.folder / f"trial-{number}"
        place.mkdir(exist_ok=True)
        return place

    def _compare(self) -> None:
        """Keep what the study searches, or compare it with what is kept.

        Raises:
            CommandError: they differ.
        """
        settings = json.loads(json.dumps(self.plan.settings()))
        kept = self.study.user_attrs.get("settings")
        if kept is None:
            self.study.set_user_attr("settings", settings)
            return
        unlike = [key for key, value in settings.items() if kept.get(key) != value]
        if unlike:
            raise CommandError(
                f"the study {self.plan.name} searches otherwise: its {unlike[0]} is {kept.get(unlike[0])!r}, not "
                f"{settings[unlike[0]]!r}; choose another --name"
            )

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait until no other process claims a trial, and claim."""
        place = self.folder / "claim"
        place.mkdir(exist_ok=True)
        with locked_in_turn(place):
            yield
