"""Results of a study's trainings: which are of the same recipe, what judges them, and the picture of them."""

import os

import pytest
from studies import changed, journal, saved_model, study_of_nothing  # noqa: F401

from involution.commands.main import main
from involution.errors import CommandError
from involution.runs import RunFolder
from involution.studies.declared import costs_drawing, drawing, outcome
from involution.studies.declared.jobs import Job
from involution.studies.declared.queue import Queue
from involution.studies.declared.results import difference_of_plans, judgement, values


def trained(study, **entries):
    """Return the results of a study, with other entries than its file has."""
    return Queue(changed(study, **entries), say=lambda line: None).work()


def test_the_best_checkpoint_judges_nothing(tmp_path):
    run = RunFolder(tmp_path)
    assert judgement(run, "test") is None
    file = tmp_path / "detection-test.json"
    file.write_text('{"checkpoint": "best.ckpt", "results": {"map": 0.9}}')
    assert judgement(run, "test") is None
    file.write_text('{"checkpoint": "last.ckpt", "results": {"map": 0.5}}')
    assert judgement(run, "test") == {"map": 0.5}
    # What was found before the training went on is of weights that are no longer there.
    run.checkpoint.parent.mkdir()
    run.checkpoint.touch()
    os.utime(file, (1, 1))
    assert judgement(run, "test") is None
    run.checkpoint.unlink()
    file.write_text("{}")
    with pytest.raises(CommandError, match=r"detection-test.json is no record of a judged net"):
        judgement(run, "test")


def test_the_picture_shows_all_data_and_a_table_each():
    rows = [
        {"net": net, "data": data, "setting": "", "seed": seed, "values": {"a": seed + len(data)}}
        for net in ("x", "y")
        for data in ("all", "half")
        for seed in (0, 1)
    ]
    tables = {"": [{"net": net, "label": net} for net in ("x", "y")]}
    record = {"title": "t", "metric": ["a"], "tables": tables, "published": "", "results": rows, "claims": []}
    axes = drawing.draw(record).axes[0]
    seeds = [list(line.get_xdata()) for line in axes.lines if line.get_marker() == "o"]
    assert seeds == [[3, 4], [4, 5], [3, 4], [4, 5]]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["x, all", "x, half", "y, all", "y, half"]
    assert [text.get_text() for text in axes.texts][:2] == ["3.50 ± 6.35", "4.50 ± 6.35"]
    assert outcome.markdown(record).count("| x |") == outcome.markdown(record).count("| y |") == 2


def test_curves_lie_over_the_costs_that_all_their_nets_have():
    rows = [
        {
            "net": net,
            "data": "",
            "setting": "",
            "seed": seed,
            "values": {"a": seed + macs},
            "params": 2 * macs,
            "macs": macs,
        }
        for net, macs in (("small", 1e6), ("large", 4e6))
        for seed in (0, 1)
    ]
    record = {"title": "t", "metric": ["a"], "curves": {"Net": ["small", "large", "not_trained_yet"]}, "results": rows}
    by_macs, by_params = costs_drawing.draw(record).axes
    assert list(by_macs.lines[0].get_xdata()) == [1, 4] and list(by_params.lines[0].get_xdata()) == [2, 8]
    assert list(by_macs.lines[0].get_ydata()) == [1e6 + 0.5, 4e6 + 0.5]
    # The intervals of two seeds that are one apart.
    assert list(by_macs.lines[1].get_ydata()) == pytest.approx([1e6 + 0.5 - 6.353, 1e6 + 0.5 + 6.353], abs=1e-3)
    # Detectors have no multiply-adds.
    assert costs_drawing.drawn_costs({**record, "results": [{**row, "macs": None} for row in rows]}) == ["params"]
    assert costs_drawing.drawn_costs({**record, "results": []}) == costs_drawing.drawn_costs({"results": rows}) == []


def test_a_training_from_before_seeds_were_the_images_too_is_one_of_seed_0():
    old = {"seed_everything": 1, "data": {"init_args": {"flip": True}}}
    new = [{**old, "data": {"init_args": {"flip": True, "seed": seed}}} for seed in (0, 1)]
    assert difference_of_plans(new[0], old) == ""
    assert difference_of_plans(new[1], old) == "data.init_args.seed is 0, not 1"


def test_plans_differ_in_what_is_trained_alone():
    one = {"run": "a", "model": {"init_args": {"lr": 1}}, "data": {"init_args": {"num_workers": 1, "x": None}}}
    other = {"run": "b", "model": {"init_args": {"lr": 1}}, "data": {"init_args": {"num_workers": 2}}}
    assert difference_of_plans(one, other) == ""
    assert difference_of_plans(one, {**other, "trainer": {"max_epochs": 2}}) == "trainer.max_epochs is 2, not None"
    # What a later version added has its default; what the recipe says has to be there.
    later = {**one, "data": {"init_args": {"share": 1.0}}}
    assert difference_of_plans(later, other) == "data.init_args.share is None, not 1.0"
    assert difference_of_plans(later, other, stated=one) == ""
    assert difference_of_plans(later, other, stated=later) == "data.init_args.share is None, not 1.0"
    # Where the data lie says nothing, what they are called does.
    at = [{"data": {"init_args": {"root": root}}} for root in ("/mnt/cats", "data/cats", "data/dogs")]
    assert difference_of_plans(at[0], at[1]) == ""
    assert difference_of_plans(at[1], at[2]) == "data.init_args.root is 'dogs', not 'cats'"


def test_a_last_epoch_without_a_number_has_none(tmp_path):
    folder = tmp_path / "logs" / "version_0"
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text("epoch,val_loss,val_accuracy\n0,0.5,0.25\n1,nan,\n")
    history = RunFolder(tmp_path).history()
    assert history == [{"epoch": 1, "val_loss": 0.5, "val_accuracy": 0.25}, {"epoch": 2, "val_loss": None}]
    assert values(history, None) == {"val_accuracy": 25.0}, "the last one that was logged, and none that is no number"


def test_shares_are_those_whose_name_has_the_word():
    history = [{"epoch": 1, "val_margin": 0.5, "val_map_50": 0.5, "val_mar": -1.0}]
    assert values(history, {"miou_percent": 60.0, "iou": {"road": 0.5}}) == {
        "val_margin": 0.5,
        "val_map_50": 50.0,
        "test.miou_percent": 60.0,
        "test.iou.road": 50.0,
    }, "COCO says -1 where there is nothing to be found"


def test_a_folder_is_compared_before_its_plan_lies_in_it(study, monkeypatch):
    rows = trained(study)
    (study.parent / "runs" / "seven-0" / "study" / "recipe.yaml").unlink()
    (study.parent / "runs" / "seven-0" / "study" / "result.json").unlink()
    whole, seen = Job._whole, []

    def look(job, text):
        # Killed now, the next start must not find a plan and take what is here for the training it asks for.
        seen.append(sorted(path.name for path in job._part.iterdir()))
        return dict(job.entry.plan)

    monkeypatch.setattr(Job, "_whole", look)
    assert len(trained(study)) == len(rows) and seen == [[".lock", "log.txt"]]
    monkeypatch.setattr(Job, "_whole", whole)


def test_a_net_of_another_name_is_the_same_training(study):
    one = {"runs": str(study.parent / "runs" / "{seed}"), "claims": None}
    trained(study, nets={"seven": {"recipe": "recipe.yaml"}}, **one)
    before = journal(study)
    rows = trained(study, nets={"rednet": {"recipe": "recipe.yaml"}}, **one)
    assert [row["net"] for row in rows] == ["rednet", "rednet"] and journal(study) == before


def test_what_is_to_judge_may_be_declared_later(study):
    assert "test_accuracy" not in trained(study)[0]["values"]
    before = journal(study)
    rows = trained(study, judge="test", metric="test_accuracy")
    assert [row["values"]["test_accuracy"] for row in rows] == [25.0] * 4 and journal(study) == before


def test_a_figure_that_no_training_has_ends_the_study_and_loses_nothing(study):
    with pytest.raises(
        CommandError, match="study asks for val_acuracy, which its trainings do not have; they have val_accuracy"
    ):
        trained(study, metric="val_acuracy", claims=None)
    before = journal(study)
    assert before == sorted(f"seven-0 {epoch}" for epoch in range(3))
    trained(study, metric="val_accuracy")
    assert set(before) < set(journal(study)) and len(set(journal(study))) == len(journal(study))


def test_a_misspelt_figure_of_a_claim_is_refused_as_soon_as_its_nets_are_trained(study):
    words = {"words": "seven is more than three", "source": "a test", "of": "three", "than": "seven"}
    for key in ("metric", "than_metric"):
        with pytest.raises(
            CommandError, match="study asks for val_acuracy, which its trainings do not have; they have v"
        ):
            trained(study, claims=[words | {key: "val_acuracy"}])
    assert len(journal(study)) >= 3
    assert len(trained(study, claims=[words])) == 4


def test_a_finished_study_is_judged_otherwise_and_keeps_its_record_until_then(study, tmp_path, capsys):
    out = tmp_path / "results"
    assert main(["study", str(study), "--out", str(out)]) == 0
    before, trainings = (out / "study.json").read_text(), journal(study)
    changed(study, judge="test", metric="test_accuracy")
    assert main(["study", str(study), "--out", str(out), "--show", "true"]) == 2
    said = capsys.readouterr().err
    assert "no training of study is finished" in said and (out / "study.json").read_text() == before
    assert main(["study", str(study), "--out", str(out)]) == 0
    assert "| seven | 2 | 25.00" in capsys.readouterr().out and journal(study) == trainings


def test_costs_are_those_of_the_data(study):
    rows = [
        {
            "net": "a",
            "data": data,
            "setting": "",
            "seed": seed,
            "values": {"m": 50.0 + seed},
            "params": params,
            "macs": 2 * params,
        }
        for data, params in (("ten", 1_000_000), ("hundred", 2_000_000))
        for seed in (0, 1)
    ]
    assert [outcome.summary(rows, ["m"], "a", data)[2] for data in ("ten", "hundred")] == ["1,000,000", "2,000,000"]
    points = costs_drawing._points({"results": rows, "metric": ["m"]}, ["a/ten", "a/hundred"])
    assert [row["params"] for row, _ in points] == [1_000_000, 2_000_000]


def test_trainings_whose_names_are_alike_are_several(study):
    nets = {name: {"recipe": "recipe.yaml"} for name in ("a-fails", "a")}
    runs = str(study.parent / "runs" / "{data}" / "{seed}" / "{net}")
    with pytest.raises(CommandError, match="4 of 8 trainings failed"):
        trained(study, nets=nets, data={"x": {}, "fails-x": {}}, runs=runs, claims=None)
    assert len(list(study.parent.rglob("result.json"))) == 4


def test_a_record_of_trainings_that_are_not_asked_for_any_more_is_kept(study, tmp_path, capsys):
    out = tmp_path / "results"
    assert main(["study", str(study), "--out", str(out)]) == 0
    changed(study, seeds=[0])
    assert main(["study", str(study), "--out", str(out)]) == 2
    assert "holds 2 trainings that study does not ask for (any more); choose another --out" in capsys.readouterr().err
