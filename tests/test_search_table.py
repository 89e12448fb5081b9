"""Tables of random nets: whatever kills them, several processes, replays of searches on them, and answers."""

import json
import math
import os
import shutil
import signal
import time
from collections import Counter
from dataclasses import replace
from multiprocessing import get_context
from random import Random

import pytest
import yaml
from searches import (  # noqa: F401
    ROOT,
    begun,
    declared_table,
    interrupted,
    journal_of_trainings,
    make,
    recorded_table,
    refused,
)

from involution import records
from involution.commands.main import main
from involution.errors import CommandError
from involution.recipes import resolve
from involution.studies.search import answers, evaluate, plan, replay, table
from involution.studies.search.space import active

FILES = sorted((ROOT / "recipes" / "tables").glob("*.yaml"))
DIGITS = ROOT / "recipes" / "search" / "digits.yaml"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_table_can_be_read_and_its_parts_are_tables(file):
    found = table.read(file)
    nets, entries = found.nets(), found.entries()
    assert len(nets) == sum(found.draw.values()) and len({str(net.blocks) for net in nets}) == len(nets)
    assert f"involution search table recipes/tables/{file.name}" in file.read_text()
    repeated = nets[:: found.repeat_every]
    assert len(entries) == len(nets) * len(found.seeds) + len(repeated) * len(found.repeat_seeds)
    assert {entry.net.name for entry in entries if entry.seed == 2} == {net.name for net in repeated}
    assert len({entry.name for entry in entries}) == len(entries)
    assert table.read(file).nets() == nets
    for end in (len(nets) // 3, len(nets)):
        part = [net.space.name for net in nets[:end]]
        for name, number in found.draw.items():
            assert abs(part.count(name) - number * end / len(nets)) <= 1
    schedule = found.recipe["model"]["init_args"]["lr_scheduler"]["init_args"]
    assert schedule["epochs"] == found.recipe["trainer"]["max_epochs"]
    # What chooses sees no test image.
    assert found.recipe["data"]["init_args"]["validation_share"] > 0


def test_a_table_whose_recipe_sets_no_images_apart_is_refused(declared):
    recipe = resolve(DIGITS)
    del recipe["data"]["init_args"]["validation_share"]
    declared.with_name("recipe.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(CommandError, match="sets no images apart, so that the test images would choose; give"):
        table.read(declared)


@pytest.mark.parametrize("every", [0, -1])
def test_an_interval_of_repeats_that_is_none_is_refused(every, tmp_path):
    file = tmp_path / "table.yaml"
    text = FILES[0].read_text().replace("../search", str(DIGITS.parent)).replace("every: 4", f"every: {every}")
    file.write_text(text)
    with pytest.raises(
        CommandError, match=f"is no table: repeat.every must be at least 1, got {every}; leave repeat out"
    ):
        table.read(file)


def test_a_killed_table_goes_on_and_two_processes_train_nothing_twice(journal, declared, tmp_path):
    runs = tmp_path / "runs"
    workers = [get_context("fork").Process(target=make, args=(declared, runs, 0.03)) for _ in range(3)]
    workers[0].start()
    while len(begun(journal)) < 3:
        assert workers[0].is_alive()
        time.sleep(0.02)
    workers[0].kill()
    workers[0].join()
    before = len(begun(journal))
    for worker in workers[1:]:
        worker.start()
    for worker in workers[1:]:
        worker.join(90)
    assert [worker.exitcode for worker in workers] == [-signal.SIGKILL, 0, 0]
    found = table.read(declared)
    rows = table.results(found, runs)
    assert len(rows) == len(found.entries()) == 60
    # The training that was killed, and no other, was begun twice.
    assert len(begun(journal)) == 61 and before >= 3
    assert [(row["net"], row["seed"]) for row in rows] == [(e.net.name, e.seed) for e in found.entries()]
    assert table.payload(found, rows)["finished"] is True
    assert table.payload(found, rows[:7])["finished"] is False


def end_at_one_net(file, runs):
    train = evaluate.train
    doomed = table.read(file).entries()[4].recipe
    evaluate.train = lambda recipe, **options: os._exit(9) if recipe == doomed else train(recipe, **options)
    make(file, runs)


def test_a_training_that_ends_every_process_failed(journal, declared, tmp_path, monkeypatch):
    runs = tmp_path / "runs"
    # Neither interruptions nor errors count.
    for end, error in [(interrupted, KeyboardInterrupt), (refused, CommandError)] * 4:
        with monkeypatch.context() as patch:
            patch.setattr(evaluate, "train", end)
            with pytest.raises(error):
                table.work(table.read(declared), runs, say=lambda line: None)
    for status in (9, 9, 9, 0):
        process = get_context("fork").Process(target=end_at_one_net, args=(declared, runs))
        process.start()
        process.join()
        assert process.exitcode == status
    rows = table.results(table.read(declared), runs)
    assert len(rows) == 60 and len(begun(journal)) == 59
    assert [row["failure"] for row in rows if row["failure"]] == ["ended its process 3 times"]
    assert rows[4]["accuracy_percent"] is None and rows[4]["history"] == []


def test_another_recipe_is_another_training(journal, declared, tmp_path):
    make(declared, tmp_path / "runs")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**resolve(DIGITS), "trainer": {"max_epochs": 1}}))
    assert table.results(table.read(declared), tmp_path / "runs") == []


def test_a_table_goes_on_from_its_record_where_the_folders_are_gone(journal, declared, tmp_path, capsys):
    runs, out = tmp_path / "runs", tmp_path / "results"
    flags = ["search", "table", str(declared), "--runs", str(runs), "--out", str(out)]
    assert main(flags) == 0
    record = out / "small.json"
    whole = records.read(record)
    # As a machine leaves it that was taken away before the last five trainings.
    record.write_text(json.dumps({**whole, "results": whole["results"][:-5]}))
    shutil.rmtree(runs)
    journal.write_text("")
    before = record.read_bytes()
    capsys.readouterr()
    assert main(flags) == 2
    assert f"{record} holds 55 trainings whose folders are not here; go on from them with --from_record {record}" in (
        capsys.readouterr().err
    )
    assert record.read_bytes() == before and not begun(journal)
    assert main([*flags, "--from_record", str(record)]) == 0
    assert len(begun(journal)) == 5
    again = records.read(record)["results"]
    assert again[:-5] == whole["results"][:-5] and len(again) == 60


def test_a_record_of_another_table_is_not_taken_over(recorded, declared, tmp_path):
    found = table.read(declared)

    def is_refused(words, content=None, of=found):
        recorded.write_text(json.dumps(content or records.read(recorded)))
        with pytest.raises(CommandError, match=words):
            table.take_over(recorded, of, tmp_path / "elsewhere")

    whole = records.read(recorded)
    is_refused("its widths differs from that of small", of=replace(found, widths=(8, 16, 32, 60)))
    is_refused("its recipe differs from that of small", of=replace(found, recipe={**found.recipe, "trainer": {}}))
    is_refused(r"holds mixed-000-2 \(.*\), which small does not train", of=replace(found, repeat_seeds=(1,)))
    is_refused("which small does not train", of=replace(found, draw_seed=1))
    older = [{**row, "versions": {**row["versions"], "torch": "1.0"}} for row in whole["results"]]
    is_refused("holds mixed-000-0 of torch 1.0; .* is installed", {**whole, "results": older})
    is_refused("is no record of a table: ", {"results": 1})
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"draw": {"all": 3}}, "draw must be numbers of nets by space"),
        ({"draw": {"mixed": 0}}, "draw must be numbers of nets by space"),
        ({"recipe": "gone.yaml"}, "its recipe .*gone.yaml is no file"),
        ({"colour": "red"}, "the key 'colour' is unknown"),
        ({"seeds": []}, "seeds must be a list with something in it"),
        ({"widths": [8, 16, 32, 63]}, "multiples of 4"),
    ],
)
def test_a_file_that_is_no_table_is_refused(declared, change, words):
    declared.write_text(yaml.safe_dump({**yaml.safe_load(declared.read_text()), **change}))
    with pytest.raises(CommandError, match=words):
        table.read(declared)


def test_a_replay_is_deterministic_and_trains_no_net_twice(recorded):
    space, nets = replay.read(recorded)
    assert len(nets) == 40 and sum(len(net.accuracies) > 1 for net in nets) == 10
    for sampler in plan.SAMPLERS:
        orders = [replay.replay(space, nets, sampler=sampler, cost="params", seed=s, budget=25) for s in (0, 0, 1)]
        assert orders[0] == orders[1] != orders[2]
        assert len(set(orders[0])) == 25 and set(orders[0]) <= set(range(40))
        shares = replay.curve(orders[0], replay.points(nets, "params"))
        assert shares == sorted(shares) and 0 <= shares[0] <= shares[-1] <= 1
    everything = replay.replay(space, nets, sampler="tpe", cost="macs", seed=0, budget=99)
    assert sorted(everything) == list(range(40))
    assert replay.curve(everything, replay.points(nets, "macs"))[-1] == pytest.approx(1)


def test_a_search_learns_what_the_table_says(recorded):
    space, nets = replay.read(recorded)
    turned = [replace(net, accuracies={0: 100 - net.accuracy}) for net in nets]
    for sampler, first in (("tpe", 10), ("nsga2", 10), ("random", 25)):
        orders = [replay.replay(space, n, sampler=sampler, cost="params", seed=0, budget=25) for n in (nets, turned)]
        # The first proposals know nothing, and random ones never do.
        assert orders[0][:first] == orders[1][:first]
        assert (orders[0] == orders[1]) == (sampler == "random")


def test_answers_come_with_intervals_and_are_the_same_again(recorded):
    space, nets = replay.read(recorded)
    scores = {"oracle": {net.name: net.accuracy for net in nets}, "noise": {net.name: len(net.blocks) for net in nets}}
    found = answers.answer(space, nets, seeds=5, budget=12, scores=scores)
    assert found == answers.answer(space, nets, seeds=5, budget=12, scores=scores)
    ranks = {row["predictor"]: row for row in found["ranks"]}
    # The accuracies here do not depend on the seed, and the first epoch's are a third of the last one's.
    for name in ("another seed", "oracle", "first epoch"):
        assert ranks[name]["spearman"]["value"] == pytest.approx(1) == ranks[name]["kendall"]["value"]
    assert ranks["oracle"]["spearman_of_several_seeds"]["value"] == pytest.approx(1)
    assert ranks["first epoch"]["nets"] == ranks["another seed"]["nets"], "judged by other seeds than its own"
    assert ranks["noise"]["less_than_best"]["low"] > 0 and "less_than_best" not in ranks["oracle"]
    assert ranks["params"]["spearman"]["low"] < 0 < ranks["params"]["spearman"]["high"]
    assert found["searches"].keys() == found["spaces"].keys() == {"params", "macs"}
    for cost in ("params", "macs"):
        for sampler in ("tpe", "nsga2"):
            part = found["searches"][cost][sampler]
            assert len(part["hypervolume"]) == 12 and part["final"]["n"] == part["than_random"]["n"] == 5
            assert part["than_random"]["low"] <= part["than_random"]["mean"] <= part["than_random"]["high"]
        assert found["spaces"][cost]["nets"] == 10
        assert {"mixed", "convolution", "involution"} < found["spaces"][cost].keys()
    assert [row["stage"] for row in found["placement"]] == [1, 2, 3, 4]
    text = answers.markdown(found)
    assert "| tpe |" in text and "another seed" in text and "mixed less this" in text
    assert found["reliability"] == {} and "Spearman and Brown" not in text


def test_means_over_seeds_agree_better_than_single_ones(recorded):
    """Where every net has several seeds, the ranking by their means is judged, as if halves of a longer test."""
    space, nets = replay.read(recorded)
    generator = Random(0)
    nets = [replace(net, accuracies={seed: net.params + generator.gauss(0, 3e4) for seed in (0, 1, 2)}) for net in nets]
    found = answers.answer(space, nets, seeds=2, budget=5)
    single = found["ranks"][0]
    assert (single["predictor"], single["nets"]) == ("another seed", len(nets))
    for key, r in single["spearman"].items():
        assert found["reliability"][key] == pytest.approx(3 * r / (1 + 2 * r)) and 0 < r < 1
    assert not any("spearman_of_several_seeds" in row for row in found["ranks"])
    text = answers.markdown(found)
    assert "Nets are ranked by means over 3 seeds or more." in text and "nets of several seeds" not in text


def test_latency_is_a_cost_where_every_net_has_one(recorded):
    space, nets = replay.read(recorded)
    nets = [replace(net, latency_ms=1.0 + len(net.blocks)) for net in nets]
    found = answers.answer(space, nets, seeds=2, budget=5)
    assert set(found["searches"]) == set(answers.COSTS) == set(found["spaces"])
    assert "| search, accuracy and latency, ms |" in answers.markdown(found)
    assert "latency_ms" not in answers.answer(space, [*nets[1:], replace(nets[0], latency_ms=None)], seeds=2)["spaces"]


def test_a_space_of_more_nets_gains_nothing_by_their_number(recorded):
    """One of sixteen is good: eight of them hold it in half of all samples."""
    nets = [net for net in replay.read(recorded)[1] if net.space == "mixed"][:16]
    nets = [replace(net, params=100, accuracies={0: 100.0 * (i == 0)}) for i, net in enumerate(nets)]
    others = [replace(net, name=f"other {net.name}", space="convolution") for net in nets[:8]]
    found = answers.spaces([*nets, *others], "params")
    assert found["nets"] == 8
    assert found["mixed"]["best_percent"] == pytest.approx(50, abs=4) and found["convolution"]["best_percent"] == 100


def test_spaces_are_compared_at_equal_cost(recorded):
    """The mixed nets are two points above those of their cost, and cost more; others are level with them."""
    mixed = [net for net in replay.read(recorded)[1] if net.space == "mixed"][:16]
    noise = [0.1, -0.1, -0.1, 0.1] * 4

    def made(name, number, above, factor):
        return [
            replace(
                net,
                name=f"{name} {i}",
                space=name,
                params=factor * (i + 1),
                accuracies={0: 50 + 3 * math.log(factor * (i + 1)) + above + n},
            )
            for i, (net, n) in enumerate(zip(mixed[:number], noise))
        ]

    # Mixed nets have 1,000 to 16,000 parameters, and of the others those of other costs are far off any line.
    far = [
        replace(net, name=f"far {net.name}", params=100, accuracies={0: 0.0}) for net in made("convolution", 9, 0, 1000)
    ]
    found = answers.spaces(
        [*made("mixed", 16, 2.0, 1000), *made("convolution", 12, 0.0, 900), *far, *made("involution", 8, 2.0, 50)],
        "params",
    )
    against = found["convolution"]["mixed_less_this"]
    assert against["nets"] == [10, 11]
    assert against["mean"] == pytest.approx(2.0, abs=0.2)
    assert 1.7 < against["low"] < against["mean"] < against["high"] < 2.3
    assert "mixed_less_this" not in found["involution"], "none costs what a mixed net does"


def test_every_net_is_as_near_to_random_proposals(recorded):
    """Those of few blocks differ from everything in few choices; random search would train them first."""
    space, nets = replay.read(recorded)
    sizes = [len(active(net.choices)) for net in nets]
    early = Counter()
    for seed in range(30):
        early.update(replay.replay(space, nets, sampler="random", cost="params", seed=seed, budget=5))
    small = [place for place, size in enumerate(sizes) if size <= sorted(sizes)[len(sizes) // 3]]
    share = sum(early[place] for place in small) / early.total()
    assert abs(share - len(small) / len(nets)) < 0.2


def test_a_space_of_dear_nets_has_some_within_the_limit(recorded):
    nets = [net for net in replay.read(recorded)[1] if net.space == "mixed"][:16]
    nets = [replace(net, params=100 + i, accuracies={0: 50.0}) for i, net in enumerate(nets)]
    cheap = [replace(net, name=f"cheap {net.name}", space="convolution", params=10) for net in nets[:8]]
    found = answers.spaces([*nets, *cheap], "params")
    assert found["cost_limit"] == 107.5
    for name in ("mixed", "convolution"):
        assert found[name]["best_percent"] == 50.0


def test_the_share_of_involution_is_found_where_it_helps(recorded):
    content = records.read(recorded)
    for row in content["results"]:
        last = row["blocks"].split("/")[3].split()[1:]
        row["accuracy_percent"] = 50 + 10 * sum(layer.startswith("i") for layer in last) / len(last)
    recorded.write_text(json.dumps(content))
    rows = answers.placement(replay.read(recorded)[1])
    for row in rows:
        assert row["difference"]["mean"] == row["better"] - row["worse"]
    assert rows[3]["difference"]["low"] > 0 and rows[3]["better"] > rows[3]["worse"]


def test_diverged_nets_are_the_worst_of_a_table(recorded):
    content = records.read(recorded)
    name = content["results"][0]["net"]
    for row in content["results"]:
        if row["net"] == name:
            row["accuracy_percent"] = None
    recorded.write_text(json.dumps(content))
    space, nets = replay.read(recorded)
    assert nets[0].accuracy is None and replay.points(nets, "params")[0][1] == 1
    assert len(replay.replay(space, nets, sampler="nsga2", cost="params", seed=0, budget=40)) == 40
    answers.answer(space, nets, seeds=2, budget=5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda record: record.pop("results"), "the key 'results' is missing"),
        (lambda record: record["results"][0].update(params="many"), "params must be a whole number"),
        (lambda record: record["results"][0].update(macs=0), "has macs of 0, which must be above zero"),
        (
            lambda record: record["results"][0].update(space="foreign"),
            "is of the space 'foreign'; expected one of mixed",
        ),
        (lambda record: record["results"][0].update(blocks="8 c3 / 16 c3 / 32 c3 / 64 c3"), "are not the net"),
        (lambda record: record["results"][0]["choices"].update(depth1=9), "the choice depth1 is 9"),
    ],
)
def test_a_record_that_is_none_of_a_table_is_refused(recorded, change, words):
    content = records.read(recorded)
    change(content)
    recorded.write_text(json.dumps(content))
    with pytest.raises(CommandError, match=f"no record of a table: .*{words}"):
        replay.read(recorded)
