"""Numbers by hand of what a table's record holds, and of where its nets stand."""

from dataclasses import replace

import pytest
import torch
import yaml
from searches import declared_table, journal_of_trainings, recorded_table  # noqa: F401

from involution import records
from involution.studies.search import evaluate, replay, table


def test_costs_are_compared_by_their_ratio_and_errors_by_their_difference(recorded):
    nets = replay.read(recorded)[1][:4]
    accuracies = ({0: 50.0}, {0: 60.0, 1: 80.0}, {}, {0: 90.0})
    nets = [replace(net, params=10**i, macs=7, accuracies=a) for i, (net, a) in enumerate(zip(nets, accuracies))]
    found = replay.points(nets, "params")
    assert [cost for cost, _ in found] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert [error for _, error in found] == pytest.approx([1, 0.5, 1, 0])
    assert [cost for cost, _ in replay.points(nets, "macs")] == [0.0] * 4
    # Areas below (1.1, 1.1): of the first net alone, then with the second.
    shares = replay.curve([0, 1, 2, 3], found)
    areas = [1.1 * 0.1, 1.1 * 0.1 + (1.1 - 1 / 3) * 0.5, 1.1 * 0.1 + (1.1 - 1 / 3) * 0.5]
    whole = areas[-1] + 0.1 * 0.5
    assert shares == pytest.approx([area / whole for area in (*areas, whole)])


def test_the_first_epoch_is_the_first_of_the_first_training(recorded):
    content = records.read(recorded)
    for net in replay.read(recorded)[1]:
        row = next(row for row in content["results"] if row["net"] == net.name)
        assert net.first_epoch == 100 * row["history"][0]["test_accuracy"] and net.first_seed == row["seed"]


def test_how_far_nets_are_from_proposals_is_the_same_every_time(recorded):
    space, nets = replay.read(recorded)
    assert replay.usual_distances(space, nets) == replay.usual_distances(space, nets)


def test_another_seed_draws_other_nets(declared):
    first = table.read(declared)
    declared.write_text(yaml.safe_dump({**yaml.safe_load(declared.read_text()), "draw_seed": 1}))
    second = table.read(declared)
    blocks = [{str(net.blocks) for net in one.nets()} for one in (first, second)]
    assert len(blocks[0] & blocks[1]) < 10 < len(blocks[0])


def test_what_another_version_trained_lies_elsewhere(declared, tmp_path, monkeypatch):
    (entry, *_) = table.read(declared).entries()
    here = entry.folder(tmp_path)
    assert entry.folder(tmp_path) == here and here.parent == tmp_path
    with monkeypatch.context() as patched:
        patched.setattr(table, "__version__", "0")
        assert entry.folder(tmp_path) != here
    monkeypatch.setattr(torch, "__version__", "0")
    assert entry.folder(tmp_path) != here


def test_a_result_adds_up_the_time_of_its_epochs_and_has_no_infinities(journal, declared):
    (entry, *_) = table.read(declared).entries()
    epochs = (
        {"epoch": 1, "test_accuracy": 0.25, "train_s": 2.0, "train_cpu_s": 3.0, "val_loss": float("inf")},
        {"epoch": 2, "test_accuracy": 0.5, "train_s": 1.0, "train_cpu_s": 4.0, "val_loss": float("nan")},
    )
    here = {"commit": "c", "modified": False, "machine": {}, "versions": {}}
    row = table._row(entry, evaluate.Training(epochs), here)
    assert (row["accuracy_percent"], row["train_s"], row["train_cpu_s"]) == (50.0, 3.0, 7.0)
    assert [epoch["val_loss"] for epoch in row["history"]] == [None, None]


def test_a_record_says_whether_it_is_of_all_trainings(recorded, declared):
    found = table.read(declared)
    rows = records.read(recorded)["results"]
    whole, part = table.payload(found, rows), table.payload(found, rows[:-1])
    assert (whole["finished"], part["finished"]) == (True, False) and whole["asked"] == part["asked"] == len(rows)


def test_a_result_that_is_there_is_not_replaced_by_that_of_a_record(recorded, declared, tmp_path):
    found, (entry, *_) = table.read(declared), table.read(declared).entries()
    table.keep(entry.folder(tmp_path / "new"), {"mine": True})
    table.take_over(recorded, found, tmp_path / "new")
    first, *others = table.results(found, tmp_path / "new")
    assert first == {"mine": True} and others == records.read(recorded)["results"][1:]
