"""The command ``involution search``: search for nets, train and ask a table of random ones, write a net as a recipe."""

from __future__ import annotations

import inspect
import re
import shlex
from pathlib import Path
from typing import Any

from ..errors import CommandError
from ..files import stays_inside
from . import search_tables
from .options import choice, make_writable, say, told_when_interrupted

__all__ = ["search"]

_ACTIONS = ("run", "export", "table", "score", "latency")
_RECIPES = Path("recipes") / "search"
_RUNS = "runs/search"
# What each action takes besides its own name, a replay included.
_TAKEN = {
    "run": "name data recipe space widths objectives limits sampler engine trials budget seed prune storage data_root runs",
    "export": "name recipe storage trial runs out",
    "table": "name from_record show data_root runs out",
    "score": "name epochs seed data_root out",
    "latency": "name engine runs out",
    "--replay": "replay out",
}


def search(
    action: str = "run",
    name: str | None = None,
    *,
    data: str = "digits",
    recipe: str | None = None,
    space: str = "mixed",
    widths: list[int] | None = None,
    objectives: list[str] | None = None,
    limits: list[str] | None = None,
    sampler: str = "tpe",
    engine: str = "eager",
    trials: int = 50,
    budget: str | None = None,
    seed: int = 0,
    prune: bool = True,
    storage: str | None = None,
    replay: str | None = None,
    trial: int | None = None,
    epochs: int = 0,
    from_record: str | None = None,
    show: bool = False,
    data_root: str | None = None,
    runs: str = _RUNS,
    out: str | None = None,
) -> None:
    """Search for nets that have a layer of their own in every block: convolution, depthwise, involution or local attention.

    ``involution search --budget 10min`` searches on the digits; ``involution search export STUDY`` writes the net that it
    found as a recipe of ``involution fit``. ``involution search table FILE`` trains the random nets that a file declares,
    ``involution search --replay RECORD`` runs many searches on their record and answers what it can, ``involution search
    score FILE`` lets proxies and a supernet judge its nets, ``involution search latency FILE`` measures them in an engine.
    Interrupted or killed at any moment, a search or a table goes on by the same command; several processes may work on one.

    Args:
        action: run, export, table, score or latency.
        name: of the study for run and export; file of the table for the others.
        data: digits or cifar10: the recipe of this name in recipes/search.
        recipe: another recipe of ``involution fit`` to train nets by; for export, one to train the chosen net by.
        space: mixed, convolution (and depthwise) or involution.
        widths: of the four stages' spatial layers at their widest, multiples of 4; 8,16,32,64 by default.
        objectives: accuracy and any of params, macs, latency; accuracy,params by default.
        limits: the most of a cost, such as latency=5 (ms) or params=100000, each once; nets beyond are not trained.
        sampler: tpe, nsga2 or random.
        engine: in which latency is measured where a search or a table needs it, one of those of ``involution benchmark``.
        trials: nets of the whole study.
        budget: time of this run, such as 90s, 10min or 2h; no net is begun that would not end within it by the median of
            this run's, the first, of which nothing is known, excepted.
        seed: of the sampler, or of the scores.
        prune: give up nets that are behind those that cost no more.
        storage: file of SQLite's, or address of a database that several machines share; study.db in the study's folder by
            default.
        replay: record of a table to search on instead of training.
        trial: the net to export; the most accurate by default.
        epochs: of the supernet that scores, 0 for none.
        from_record: for table: its record, begun on another machine or of trainings whose folders are gone; what it holds is
            not trained again.
        show: for table: train nothing, write and print what is there.
        data_root: folder of the data sets; by default the variable INVOLUTION_DATA, else data.
        runs: folder of studies and trainings.
        out: folder of records, of a table's results/search by default, of a replay the record's own; for export, file of the
            recipe, recipe.yaml in the study's folder by default. A search writes into its folder in runs.

    Raises:
        CommandError: an argument is unknown, out of range or nothing to this action, a file is damaged, the recipe sets no
            images apart, the study searches otherwise, or a record is of another table, or would be overwritten by one of
            fewer trainings or predictors.
    """
    given = locals().copy()
    choice("action", action, _ACTIONS)
    _refuse_ignored("--replay" if action == "run" and replay is not None else action, given)
    if trials < 1 or epochs < 0 or seed < 0:
        raise CommandError(f"--trials must be at least 1, --epochs and --seed 0, got {trials}, {epochs} and {seed}")
    if action in ("table", "score", "latency"):
        if name is None:
            raise CommandError("name the file of the table, such as recipes/tables/random_nets_cifar10.yaml")
        folder = Path(out or "results/search")
        make_writable(folder)
        if action == "table":
            search_tables.table(name, data_root, Path(runs), folder, from_record, show)
        elif action == "score":
            search_tables.score(name, data_root, folder, epochs, seed)
        else:
            search_tables.latency(name, engine, Path(runs), folder)
    elif replay is not None:
        search_tables.replay(Path(replay), Path(out) if out else None)
    elif action == "export":
        if name is None:
            raise CommandError(f"name the study, one of the folders in {runs}")
        _export(_study_name(name), Path(runs), storage, trial, recipe, out)
    else:
        from ..studies.search.plan import Plan
        from ..studies.search.space import Space

        try:
            nets = Space(space, tuple(widths)) if widths else Space(space)
        except ValueError as error:
            raise CommandError(str(error)) from error
        own = _RECIPES / f"{choice('data', data, ('digits', 'cifar10'))}.yaml"
        plan = Plan(
            name=_study_name(name or f"{data}-{space}-{sampler}"),
            recipe=_recipe(recipe or str(own)),
            space=nets,
            objectives=tuple(objectives or ("accuracy", "params")),
            limits=_limits(limits or []),
            sampler=sampler,
            seed=seed,
            engine=engine,
            prune=prune,
        )
        if engine != "eager" and not plan.needs_latency:
            raise CommandError(
                f"--engine {engine} measures latency, which this search does not ask for; add latency to --objectives or "
                "--limits, or leave --engine out"
            )
        _run(plan, Path(runs), storage, trials, _seconds(budget), data_root)


def _refuse_ignored(action: str, given: dict[str, Any]) -> None:
    """Refuse what was given and would mean nothing."""
    taken = {"action", *_TAKEN[action].split()}
    for key, parameter in inspect.signature(search).parameters.items():
        if key not in taken and given[key] != parameter.default:
            flag = f"the name {given[key]}" if key == "name" else f"--{key.replace('_', '-')}"
            raise CommandError(f"{flag} means nothing to involution search {action}; leave it out")


def _study_name(name: str) -> str:
    if not stays_inside(name) or Path(name).name != name:
        raise CommandError(
            f"a study's name is that of its folder, such as digits-mixed-tpe, got {name!r}; leave out slashes"
        )
    return name


def _run(plan: Any, runs: Path, storage: str | None, trials: int, seconds: float | None, data_root: str | None) -> None:
    from random import Random

    from ..studies.search import evaluate, report
    from ..studies.search.latency import Latencies
    from ..studies.search.study import Search, count_finished

    evaluate.check(plan.recipe)
    folder = runs / plan.name
    make_writable(folder, "--runs")
    latency_ms, predictions = None, []
    if plan.needs_latency:
        latency_ms = Latencies(plan.recipe, plan.engine, runs)
        nets = Random(0)
        predictions = latency_ms.check([plan.space.net(plan.space.draw(nets)) for _ in range(5)])
        for p in predictions:
            say(
                f"{p.predicted_ms:.2f} ms from parts, {p.measured_ms:.2f} measured ({100 * p.error:+.0f} %): {p.blocks}"
            )
    place = storage or str(folder / "study.db")
    search = Search(plan, place, folder / "locks", latency_ms=latency_ms, data_root=data_root, say=say)

    def show(search: Search) -> None:
        report.write(search.study, plan, folder, predictions=predictions)

    with told_when_interrupted(lambda: count_finished(search.study), trials, folder):
        search.work(trials, seconds=seconds, on_trial=show)
    found = report.rows(search.study)
    if not found:
        raise CommandError("no net was trained within the budget; raise --budget")
    files = report.write(search.study, plan, folder, predictions=predictions)
    chosen = report.best(found, plan)
    if not chosen:
        print("\n".join(map(str, files)))
        raise CommandError(f"no net was trained to the end; {folder / 'report.html'} says of each why")
    print(f"\n{len(found)} net{'s' if len(found) > 1 else ''}, of them those that none beats:")
    for row in chosen:
        print(f"  trial {row['trial']}: {row['accuracy_percent']:.2f} %, {row['params']:,} parameters: {row['blocks']}")
    print("\n".join(map(str, files)))
    flags = ["--runs", str(runs)] if runs != Path(_RUNS) else []
    flags += ["--storage", storage] if storage else []
    words = shlex.join(["involution", "search", "export", plan.name, *flags])
    print(f"the most accurate as a recipe: {words}", flush=True)


def _export(name: str, runs: Path, storage: str | None, trial: int | None, recipe: str | None, out: str | None) -> None:
    import yaml  # type: ignore[import-untyped]

    from ..files import write_atomically
    from ..studies.search.plan import optuna
    from ..studies.search.study import finished, open_storage

    file = runs / name / "study.db"
    if storage is None and not file.is_file():
        raise CommandError(f"there is no study {name} in {runs}; name one of its folders, or --storage")
    try:
        study = optuna.load_study(study_name=name, storage=open_storage(storage or str(file), new=False))
    except KeyError as error:
        raise CommandError(f"the storage {storage or file} has no study {name}") from error
    trained = {t.number: t.user_attrs for t in finished(study) if t.user_attrs.get("accuracy_percent") is not None}
    if not trained:
        raise CommandError(f"the study {name} has no trained net yet")
    chosen = max(trained, key=lambda number: trained[number]["accuracy_percent"]) if trial is None else trial
    if chosen not in trained:
        raise CommandError(f"trial {chosen} of {name} is no trained net; choose one of {', '.join(map(str, trained))}")
    content = _exported(study.user_attrs["settings"]["recipe"], trained[chosen]["blocks"], recipe)
    path = Path(out) if out else runs / name / "recipe.yaml"
    make_writable(path.parent)
    content["run"] = str(runs / name / f"trial-{chosen}")
    note = f"# Trial {chosen} of the search {name}: {trained[chosen]['accuracy_percent']:.2f} % on its validation images.\n"
    write_atomically(path, note + yaml.safe_dump(content, sort_keys=False))
    print(f"{path}: {trained[chosen]['blocks']}\ninvolution fit --config {path}", flush=True)


def _exported(searched: dict[str, Any], blocks: str, recipe: str | None) -> dict[str, Any]:
    """Return the recipe of a net: as it was searched, or as another recipe trains, with what all nets of the search share."""
    from ..recipes import merge
    from ..studies.search.evaluate import channels, recipe_of

    if recipe is None:
        return recipe_of(searched, blocks, 0)
    other = _recipe(recipe)
    shared = {**searched["model"]["init_args"].get("model_args", {}), "in_chans": channels(other)}
    # The arguments of the other recipe's own net mean nothing to this one.
    other["model"]["init_args"] = {**other["model"]["init_args"], "model_args": {}}
    return recipe_of(merge(other, {"model": {"init_args": {"model_args": shared}}}), blocks, 0)


def _recipe(path: str) -> dict[str, Any]:
    from ..recipes import find, resolve

    file = find(path)
    if not file.is_file():
        raise CommandError(f"there is no recipe {path}; name a file, or one of the library's own (recipes/…)")
    return resolve(file)


def _limits(given: list[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for text in given:
        match = re.fullmatch(r"([a-z]+)=(\d+(?:\.\d+)?)", text)
        if match is None or float(match[2]) == 0:
            raise CommandError(
                f"a limit is a cost and the most of it, such as latency=5 or params=100000, got {text!r}"
            )
        if match[1] in found:
            raise CommandError(f"the limit of {match[1]} is given twice; give it once")
        found[match[1]] = float(match[2])
    return found


def _seconds(budget: str | None) -> float | None:
    if budget is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(s|min|h)", budget)
    if match is None:
        raise CommandError(f"--budget is a time such as 90s, 10min or 2h, got {budget!r}")
    return float(match[1]) * {"s": 1, "min": 60, "h": 3600}[match[2]]
