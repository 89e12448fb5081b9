"""Cards and pages say where trainings ran, not where their record was written, and that nobody knows where nobody does."""

import json
from pathlib import Path

import pytest

pytest.importorskip("timm", reason="the tools count nets of timm")

from tools import markdown, model_cards, trainings

ROOT = Path(__file__).parents[1]
EARLY, LATE, WRITER = "a" * 40, "b" * 40, "c" * 40


def start(day, commit, processor="Fast", modified=False):
    return {
        "date": f"2026-01-{day:02}T00:00:00+00:00",
        "commit": commit,
        "modified": modified,
        "machine": {"processor": processor, "cores": 2},
        "versions": {"torch": "2.11"},
    }


def record(results, **more):
    return {"command": "involution study x", **start(9, WRITER, "Writer"), "results": results, **more}


def line(results, **more):
    return markdown.source(record(results, **more), Path("results/x.json"))


def test_a_study_names_the_commits_of_its_trainings_in_the_order_of_time():
    rows = [
        [start(3, LATE)],
        [start(2, LATE), start(1, EARLY)],
        [start(1, EARLY), start(2, EARLY)],
        [start(1, EARLY)],
    ]
    assert line([{"starts": starts} for starts in rows]) == (
        "`involution study x`, 4 trainings: 1 begun at aaaaaaaaaa and continued at bbbbbbbbbb, 2 at aaaaaaaaaa, "
        "1 at bbbbbbbbbb; on Fast, 2 cores, torch 2.11; written at cccccccccc, 2026-01-09; record: `results/x.json`."
    )


def test_a_study_names_the_hours_of_its_trainings_by_the_median_epoch_of_each():
    # An epoch of half an hour, one in which the machine stood still, and one that began in another process.
    slow = {
        "starts": [start(1, EARLY)],
        "history": [{"epoch_s": 1800.0}, {"epoch_s": 9e4}, {"epoch_s": None}, {"epoch_s": 1800}],
    }
    fast = {"starts": [start(1, EARLY)], "history": [{"epoch_s": 360.0}] * 5}
    silent = {"starts": [start(1, EARLY)], "history": [{"val_loss": 1.0}]}
    assert "torch 2.11; 2.5 hours in all; written at" in line([slow, fast])
    assert "torch 2.11; 2.5 hours in all of 2 of them; written at" in line([slow, silent, fast])
    assert "hours" not in line([silent])
    # Of one that was started once it is known from its dates, of one that went on later it is not.
    whole = {**silent, "finished": "2026-01-01T01:30:00+00:00"}
    assert "torch 2.11; 1.5 hours in all; written at" in line([whole])
    assert "hours" not in line([{**whole, "starts": [start(1, EARLY), start(2, EARLY)]}])


def test_trainings_of_settings_that_were_not_chosen_count():
    row = {"starts": [start(1, EARLY)], "history": [{"epoch_s": 1800.0}]}
    assert "3 trainings: 3 at aaaaaaaaaa; on Fast, 2 cores, torch 2.11; 1.5 hours in all" in line(
        [row], not_chosen=[row, row]
    )


def test_of_trainings_that_kept_nothing_the_machine_is_not_that_of_the_record():
    some = line([{"starts": []}, {"starts": [start(1, EARLY, modified=True)]}, {"starts": [start(2, None, "Slow")]}])
    assert some == (
        "`involution study x`, 3 trainings: 1 at aaaaaaaaaa with changes, 1 at an unknown commit, 1 whose commit and "
        "machine were not kept; on Fast, 2 cores, torch 2.11 and Slow, 2 cores, torch 2.11 where it was kept; written at "
        "cccccccccc on Writer, 2 cores, torch 2.11, 2026-01-09; record: `results/x.json`."
    )
    # A row's own commit may be that of who took an older record over.
    none = line([{"starts": [], "commit": EARLY}, {"starts": []}])
    assert ", 2 trainings whose commits and machines were not kept; written at cccccccccc on Writer, " in none
    alone = line({"history": []})
    assert ", 1 training whose commit and machine were not kept; written at cccccccccc on Writer, " in alone


def test_rows_of_a_table_describe_their_own_process():
    rows = [{**start(day, commit), "finished": f"2026-01-0{day}"} for day, commit in ((1, EARLY), (2, LATE), (3, LATE))]
    assert ", 3 trainings: 1 at aaaaaaaaaa, 2 at bbbbbbbbbb; on Fast, 2 cores, torch 2.11; written at" in line(rows)


@pytest.mark.parametrize("results", [[{"median_ms": 1.0}], {"map": 0.5}])
def test_what_the_command_itself_measured_ran_at_its_commit(results):
    assert line(results, instruction_set="avx2") == (
        "`involution study x`, commit cccccccccc, Writer, 2 cores, avx2, torch 2.11, 2026-01-09; record: `results/x.json`."
    )


def test_every_training_of_the_records_here_is_counted_once():
    counted = {}
    for path in (ROOT / "results").rglob("*.json"):
        kept = json.loads(path.read_text(encoding="utf-8"))
        if starts := trainings.starts_of(kept):
            counted[path.relative_to(ROOT / "results").as_posix()] = len(starts)
            asked = [*kept["results"], *kept.get("not_chosen", [])] if isinstance(kept["results"], list) else [kept]
            assert len(starts) == len(asked)
    assert {"studies/family.json", "imagenette/rednet26_half.json", "search/random_nets_cifar10.json"} <= counted.keys()


def card(**more):
    kept = json.loads((ROOT / "results" / "cifar10" / "rednet14_eighth.json").read_text(encoding="utf-8"))
    lines = model_cards.card("rednet14_eighth.cifar10", {**kept, **start(9, WRITER), **more}, 0.4).splitlines()
    return next(line for line in lines if line.startswith("| commit |"))


def test_a_card_names_every_start_of_its_training():
    starts = [start(1, EARLY, modified=True), start(2, LATE)]
    assert (
        card(starts=starts) == "| commit | aaaaaaaaaa with changes, 2026-01-01; continued at bbbbbbbbbb, 2026-01-02 |"
    )


@pytest.mark.parametrize("more", [{}, {"starts": []}])
def test_a_card_does_not_take_the_commit_of_its_record_for_that_of_the_training(more):
    assert card(**more) == "| commit | that of the training was not kept; recorded at cccccccccc, 2026-01-09 |"
