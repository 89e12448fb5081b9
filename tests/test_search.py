"""Searches: whatever kills them, several processes on one storage, diverging nets, limits, pages."""

import os
import time
from itertools import pairwise
from multiprocessing import get_context

import pytest
import torch
from searches import (  # noqa: F401
    DIGITS,
    FakeTraining,
    accuracy_of,
    begun,
    interrupted,
    journal_of_trainings,
    refused,
)

from involution import records
from involution.errors import CommandError
from involution.recipes import resolve
from involution.studies.search import evaluate, plan, report, study
from involution.studies.search.space import Space


def plan_of(**arguments):
    return plan.Plan(**{"name": "test", "recipe": resolve(DIGITS), "space": Space(), "sampler": "random", **arguments})


def search_in(folder, said=None, **arguments):
    return study.Search(
        plan_of(**arguments), str(folder / "study.db"), folder / "locks", say=(said if said is not None else []).append
    )


def work(folder, trials, seconds):
    """Work on a study, in a forked process of its own."""
    torch.set_num_threads(1)
    evaluate.train.seconds = seconds
    search_in(folder).work(trials)


def processes(number, *arguments):
    return [get_context("fork").Process(target=work, args=arguments) for _ in range(number)]


def outcomes(search):
    return sorted((row["blocks"], row["accuracy_percent"], row["outcome"]) for row in report.rows(search.study))


@pytest.mark.usefixtures("journal")
def test_a_search_goes_on_as_if_it_had_not_been_interrupted(tmp_path):
    whole, parts = search_in(tmp_path), None
    whole.work(8)
    (tmp_path / "parts").mkdir()
    for trials in (3, 3, 8):
        parts = search_in(tmp_path / "parts")
        parts.work(trials)
        assert study.count_finished(parts.study) == trials
    assert outcomes(whole) == outcomes(parts)
    assert len({row[0] for row in outcomes(whole)}) == 8


@pytest.mark.parametrize("sampler", plan.SAMPLERS)
def test_every_sampler_searches(journal, tmp_path, sampler):
    search = search_in(tmp_path, sampler=sampler, prune=False)
    search.work(14)
    found = report.rows(search.study)
    assert len(found) == 14 and all(row["outcome"].startswith(("trained", "the net of trial")) for row in found)
    assert len(begun(journal)) == sum(row["outcome"] == "trained" for row in found)
    chosen = report.best(found, search.plan)
    assert chosen[0]["accuracy_percent"] == max(row["accuracy_percent"] for row in found)
    assert all(a["params"] > b["params"] for a, b in pairwise(chosen))


def test_a_killed_trial_is_trained_anew_and_counted_once(journal, tmp_path):
    (killed,) = processes(1, tmp_path, 4, 0.5)
    killed.start()
    while len(begun(journal)) < 2:
        assert killed.is_alive()
        time.sleep(0.05)
    killed.kill()
    killed.join()
    said = []
    search = search_in(tmp_path, said)
    assert study.count_finished(search.study) == 1
    search.work(4)
    found = report.rows(search.study)
    assert len(found) == len({row["blocks"] for row in found}) == 4
    assert any("abandoned by its process; its net is trained anew" in line for line in said)
    # The net that was at work is the one that was begun twice.
    nets = [line.partition(" epoch")[0] for line in begun(journal)]
    assert len(nets) == 5 and nets[1] in nets[2:] and {row["blocks"] for row in found} == set(nets)
    (tmp_path / "straight").mkdir()
    straight = search_in(tmp_path / "straight")
    straight.work(4)
    assert outcomes(straight) == outcomes(search)


def end_at_once(folder):
    """Begin a training and be killed in it, as where memory runs out, in a forked process of its own."""
    evaluate.train = lambda recipe, **_: os._exit(9)
    search_in(folder).work(1)


def test_a_net_that_ends_every_process_is_given_up(journal, tmp_path):
    for _ in range(3):
        process = get_context("fork").Process(target=end_at_once, args=(tmp_path,))
        process.start()
        process.join()
        assert process.exitcode == 9
    search_in(tmp_path).work(4)
    found = report.rows(search_in(tmp_path).study)
    assert len(found) == 4 and len(begun(journal)) == 3
    (given_up,) = [row for row in found if row["outcome"] != "trained"]
    assert given_up["outcome"] == "ended its process 3 times, not trained again" and given_up["state"] == "fail"


@pytest.mark.parametrize(("end", "error"), [(interrupted, KeyboardInterrupt), (refused, CommandError)])
@pytest.mark.parametrize("where", ["train", "cost"])
def test_whatever_ends_a_net_often_but_a_kill_it_is_trained_nevertheless(
    tmp_path, journal, monkeypatch, end, error, where
):
    with monkeypatch.context() as patch:
        patch.setattr(evaluate, where, end)
        for _ in range(4):
            with pytest.raises(error):
                search_in(tmp_path).work(1)
    search_in(tmp_path).work(1)
    (row,) = report.rows(search_in(tmp_path).study)
    assert row["outcome"] == "trained" and len(begun(journal)) == 1


def test_two_processes_share_a_study(journal, tmp_path):
    workers = processes(2, tmp_path, 6, 0.1)
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    found = report.rows(search_in(tmp_path).study)
    assert len(found) == 6 == len(begun(journal)) and len({row["blocks"] for row in found}) == 6
    assert len({row["trial"] for row in found}) == 6


def test_a_net_that_diverges_is_recorded_and_not_trained_again(journal, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "train", FakeTraining(journal, diverging=lambda recipe: accuracy_of(recipe) < 0.5))
    search = search_in(tmp_path)
    search.work(8)
    found = report.rows(search.study)
    failed = [row for row in found if row["state"] == "fail"]
    assert 0 < len(failed) < 8 == len(found) and all("the loss is nan" in row["outcome"] for row in failed)
    search_in(tmp_path).work(8)
    assert len(begun(journal)) == 8


def test_nets_that_are_behind_are_given_up_early(journal, tmp_path):
    search = search_in(tmp_path, objectives=("accuracy",))
    search.work(20)
    found = report.rows(search.study)
    behind = [row for row in found if row["outcome"].startswith("given up")]
    assert behind and all(row["state"] == "pruned" and len(row["history"]) < 3 for row in behind)
    best = max(row["accuracy_percent"] for row in found if row["accuracy_percent"] is not None)
    assert best == pytest.approx(100 * max(accuracy_of(recipe_of(row)) for row in found))
    assert len(journal.read_text().splitlines()) == sum(len(row["history"]) for row in found)


def test_a_net_is_laid_beside_those_given_up_too_and_once_beside_each(tmp_path, monkeypatch):
    """Half of the nets that are known are worse than 0.3 after an epoch, though those that were trained to the end are not."""
    monkeypatch.setattr(evaluate, "cost", lambda recipe: pytest.fail("not needed"))
    search = search_in(tmp_path, objectives=("accuracy",))

    def add(blocks, accuracies, state):
        trial = search.study.ask()
        trial.set_user_attr("blocks", blocks)
        trial.set_user_attr("history", [{"test_accuracy": accuracy} for accuracy in accuracies])
        search.study.tell(trial, 100 * accuracies[-1] if state == study.State.COMPLETE else None, state=state)

    def is_behind(accuracy, blocks="new", epoch=1):
        return search._is_behind({"blocks": blocks}, [{"test_accuracy": accuracy}] * epoch)

    for number in range(4):
        add(f"good {number}", [0.5, 0.6, 0.7], study.State.COMPLETE)
    for _ in range(4):
        add("good 0", [0.5, 0.6, 0.7], study.State.COMPLETE)
    # Four nets, whatever they were proposed.
    assert not is_behind(0.1)
    for number in range(5):
        add(f"bad {number}", [0.2], study.State.PRUNED)
    assert is_behind(0.1) and not is_behind(0.3)
    # Given up after one epoch, they say nothing of the second; after the last one nothing is given up.
    assert not is_behind(0.1, epoch=2) and not is_behind(0.1, epoch=3)
    add("good 4", [0.5, 0.6, 0.7], study.State.COMPLETE)
    assert is_behind(0.1, epoch=2) and not is_behind(0.1, epoch=3)
    # A net is not behind itself: without it there are four.
    assert not is_behind(0.1, "good 4", epoch=2)


def recipe_of(row):
    return evaluate.recipe_of(resolve(DIGITS), row["blocks"], 0)


def test_nets_beyond_the_limits_are_not_trained(journal, tmp_path, monkeypatch):
    search = search_in(tmp_path, limits={"params": 250_000})
    search.work(5)
    found = report.rows(search.study)
    assert len(found) == 5 == len(begun(journal)) and all(row["params"] <= 250_000 for row in found)
    assert len(search.study.trials) > 5
    monkeypatch.setattr(study, "_MOST_REFUSED", 3)
    tight = search_in(tmp_path, name="tight", limits={"params": 10})
    with pytest.raises(CommandError, match=r"none of 3 nets is within the limits {'params': 10}"):
        tight.work(1)


def test_latency_is_an_objective(journal, tmp_path):
    search = study.Search(
        plan_of(objectives=("accuracy", "latency", "params"), sampler="tpe"),
        str(tmp_path / "study.db"),
        tmp_path / "locks",
        latency_ms=lambda blocks: len(str(blocks)) / 10,
        say=lambda line: None,
    )
    search.work(6)
    found = report.rows(search.study)
    assert all(row["latency_ms"] == len(row["blocks"]) / 10 for row in found)
    front = report.best(found, search.plan)
    better = [
        (a["trial"], b["trial"])
        for a in found
        for b in front
        if a["accuracy_percent"] is not None
        and a["accuracy_percent"] >= b["accuracy_percent"]
        and a["latency_ms"] <= b["latency_ms"]
        and a["params"] < b["params"]
    ]
    assert front and not better


@pytest.mark.usefixtures("journal")
def test_another_search_under_the_same_name_is_refused(tmp_path):
    search_in(tmp_path).work(1)
    with pytest.raises(CommandError, match="the study test searches otherwise: its sampler is 'random', not 'tpe'"):
        search_in(tmp_path, sampler="tpe")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"objectives": ("accuracy", "beauty")}, "unknown objective 'beauty'"),
        ({"objectives": ("params",)}, "needs accuracy among its objectives"),
        ({"limits": {"accuracy": 3}}, "unknown limit 'accuracy'"),
        ({"sampler": "grid"}, "unknown sampler 'grid'"),
    ],
)
def test_a_plan_that_is_none_is_refused(arguments, words):
    with pytest.raises(CommandError, match=words):
        plan_of(**arguments)


def test_a_storage_that_cannot_be_opened_is_refused(tmp_path):
    with pytest.raises(CommandError, match=r"the storage .* cannot be opened"):
        study.open_storage(str(tmp_path / "missing" / "study.db"))
    with pytest.raises(CommandError, match=r"the storage nothing://here cannot be opened"):
        study.open_storage("nothing://here")
    for place in (str(tmp_path / "typo.db"), f"sqlite:///{tmp_path / 'typo.db'}"):
        with pytest.raises(CommandError, match=r"there is no storage .*typo.db; name the file or the address"):
            study.open_storage(place, new=False)
    assert not (tmp_path / "typo.db").exists()


def test_a_page_and_a_picture_are_written_while_a_search_goes_on(journal, tmp_path):
    search = search_in(tmp_path, prune=False)
    sizes = []
    search.work(3, on_trial=lambda search: sizes.append(len(report.write(search.study, search.plan, tmp_path / "out"))))
    assert sizes == [3, 3, 3]
    page = (tmp_path / "out" / "report.html").read_text()
    record = records.read(tmp_path / "out" / "test.json")
    chosen = report.best(record["results"], search.plan)
    assert len(record["results"]) == 3 and all(row["blocks"] in page for row in record["results"])
    assert page.count("<svg") == len(chosen) and page.count("<rect") == sum(
        len(part.split()) - 1 for row in chosen for part in row["blocks"].split("/")
    )
    assert (tmp_path / "out" / "pareto.png").read_bytes().startswith(b"\x89PNG")
