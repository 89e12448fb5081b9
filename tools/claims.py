"""What somebody claimed, what was measured here, and a verdict computed from it: the first table of docs/reproduction.md."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.properties import CLAIMS, row

from involution import records
from involution.recipes import load
from involution.studies.claims import LESS, RULE, Judged, judge
from involution.studies.comparison.results import REPORTED
from involution.studies.declared import costs_drawing, drawing
from involution.studies.declared.outcome import claims_table, markdown

from .claims_picture import HOLM, counts, standing
from .markdown import source, table

STUDIES = Path("recipes") / "studies"
PICTURE = "images/claims.png"
# What the claims of a study say of nets whose backbones were trained before.
PRETRAINED = "; each from one pretrained backbone"
Found = tuple[str, dict[str, Any], list[Path]]


# Seeds of the report's comparison that were trained before its claims were written down here.
COMPARED = [0, 1, 2]


def comparisons(results: Path) -> Iterator[Found]:
    """Yield the report's comparison, as published and with nets of equal widths: `involution compare`'s records of all seeds."""
    for variant in ("published", "fair"):
        paths = sorted((results / "compare").glob(f"{variant}*.json"))
        rows = [_compared(result) for path in paths for result in records.read(path)["results"]]
        if rows:
            yield variant, {"metric": "test_accuracy", "claims": list(_claims(variant)), "results": rows}, paths


def _compared(result: dict[str, Any]) -> dict[str, Any]:
    last = result["history"][-1]
    values = {name: 100 * last[name] for name in ("train_accuracy", "test_accuracy")}
    return row(f"{result['operator']}, {result['dataset']}", result["seed"], values)


def _claims(variant: str) -> Iterator[dict[str, Any]]:
    """Yield what the report says of its nets, and the same of nets of equal widths, of which it says nothing."""
    is_published = variant == "published"
    nets = "the report's nets" if is_published else "nets of equal depth and widths, 3 epochs"
    common = {"source": "student report" if is_published else "this library: is it the operator?", "seen": COMPARED}
    sets = ("mnist", "fashion_mnist", "cifar10")
    for dataset in sets:
        of, than = (REPORTED[dataset, operator].test_accuracy_percent for operator in ("convolution", "involution"))
        yield {
            **common,
            "words": f"involution is less accurate than convolution on {dataset}",
            "of": f"convolution, {dataset}",
            "than": f"involution, {dataset}",
            "note": f"{nets}{f'; {of - than:.1f} points there' if is_published else ''}",
        }
    for easier, harder in pairwise(sets):
        yield {
            **common,
            "words": "the gap between convolution and involution grows with the difficulty of the images",
            "of": f"convolution, {harder}{LESS}involution, {harder}",
            "than": f"convolution, {easier}{LESS}involution, {easier}",
            "paired": False,
            "note": f"{nets}; from {easier} to {harder}",
        }
    for dataset in sets:
        gap = f"convolution, {dataset}{LESS}involution, {dataset}"
        dropout = ", which has dropout," if dataset == "mnist" else ""
        yield {
            **common,
            "words": "involution overfits less than convolution",
            "of": gap,
            "metric": "train_accuracy",
            "than": gap,
            "than_metric": "test_accuracy",
            "note": f"{nets}; accuracy during the last epoch of training{dropout} less that on the test images, {dataset}",
        }


def of_study(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return older results with the metric and the claims of a study's file."""
    declared = load(STUDIES / f"{name}.yaml")
    metric = declared["metric"]
    return {
        "metric": [metric] if isinstance(metric, str) else metric,
        "claims": declared["claims"],
        "results": rows,
    }


def older(results: Path) -> Iterator[Found]:
    """Yield records of single trainings, made before there were studies, under the claims of the study they belong to."""
    cells = sorted((results / "detection").glob("bccd-*.json"))
    rows = [row(p.stem[5:], 0, {"test.map": 100 * records.read(p)["results"]["map"]}) for p in cells]
    declared = of_study("bccd_from_scratch", rows)
    declared["claims"] = [
        {**c, "note": "blood cells, half the width, from scratch, 12 epochs"} for c in declared["claims"]
    ]
    yield "bccd_12_epochs", declared, cells
    streets = sorted((results / "camvid").glob("*.json"))
    rows = []
    for path in streets:
        judged = records.read(path)["results"]
        values = {f"test.iou_percent.{name}": value for name, value in judged["iou_percent"].items()}
        rows.append(row(path.stem, 0, {"test.miou_percent": judged["miou_percent"], **values}))
    declared = of_study("camvid", rows)
    declared["claims"] = [
        # Seeds that were seen are those of the nets with pretrained backbones.
        {**{key: value for key, value in claim.items() if key != "seen"}, "note": f"{note}; from scratch"}
        for claim in declared["claims"]
        for note in [claim["note"].removesuffix(PRETRAINED)]
    ]
    yield "camvid_from_scratch", declared, streets


def found(results: Path) -> Iterator[Found]:
    """Yield everything that claims are judged by; a study's record takes the place of older ones of its name."""
    new = {
        path.stem: path for folder in ("studies", "properties") for path in sorted((results / folder).glob("*.json"))
    }
    old = {name: (record, paths) for name, record, paths in [*comparisons(results), *older(results)]}
    for name, (record, paths) in old.items():
        if name not in new:
            yield name, record, paths
    for name, path in new.items():
        record = records.read(path)
        file = STUDIES / f"{name}.yaml"
        if name in CLAIMS:
            record["claims"] = CLAIMS[name]
        if file.exists():
            # As they are declared now, seeds that were asked for later included: the record has the results.
            declared = load(file)
            record["claims"], record["study"] = declared["claims"], declared
        yield name, record, [path]
    for file in sorted(STUDIES.glob("*.yaml")):
        # Declared, and never run: its claims are not measured.
        if file.stem not in {**old, **new}:
            yield file.stem, of_study(file.stem, []), []


def shares_order(record: dict[str, Any]) -> bool:
    """Whether seeds of a study's record share the order of the images, which studies once did not vary."""
    own = [r.get("plan", {}).get("data", {}).get("init_args", {}).get("seed") for r in record["results"] if r["seed"]]
    return "study" in record and None in own


def shared_trainings(records: Iterable[tuple[str, dict[str, Any]]]) -> Iterator[str]:
    """Yield which trainings stand behind several records, a line for those that the same ones share.

    Args:
        records: name and content; trainings by their folders, which measured properties name in their command.
    """
    users: dict[str, set[str]] = {}
    for name, record in records:
        runs = {one["run"] for one in record["results"] if one.get("run")}
        runs |= set(re.findall(r"=(runs/\S+?)/checkpoints/", record.get("command", "")))
        for run in runs:
            users.setdefault(run, set()).add(name)
    groups: dict[tuple[str, ...], list[str]] = {}
    for run, names in sorted(users.items()):
        if len(names) > 1:
            groups.setdefault(tuple(sorted(names)), []).append(Path(run).name)
    for names, runs in groups.items():
        yield f"- {', '.join(f'`{name}`' for name in names)}: {', '.join(runs)}"


def judged(results: Path) -> list[Judged]:
    """Return all claims with their verdicts."""
    return [one for _, record, _ in found(results) for one in judge(record)]


def lines(results: Path) -> list[str]:
    """Return the table of all claims, the rule of its verdicts, and the records behind it."""
    rows: list[list[str]] = []
    sources = []
    head: list[str] = []
    every: list[Judged] = []
    ordered: list[Path] = []
    everything = list(found(results))
    for name, record, paths in everything:
        ones = judge(record)
        every += ones
        ordered += paths if shares_order(record) else []
        head, cells = claims_table(ones)
        names = ", ".join(f"`{path.relative_to(results)}`" for path in paths) or f"`involution study {name}`"
        rows += [[*line, names] for line in cells]
        sources += [f"- {source(records.read(path), path)}" for path in paths]
    stand = standing(every)
    for line, one in zip(rows, every, strict=True):
        line[head.index("verdict")] += HOLM if one in stand else ""
    head = [*head, f"record in `{results}/`, or what would make it"]
    picture = f"![Measured differences with their intervals, one line per claim]({PICTURE})"
    shared = ", ".join(f"`{path.relative_to(results)}`" for path in ordered)
    note = [f"Seeds of {shared} share the order of the images: what that varies is not in their intervals.", ""]
    note = note if shared else []
    together = list(shared_trainings((name, record) for name, record, _ in everything))
    if together:
        note += [
            "The same trainings stand behind several records, whose verdicts are not independent of each other:",
            "",
        ]
        note += [*together, ""]
    return [counts(every), "", picture, "", RULE, "", *note, *table(head, rows), "", *sources]


def studies(results: Path) -> Iterator[str]:
    """Yield the tables of every study and property, and the pictures of `pictures`."""
    for folder, title in (("studies", "Studies"), ("properties", "Properties")):
        paths = sorted((results / folder).glob("*.json"))
        if paths:
            yield from ["", f"## {title}"]
        for path in paths:
            record = {**records.read(path), "claims": []}
            yield from ["", *markdown(record).rstrip().splitlines(), ""]
            for picture, words, _ in pictures(path, record):
                yield from [f"![{words}]({picture})", ""]
            yield f"- {source(record, path)}"


def pictures(path: Path, record: dict[str, Any]) -> Iterator[tuple[str, str, Callable[[dict[str, Any]], Any]]]:
    """Yield the pictures of a study's record: place in the folder of pages, what it shows, and who draws it.

    Args:
        path: of the record.
        record: its content.
    """
    if path.parent.name == "studies":
        title = record["title"]
        yield f"images/study_{path.stem}.png", f"{title}: seeds, means and their intervals", drawing.draw
        if costs_drawing.drawn_costs(record):
            yield f"images/study_{path.stem}_costs.png", f"{title}: what nets reach at what cost", costs_drawing.draw
