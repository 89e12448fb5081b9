"""The result of a finished training, and whether a folder that somebody else trained in holds one of a study."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ... import records
from ...counting import count
from ...errors import CommandError, in_one_line
from ...files import read_json, write_atomically
from ...models import named, saved
from ...recipes import leaves
from ...runs import RunFolder
from ...schema import find_problem
from .declaration import Entry, Study

__all__ = [
    "RESULT",
    "collect",
    "collect_diverged",
    "difference_of_plans",
    "difference_of_results",
    "is_whole",
    "judgement",
    "keep",
    "kept",
    "key_of",
    "plain",
    "read_record",
    "rows_of",
    "values",
]

RESULT = "result.json"

# What every result has.
_ROW = {
    "net": str,
    "data": str,
    "setting": str,
    "seed": int,
    "plan?": dict,
    "values": dict,
    "judged?": (dict, None),
    "diverged?": str,
}

_JUDGEMENT = {"checkpoint": (str, None), "results": dict}

# What says where and how a training runs, not what it trains. Of the folder of a data set its name counts.
_DATA_SET = "data.init_args.root"
_ELSEWHERE = (
    "run",
    "ckpt_path",
    "base",
    "weights_only",
    "data.init_args.data_root",
    "data.init_args.num_workers",
    "data.init_args.verify",
    "trainer.enable_progress_bar",
    "trainer.enable_model_summary",
    "trainer.default_root_dir",
    "trainer.log_every_n_steps",
    "trainer.num_sanity_val_steps",
)


# What figures are shares of, as words of their names.
_SHARES = {"accuracy", "map", "mar", "iou", "miou"}


def values(history: list[dict[str, float | None]], judged: Mapping[str, Any] | None) -> dict[str, float]:
    """Return all figures of a training by name, in percent where they are shares; none that was no number in the end.

    Args:
        history: see `RunFolder.history`; the last epoch counts, nothing is chosen by the images that judge it. Of what is
            logged less often than every epoch, the last value that there is.
        judged: ``results`` of the record that ``involution test`` wrote; its names get ``test.`` in front, those of
            mappings (``iou_percent``) the inner key behind (``test.iou_percent.road``).
    """
    last: dict[str, Any] = {}
    for row in history:
        last.update(row)
    last.pop("epoch", None)
    last.update(leaves({"test": judged or {}}))
    found = {}
    for key, value in last.items():
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            continue
        words = set(re.split(r"[._/]", key))
        is_share = bool(words & _SHARES) and "percent" not in words
        # COCO's figures are -1 where there is nothing to be found.
        if not (is_share and value < 0):
            found[key] = 100 * value if is_share else value
    return found


def kept(folder: Path) -> dict[str, Any] | None:
    """Return the result in a study's part of a run; None where the training is not finished.

    Raises:
        CommandError: it is damaged.
    """
    path = folder / RESULT
    if not path.exists():
        return None
    try:
        return dict(read_json(path))
    except (OSError, ValueError, TypeError) as error:
        raise CommandError(f"{path} is damaged ({error}); delete it and run again") from error


def keep(folder: Path, result: Mapping[str, Any]) -> None:
    """Write a result where `kept` finds it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / RESULT, json.dumps(result, indent=1, ensure_ascii=False) + "\n")


def read_record(path: str | Path, form: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Return a record that has a form.

    Args:
        path: of the record.
        form: see `involution.schema.find_problem`.
        what: it should be a record of, for the message.

    Raises:
        CommandError: it is missing, damaged, or has not the form.
    """
    try:
        record = records.read(path)
    except (OSError, ValueError) as error:
        raise CommandError(f"{path} is no record of {what}: {in_one_line(error)}") from error
    problem = find_problem(record, form)
    if problem:
        raise CommandError(f"{path} is no record of {what}: {problem}")
    return record


def collect(entry: Entry, study: Study, *, adopted: bool) -> dict[str, Any]:
    """Return the result of a finished training, JSON's types.

    Args:
        entry: the training.
        study: that it belongs to.
        adopted: whether somebody else trained it.

    Raises:
        CommandError: a file that it should have left is missing.
    """
    run = RunFolder(entry.run)
    history = run.history()
    judged = judgement(run, study.judge) if study.judge else None
    row = {
        **_what_was_trained(entry, adopted),
        **_cost(run),
        "values": values(history, judged),
        "judged": judged,
        "history": history,
    }
    if not is_whole(row, study):
        raise CommandError(f"{entry.run} holds no figures of involution {study.judge}, with which {study.name} judges")
    return row


def collect_diverged(entry: Entry, words: str, *, adopted: bool) -> dict[str, Any]:
    """Return the result of a training that diverged, JSON's types: without values and costs.

    Args:
        entry: the training.
        words: what it said in the end.
        adopted: see `collect`.
    """
    return {
        **_what_was_trained(entry, adopted),
        "params": None,
        "macs": None,
        "values": {},
        "judged": None,
        "diverged": words,
        "history": RunFolder(entry.run).history(),
    }


def _what_was_trained(entry: Entry, adopted: bool) -> dict[str, Any]:
    """Return what every result begins with: which training it is of, and where and when that ran."""
    starts = RunFolder(entry.run).environments()
    return {
        "net": entry.net,
        "data": entry.data,
        "setting": entry.setting,
        "seed": entry.seed,
        "plan": plain(entry.plan),
        "run": str(entry.run),
        "adopted": adopted,
        # Nobody knows where a training ran that kept no environment.
        "commit": starts[-1]["commit"] if starts else None,
        "modified": any(start["modified"] for start in starts) if starts else None,
        "starts": [
            {key: start[key] for key in ("date", "commit", "modified", "machine", "versions")} for start in starts
        ],
        "finished": records.date(),
    }


def is_whole(row: Mapping[str, Any], study: Study) -> bool:
    """Whether a result has all that a study asks for: what judges may have been declared after it was trained.

    Args:
        row: of `collect`.
        study: that asks.
    """
    if row.get("diverged"):
        return study.chooses_with(row["seed"])
    # A classifier's figures are logged; other tasks write a record of them.
    return not study.judge or bool(row.get("judged")) or any(key.startswith("test_") for key in row["values"])


def judgement(run: RunFolder, command: str) -> dict[str, Any] | None:
    """Return what ``involution test`` found of a training's last checkpoint, no other; None where it was not judged.

    Args:
        run: folder of the training.
        command: that judges.

    Raises:
        CommandError: a record of it is damaged.
    """
    trained = run.checkpoint.stat().st_mtime if run.checkpoint.exists() else 0.0
    # What was found before the training went on is of a checkpoint that is no longer there.
    paths = [path for path in sorted(run.path.glob(f"*-{command}.json")) if path.stat().st_mtime >= trained]
    found = [read_record(path, _JUDGEMENT, "a judged net") for path in paths]
    return next((dict(record["results"]) for record in found if record["checkpoint"] == "last.ckpt"), None)


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Return all results in a study's record, those of settings that were not chosen included.

    Args:
        path: of the record, as `involution.studies.declared.outcome.payload` makes it.

    Raises:
        CommandError: it is damaged or of no study.
    """
    record = read_record(path, {"results": list, "not_chosen": list}, "a study")
    rows = [*record["results"], *record["not_chosen"]]
    for row in rows:
        problem = find_problem(row, _ROW, "a result") or find_problem(
            row["values"], dict.fromkeys(row["values"], (float, None)), "values"
        )
        if problem:
            raise CommandError(f"{path} is no record of a study: {problem}")
    return rows


def key_of(row: Mapping[str, Any]) -> tuple[str, str, str, int]:
    """Return which training of a study a result is of, as `Entry.key` does."""
    return row["net"], row["data"], row["setting"], row["seed"]


def difference_of_results(entry: Entry, row: Mapping[str, Any]) -> str:
    """Return the first key in which a training that is asked for is not what a result is of; nothing if it is.

    Args:
        entry: the training.
        row: of `collect`; one without a plan, from before results had it, is taken at its word.
    """
    return difference_of_plans(entry.plan, row["plan"]) if "plan" in row else ""


def _cost(run: RunFolder) -> dict[str, int | None]:
    """Return parameters and, of nets that take images of one size, multiply-adds."""
    if saved.describe(run.model) is not None:
        net, _ = saved.load(run.model)
        return {"params": sum(p.numel() for p in net.parameters()), "macs": None}
    classifier: Any = named.classifier(str(run.model))
    cost = count(classifier, classifier.pretrained_cfg["input_size"])
    return {"params": cost.params, "macs": cost.macs}


def difference_of_plans(
    plan: Mapping[str, Any], other: Mapping[str, Any], *, stated: Mapping[str, Any] | None = None
) -> str:
    """Return the first key in which two configurations train something else; nothing where they train the same.

    Args:
        plan: a configuration.
        other: likewise.
        stated: what the recipe of ``plan`` says itself; where it is given, a key that ``other`` lacks counts only if it is
            there: defaults of arguments that came later are no difference.
    """
    one, two = dict(_training(plan)), dict(_training(other))
    for side in (one, two):
        # What a record's recipe that says nothing was trained with; a study's own plans, and what a run keeps, say it.
        side.setdefault("data.init_args.seed", 0)
    if stated is not None:
        said = dict(_training(stated))
        one = {key: value for key, value in one.items() if key in two or key in said}
    for key in sorted(one.keys() | two.keys()):
        if one.get(key) != two.get(key):
            return f"{key} is {two.get(key)!r}, not {one.get(key)!r}"
    return ""


def _training(plan: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in leaves(plan):
        if key in _ELSEWHERE or value is None:
            continue
        if key == _DATA_SET:
            value = Path(str(value)).name
        yield key, list(value) if isinstance(value, tuple) else value


def plain(value: Any) -> Any:
    """Return mappings and sequences as the kinds that JSON and YAML's safe writer know."""
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value
