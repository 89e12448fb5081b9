"""Records of benchmarks: their names, the commands that write them, and the pages made of several runs and machines."""

import shlex
import shutil
import subprocess
from copy import deepcopy
from itertools import pairwise
from pathlib import Path

import pytest

pytest.importorskip("timm", reason="the tools count nets of timm")

from benchmarks import commands
from tools import front_page, tables

from involution import records
from involution.studies.latency.run import record_name

RESULTS = Path(__file__).parents[1] / "results"
OPTIONS_OF_NETS = {"--freeze": "frozen", "--skip-training": "latency"}


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_a_record_has_the_name_that_its_command_writes(path):
    record = records.read(path)
    assert record["name"] == path.stem
    if "-cpu-" not in path.stem:
        return
    program, *words = shlex.split(record["command"])
    arguments, _ = commands.parser(None, 1).parse_known_args(words)
    arguments.threads = record["machine"]["threads"]
    if program == "involution":
        assert path.stem == (arguments.name or record_name("engines", record["settings"]["threads"]))
    else:
        kind = words[1].removeprefix("benchmarks.")
        kind = next((name for option, name in OPTIONS_OF_NETS.items() if option in words), kind)
        assert path.stem == commands.name_of(kind, arguments)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("--threads 1", "nets-cpu-1-thread"),
        ("--threads 8 --run 3", "nets-cpu-8-threads-run-3"),
        ("--name nets-compiled-cpu-2-threads", "nets-compiled-cpu-2-threads"),
    ],
)
def test_a_record_is_called_as_one_says(words, name, tmp_path, capsys):
    arguments = commands.parser(None, 1).parse_args([*words.split(), "--output", str(tmp_path)])
    commands.write("nets", arguments, results=[])
    path = tmp_path / f"{name}.json"
    assert capsys.readouterr().out == f"\n{path}\n"
    assert records.read(path)["name"] == name


def settings(words):
    """Return a command without what says where its record goes, and on how many threads it ran: that is the record's name."""
    options = {"--threads", "--run", "--name", "--output"}
    return [word for before, word in pairwise(["", *words]) if not options & {before, word}]


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_bench_runs_the_commands_that_the_page_quotes():
    asked = ["make", "--dry-run", "--assume-old=.venv/.ready", "bench"]
    printed = subprocess.run(asked, cwd=RESULTS.parent, capture_output=True, text=True, check=True).stdout
    lines = printed.replace("\\\n", " ").replace(".venv/bin/", "").splitlines()
    lines = [line.removeprefix("for run in 1 2 3; do ").partition(" ||")[0] for line in lines]
    run = [settings(line.split()) for line in lines if line.startswith(("python -m benchmarks.", "involution "))]
    quoted = {path.stem: settings(records.read(path)["command"].split()) for path in RESULTS.glob("*-cpu-*.json")}
    # It takes a folder of images.
    del quoted["accuracy-cpu-2-threads"]
    assert {name for name, words in quoted.items() if words not in run} == set()


def row(kind, batch, ms):
    names = ("resnet50", "rednet50", "resnet50, folded", "rednet50, folded")
    times = {name: {"median_ms": ms * (number + 1)} for number, name in enumerate(names)}
    return {
        "kind": kind,
        "depth": 50,
        "batch": batch,
        "times": times,
        "ratios": {name: ms * number for number, name in enumerate(names)},
    }


def nets(name, ms=1.0):
    return {"name": name, "results": [row("inference", 1, ms), row("inference", 8, 10 * ms)]}


def test_runs_are_matched_by_what_was_measured():
    first, second = nets("a"), nets("a-run-2", 3.0)
    second["results"].reverse()
    lines = tables.net_tables([first, second])
    assert "| inference, batch 1 | rednet50 | 4.0 (2.0 to 6.0) | 2.00 (1.00 to 3.00) |  |  |" in lines
    assert "| inference, batch 8 | rednet50 | 40.0 (20.0 to 60.0) | 20.00 (10.00 to 30.00) |  |  |" in lines


def without_a_row(run):
    run["results"].pop()


def without_folded_nets(run):
    for name in ("resnet50, folded", "rednet50, folded"):
        del run["results"][1]["times"][name]


@pytest.mark.parametrize("change", [without_a_row, without_folded_nets])
def test_runs_of_other_settings_are_refused(change):
    runs = [nets("nets-cpu-2-threads"), nets("nets-cpu-2-threads-run-2")]
    change(runs[1])
    message = (
        "nets-cpu-2-threads and nets-cpu-2-threads-run-2 are runs of one command by their names, but only one of them "
        r"has inference, 50, 8, resnet50.*; measure both with the same options, or give one another --name"
    )
    for made in (runs, runs[::-1]):
        with pytest.raises(SystemExit, match=message if made is runs else "only one of them has inference, 50, 8"):
            tables.net_tables(made)


def operator(name, batches, ms):
    times = {"involution": {"median_ms": ms}}
    results = [
        {
            "batch": batch,
            "channels": 64,
            "size": 56,
            "forward": times,
            "backward": times,
            "ratios": {"a / b": batch * ms},
        }
        for batch in batches
    ]
    return {"name": name, "results": deepcopy(results)}


def test_medians_of_the_operator_are_of_the_same_shape():
    lines = tables.operator_tables([operator("a", (1, 8), 1.0), operator("a-run-2", (8, 1), 2.0)])
    assert [line for line in lines if line.startswith("| 8×64×56² |")][-1] == "| 8×64×56² | 12.00 |"
    with pytest.raises(SystemExit, match="only one of them has 8, 64, 56, involution; measure both"):
        tables.operator_tables([operator("a", (1, 8), 1.0), operator("a-run-2", (1,), 2.0)])


def test_the_front_page_is_of_one_number_of_threads(tmp_path):
    for threads, ms in ((1, 5.0), (2, 1.0), (8, 9.0)):
        for kind in ("nets", "frozen", "nets-compiled"):
            name = record_name(kind, threads)
            records.write(name, {"results": nets(name, ms)["results"]}, tmp_path)
    for threads, ms in ((1, 5.0), (2, 1.0), (8, 9.0)):
        lines = list(front_page.nets(tmp_path, threads))
        assert f"| as they are (one run) | {ms:.2f} | {10 * ms:.2f} |  |  |" in lines
    with pytest.raises(SystemExit, match=r"has no nets-cpu-4-threads\.json, which the page shows; measure it"):
        list(front_page.nets(tmp_path, 4))
