"""Studies: their files, the queue that trains them, whatever kills it, and what they find."""

import json
import shutil
import signal
import time
from multiprocessing import get_context

import pytest
import torch
from studies import EVERYTHING, FAKE, RECIPE, ROOT, STUDY, changed, journal, saved_model, study_of_nothing  # noqa: F401
from trainings import TINY

import involution.models  # noqa: F401
from involution import records
from involution.commands.main import main
from involution.errors import CommandError
from involution.files import locked
from involution.studies.declared import drawing, jobs, outcome, reading
from involution.studies.declared.queue import Queue


def work(file, said):
    """Work on a study, in a process of its own that was forked: importing everything again would take most of the time."""
    torch.set_num_threads(1)
    with open(said, "a", buffering=1) as log:
        Queue(reading.read(file), processes=2, say=lambda line: print(line, file=log)).work()


FILES = sorted((ROOT / "recipes" / "studies").glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_study_can_be_read_and_is_called_by_its_name(file, monkeypatch):
    monkeypatch.chdir(ROOT)
    declared = reading.read(reading.find(file.stem))
    assert f"involution study {file.stem}" in file.read_text(encoding="utf-8")
    entries = declared.entries()
    assert len(entries) >= 2 and declared.claims
    for entry in entries:
        schedule = entry.plan["model"]["init_args"]["lr_scheduler"]["init_args"]
        assert schedule.get("epochs", entry.epochs) == entry.epochs
    # Both sides of every claim are trained with the same seeds, so that they pair.
    assert {entry.seed for entry in entries} <= set(declared.seeds)


def test_every_training_is_done_once_and_nothing_twice(study, tmp_path):
    lines = []
    declared = reading.read(study)
    rows = Queue(declared, processes=2, say=lines.append).work()
    assert journal(study) == EVERYTHING and len(rows) == 4
    assert [row["seed"] for row in rows] == [0, 0, 1, 1]
    assert rows[0]["values"]["val_accuracy"] == pytest.approx(52) and rows[0]["params"] == 91_527
    assert sum("begins" in line for line in lines) == 4 and any("val_accuracy 52.00" in line for line in lines)
    again = []
    assert Queue(declared, say=again.append).work() == rows
    assert journal(study) == EVERYTHING and not again
    assert not list(tmp_path.rglob(".lock"))


def test_a_killed_study_goes_on_and_two_share_one(study, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_EPOCH_S", "0.4")
    said = tmp_path / "said"
    workers = [get_context("fork").Process(target=work, args=(study, said)) for _ in range(3)]
    workers[0].start()
    while not journal(study):
        assert workers[0].is_alive()
        time.sleep(0.05)
    workers[0].kill()
    workers[0].join()
    # Its trainings outlive it; the others find them at work, and take over nothing that somebody has.
    for worker in workers[1:]:
        worker.start()
    for worker in workers[1:]:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [-signal.SIGKILL, 0, 0]
    assert journal(study) == EVERYTHING
    assert "left to another process" in said.read_text()


def test_an_interrupted_study_ends_its_trainings_and_repeats_no_epoch(study, monkeypatch):
    sleep, presses = time.sleep, iter([KeyboardInterrupt])

    def until_an_epoch_is_over(seconds):
        sleep(0.05)
        if journal(study):
            for press in presses:
                raise press

    monkeypatch.setenv("FAKE_EPOCH_S", "0.5")
    with monkeypatch.context() as patch:
        patch.setattr(time, "sleep", until_an_epoch_is_over)
        with pytest.raises(KeyboardInterrupt):
            Queue(reading.read(study), say=lambda line: None).work()
    assert journal(study) == ["seven-0 0"]
    monkeypatch.setenv("FAKE_EPOCH_S", "0.01")
    lines = []
    Queue(reading.read(study), say=lines.append).work()
    assert "seven-0: goes on after epoch 1 of 3" in lines[0]
    assert journal(study) == EVERYTHING


def test_a_failure_is_told_and_stops_nothing_else(study):
    declared = changed(
        study, nets={"seven": {"recipe": "recipe.yaml"}, "fails": {"recipe": "recipe.yaml"}}, claims=None
    )
    lines = []
    with pytest.raises(CommandError, match=r"2 of 4 trainings failed, .*fails-0 ended with status 2: the disk is full"):
        Queue(declared, say=lines.append).work()
    assert journal(study) == [line for line in EVERYTHING if line.startswith("seven")]


def test_another_recipe_in_the_folder_is_refused(study):
    Queue(reading.read(study), say=lambda line: None).work()
    for result in study.parent.rglob("result.json"):
        result.unlink()
    declared = changed(study, overrides={"trainer": {"max_epochs": 4}})
    with pytest.raises(CommandError, match=r"holds another training: trainer.max_epochs is 3, not 4; move it away"):
        Queue(declared, say=lambda line: None).work()


def test_a_finished_training_of_another_recipe_is_not_taken_for_this_one(study):
    Queue(reading.read(study), say=lambda line: None).work()
    declared = changed(study, overrides={"trainer": {"max_epochs": 4}})
    with pytest.raises(CommandError, match=r"seven-0 holds another training: trainer.max_epochs is 3, not 4; move it"):
        Queue(declared, say=lambda line: None).work()


def test_a_damaged_result_is_named(study):
    Queue(reading.read(study), say=lambda line: None).work()
    next(study.parent.rglob("result.json")).write_text("{")
    with pytest.raises(CommandError, match=r"result.json is damaged .*delete it and run again"):
        Queue(reading.read(study)).work()


def test_a_setting_is_chosen_by_the_first_seed(study):
    declared = changed(
        study, settings={"low": {}, "high": {"trainer": {"log_every_n_steps": 1}}}, choose={"by": "val", "seeds": [0]}
    )
    assert [e.name for e in declared.entries()] == ["seven-low-0", "seven-high-0", "three-low-0", "three-high-0"]

    def row(net, setting, val, seed=0):
        return {"net": net, "data": "", "setting": setting, "seed": seed, "values": {"val": val, "val_accuracy": 1.0}}

    rows = [row("seven", "low", 1.0), row("seven", "high", 2.0), row("three", "low", 3.0)]
    assert [e.name for e in declared.entries(rows)][4:] == ["seven-high-1"]
    rows.append(row("three", "high", 1.0))
    assert [e.name for e in declared.entries(rows)][4:] == ["seven-high-1", "three-low-1"]
    assert {(r["net"], r["setting"]) for r in declared.reported(rows)} == {("seven", "high"), ("three", "low")}


def test_a_setting_that_diverges_is_not_chosen(study, tmp_path, capsys):
    out = tmp_path / "results"
    choose = {"by": "val_loss", "seeds": [0]}
    changed(study, settings={"low": {}, "diverges": {"trainer": {"log_every_n_steps": 1}}}, choose=choose)
    assert main(["study", str(study), "--out", str(out)]) == 0
    assert "seven-diverges-0: diverged: the training diverged" in capsys.readouterr().out
    record = records.read(out / "study.json")
    assert {(row["net"], row["setting"]) for row in record["results"]} == {("seven", "low"), ("three", "low")}
    left_out = [(row["net"], row["setting"], row["diverged"], row["values"]) for row in record["not_chosen"]]
    assert left_out == [(net, "diverges", "the training diverged", {}) for net in ("seven", "three")]
    trained = journal(study)
    # Neither the same command trains it again, nor one that goes on from the record elsewhere.
    shutil.rmtree(tmp_path / "runs")
    assert main(["study", str(study), "--out", str(out), "--from_record", str(out / "study.json")]) == 0
    assert journal(study) == trained


def test_a_net_that_diverges_with_every_setting_is_named(study):
    settings = {"diverges": {}, "diverges_too": {"trainer": {"log_every_n_steps": 1}}}
    declared = changed(study, settings=settings, choose={"by": "val_loss", "seeds": [0]})
    with pytest.raises(CommandError, match=r"seven, three diverged with every setting; add one with a lower learning"):
        Queue(declared, say=lambda line: None).work()


def test_without_a_choice_a_training_that_diverges_has_failed(study):
    nets = {"seven": {"recipe": "recipe.yaml"}, "diverges": {"recipe": "recipe.yaml"}}
    declared = changed(study, nets=nets, claims=None)
    with pytest.raises(
        CommandError, match=r"2 of 4 trainings failed, .* status 3: the training diverged \(the whole in"
    ):
        Queue(declared, say=lambda line: None).work()


def test_the_command_writes_record_and_picture(study, tmp_path, capsys):
    out = tmp_path / "results"
    assert main(["study", str(study), "--out", str(out), "--threads", "1"]) == 0
    record = records.read(out / "study.json")
    assert len(record["results"]) == 4 and record["seed"] == [0, 1] and (out / "study.png").stat().st_size > 1000
    printed = capsys.readouterr().out
    assert "| seven | 2 | 52.00 ± 0.00 | 91,527 |" in printed
    assert "| seven is more than three | a test | 2 | seven less three: +0.00" in printed
    assert "undecided at n = 2" in printed
    assert main(["study", str(study), "--out", str(out), "--show"]) == 0
    assert main(["study", "nothing", "--out", str(out)]) == 2
    assert "there is no study 'nothing'" in capsys.readouterr().err


def test_a_study_goes_on_from_its_record_where_the_folders_are_gone(study, tmp_path, capsys):
    out, runs = tmp_path / "results", tmp_path / "runs"
    assert main(["study", str(study), "--out", str(out)]) == 0
    record = out / "study.json"
    whole = records.read(record)
    # As a machine leaves it that was taken away after three of four trainings.
    record.write_text(json.dumps({**whole, "results": whole["results"][:3]}))
    shutil.rmtree(runs)
    (tmp_path / "journal").write_text("")
    before = record.read_bytes()
    capsys.readouterr()
    assert main(["study", str(study), "--out", str(out)]) == 2
    assert f"holds 3 trainings whose folders are not here; go on from them with --from_record {record}" in (
        capsys.readouterr().err
    )
    assert record.read_bytes() == before and not journal(study)
    assert main(["study", str(study), "--out", str(out), "--from_record", str(record)]) == 0
    assert journal(study) == [line for line in EVERYTHING if line.startswith("three-1")]
    again = records.read(record)["results"]
    assert again[:3] == whole["results"][:3] and len(again) == 4
    # Its folder is there, those of the others are in the record.
    assert main(["study", str(study), "--out", str(out), "--from_record", str(record), "--show"]) == 0
    assert records.read(record)["results"] == again


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"seeds": [0]}, "holds seven-1, which study does not train"),
        ({"overrides": {"trainer": {"max_epochs": 4}}}, "seven-0 of another recipe: trainer.max_epochs is 3, not 4"),
    ],
)
def test_a_record_of_other_trainings_is_refused(study, tmp_path, entries, words):
    out = tmp_path / "results"
    assert main(["study", str(study), "--out", str(out)]) == 0
    declared = changed(study, **entries)
    with pytest.raises(CommandError, match=words):
        jobs.take_over(out / "study.json", declared)


@pytest.mark.parametrize(
    "content",
    [
        {"results": [1]},
        {"results": [1], "not_chosen": []},
        {"results": [{"net": ["a"], "data": "", "setting": "", "seed": 0, "values": {}}], "not_chosen": []},
        {
            "results": [{"net": "seven", "data": "", "setting": "", "seed": 0, "values": {}, "plan": 3}],
            "not_chosen": [],
        },
    ],
)
def test_what_is_no_record_of_a_study_is_refused(study, tmp_path, capsys, content):
    out = tmp_path / "results"
    records.write("study", {"seed": 0, **content}, out)
    for flags in ((), ("--from_record", str(out / "study.json"))):
        assert main(["study", str(study), "--out", str(out), *flags]) == 2
        assert "study.json is no record of a study: " in capsys.readouterr().err
    assert not journal(study)


def test_tables_lay_published_figures_beside_ours():
    rows = [
        {"net": n, "data": "", "seed": s, "values": {"v": v + s}, "params": 10, "macs": 2_000_000}
        for n, v in (("a", 1.0), ("b", 2.0))
        for s in (0, 1, 2)
    ]
    table = [
        {"net": "a", "label": "K=3", "published": 76.9, "published_as": ""},
        {"net": "b", "label": "K=5", "published": 77.4},
    ]
    record = {
        "title": "t",
        "metric": ["v"],
        "published": "top-1",
        "tables": {"K": table},
        "claims": [],
        "results": rows,
    }
    ((title, head, lines),) = outcome.tables(record)
    assert title == "K" and head[-1] == "top-1"
    assert lines[0] == ["K=3", "3", "2.00 ± 2.48", "10", "2.00", "K=3", "76.9"]
    axes = drawing.draw(record).axes
    assert [text.get_text() for text in axes[0].get_yticklabels()] == ["K=3", "K=5"]
    assert list(axes[1].lines[0].get_xdata()) == [76.9, 77.4]


# The tests below train for real.


@pytest.fixture
def trained(tmp_path, monkeypatch, capsys):
    """Return the file of a study, and the folder in which ``involution fit`` trained the first of its nets."""
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "recipe.yaml"
    with pytest.raises(SystemExit):
        main(["fit", *TINY, "--print_config"])
    config.write_text(capsys.readouterr().out)
    run = tmp_path / "runs" / "tiny-0"
    assert main(["fit", "--config", str(config), f"--run={run}"]) == 0
    file = tmp_path / "real.yaml"
    file.write_text(
        f"title: t\nmetric: val_accuracy\nseeds: [0]\nruns: {tmp_path}/runs/{{name}}\nnets: {{tiny: {{recipe: recipe.yaml}}}}\n"
    )
    return file, run


def test_a_folder_of_fit_is_adopted_and_another_recipe_is_not(trained, monkeypatch):
    file, run = trained
    printed = []
    whole = jobs.Job._whole
    monkeypatch.setattr(jobs.Job, "_whole", lambda job, path: printed.append(whole(job, path)) or printed[-1])
    environment = json.loads((run / "logs" / "version_0" / "environment.json").read_text())
    assert environment["versions"]["involution"] and "commit" in environment
    (row,) = Queue(reading.read(file), say=lambda line: None).work()
    assert row["adopted"] and row["commit"] == environment["commit"] and len(row["history"]) == 2
    assert row["values"]["val_accuracy"] == pytest.approx(100 * row["history"][-1]["val_accuracy"])
    assert len(list(run.glob("logs/version_*"))) == 1
    for path in (run / "study").iterdir():
        path.unlink()
    # What a flag said, and the recipe does not. Printing a configuration takes seconds: once is enough.
    monkeypatch.setattr(jobs.Job, "_whole", lambda job, path: printed[0])
    log = run / "logs" / "version_0" / "config.yaml"
    log.write_text(log.read_text().replace(" momentum: 0.0", " momentum: 0.5"))
    with pytest.raises(CommandError, match=r"momentum is 0.5, not 0.0; move it away"):
        Queue(reading.read(file), say=lambda line: None).work()


def test_what_another_process_trains_is_left_to_it(study):
    declared = reading.read(study)
    run = declared.entries()[0].run
    run.mkdir(parents=True)
    with locked(run), pytest.raises(jobs.Taken, match="is in use by this process"):
        jobs.Job(declared.entries()[0], declared, 1, None)


def test_a_seed_is_that_of_the_images_too(study):
    entries = reading.read(study).entries()
    seeds = [(entry.seed, entry.plan["data"]["init_args"]["seed"]) for entry in entries]
    assert seeds == [(0, 0), (0, 0), (1, 1), (1, 1)]
    printed = changed(study, overrides={"data": {"init_args": {"seed": None}}})
    assert [entry.plan for entry in printed.entries()] == [entry.plan for entry in entries]
    # A recipe's own holds, and so do the arguments of data modules that are nobody knows whose.
    fixed = changed(study, overrides={"data": {"init_args": {"seed": 7}}})
    assert {entry.plan["data"]["init_args"]["seed"] for entry in fixed.entries()} == {7}
    theirs = changed(study, overrides={"data": {"class_path": "theirs.Data"}})
    assert not any("seed" in entry.plan["data"].get("init_args", {}) for entry in theirs.entries())
