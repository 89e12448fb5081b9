"""The command `involution search` from end to end."""

import json
import shlex

import pytest
import torch
import yaml
from searches import DIGITS, ROOT, declared_table, journal_of_trainings, recorded_table  # noqa: F401

from involution import records
from involution.commands.main import main
from involution.recipes import resolve
from involution.studies.search import evaluate


def run(*arguments):
    return main(["search", *map(str, arguments)])


@pytest.fixture
def _here(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture
def quick(tmp_path):
    """Return a recipe for the digits that takes a second: a single epoch of a tenth of the images."""
    recipe = resolve(DIGITS)
    recipe["model"]["init_args"]["lr_scheduler"]["init_args"]["epochs"] = 2
    recipe["trainer"]["max_epochs"] = 2
    recipe["data"]["init_args"]["train_share"] = 0.2
    path = tmp_path / "quick.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


@pytest.mark.usefixtures("_here")
def test_a_search_finds_a_net_that_fit_trains_to_the_same_accuracy(quick, tmp_path, capsys):
    arguments = ("s", "--recipe", quick, "--runs", tmp_path, "--widths", "4,4,8,8", "--sampler", "random")
    assert run("run", *arguments, "--trials", 2, "--objectives", "accuracy,latency", "--limits", "params=30000") == 0
    said = capsys.readouterr().out
    assert "ms from parts" in said and "2 nets, of them those that none beats" in said
    assert {"pareto.png", "report.html", "s.json", "study.db"} <= {path.name for path in (tmp_path / "s").iterdir()}
    assert run("export", "s", "--runs", tmp_path) == 0
    found = records.read(tmp_path / "s" / "s.json")["results"]
    best = max(found, key=lambda row: row["accuracy_percent"])
    recipe = yaml.safe_load((tmp_path / "s" / "recipe.yaml").read_text())
    assert recipe["model"]["init_args"]["model_args"]["blocks"] == best["blocks"]
    flags = [f"--run={tmp_path / 'fit'}", "--trainer.enable_progress_bar=false"]
    assert main(["fit", "--config", str(tmp_path / "s" / "recipe.yaml"), *flags]) == 0
    from involution.runs import RunFolder

    history = RunFolder(tmp_path / "fit").history()
    assert 100 * history[-1]["val_accuracy"] == pytest.approx(best["accuracy_percent"], abs=1e-3)
    assert run("export", "s", "--runs", tmp_path, "--trial", 99) == 2
    assert "trial 99 of s is no trained net; choose one of" in capsys.readouterr().err


@pytest.mark.usefixtures("journal", "_here")
@pytest.mark.parametrize(
    ("other", "size"),
    [("cifar10/rednet14_eighth", (3, 32, 32)), ("search/digits", (1, 8, 8)), ("finetune/folder", (3, 64, 64))],
)
def test_an_exported_net_can_be_trained_by_another_recipe(other, size, tmp_path):
    assert run("run", "s", "--runs", tmp_path, "--trials", 1) == 0
    path = ROOT / "recipes" / f"{other}.yaml"
    assert run("export", "s", "--runs", tmp_path, "--recipe", path, "--out", tmp_path / "long.yaml") == 0
    recipe, theirs = yaml.safe_load((tmp_path / "long.yaml").read_text()), resolve(path)
    arguments = recipe["model"]["init_args"]["model_args"]
    assert recipe["trainer"] == theirs["trainer"] and recipe["data"]["class_path"] == theirs["data"]["class_path"]
    assert set(arguments) == {"blocks", "stem", "in_chans"}
    classes = theirs["model"]["init_args"]["num_classes"]
    assert evaluate.build(recipe).eval()(torch.zeros(2, *size)).shape == (2, classes)


@pytest.mark.usefixtures("journal", "_here")
def test_a_study_is_exported_from_where_it_lies(tmp_path, capsys):
    storage = tmp_path / "own.db"
    assert run("run", "s", "--runs", tmp_path / "my runs", "--storage", storage, "--trials", 1) == 0
    words = shlex.split(capsys.readouterr().out.splitlines()[-1].partition(": ")[2])
    assert words == ["involution", "search", "export", "s", "--runs", f"{tmp_path}/my runs", "--storage", str(storage)]
    assert main(words[1:]) == 0
    recipe = yaml.safe_load((tmp_path / "my runs" / "s" / "recipe.yaml").read_text())
    assert recipe["run"] == f"{tmp_path}/my runs/s/trial-0"


@pytest.mark.usefixtures("journal", "_here")
def test_an_interrupted_search_says_how_it_goes_on(tmp_path, capsys, monkeypatch):
    def press(recipe, *, data_root=None, on_row=None):
        raise KeyboardInterrupt

    trained = evaluate.train
    assert run("run", "s", "--runs", tmp_path, "--trials", 2) == 0
    monkeypatch.setattr(evaluate, "train", press)
    assert run("run", "s", "--runs", tmp_path, "--trials", 3) == 130
    assert "Interrupted with 2 of 3 nets finished" in capsys.readouterr().err
    monkeypatch.setattr(evaluate, "train", trained)
    assert run("run", "s", "--runs", tmp_path, "--trials", 3) == 0
    assert "abandoned by its process" in capsys.readouterr().out


@pytest.mark.usefixtures("journal", "_here")
def test_a_budget_ends_a_search(tmp_path, capsys):
    evaluate.train.seconds = 0.2
    assert run("run", "s", "--runs", tmp_path, "--budget", "2s") == 0
    found = records.read(tmp_path / "s" / "s.json")["results"]
    assert 0 < len(found) < 5
    # Of the first net nothing is known.
    assert run("run", "first", "--runs", tmp_path, "--budget", "0.5s") == 0
    assert len(records.read(tmp_path / "first" / "first.json")["results"]) == 1
    with pytest.raises(SystemExit):
        run("--help")
    assert "the first, of which nothing is known, excepted" in " ".join(capsys.readouterr().out.split())
    assert run("run", "s", "--runs", tmp_path, "--budget", "soon") == 2
    assert "--budget is a time such as 90s, 10min or 2h, got 'soon'" in capsys.readouterr().err


@pytest.mark.usefixtures("journal")
def test_a_table_is_made_replayed_and_answered_by_the_command(declared, tmp_path, capsys):
    out = tmp_path / "results"
    assert run("table", declared, "--runs", tmp_path / "runs", "--out", out) == 0
    assert "60 trainings in" in capsys.readouterr().out
    first = records.read(out / "small.json")
    assert first["finished"] and len(first["results"]) == 60
    assert run("--replay", out / "small.json") == 0
    assert "another seed" in capsys.readouterr().out
    assert records.read(out / "small_answers.json")["results"]["nets"] == 40
    assert (out / "small_answers.png").read_bytes().startswith(b"\x89PNG")


def test_scores_of_a_table_are_laid_beside_its_accuracies(recorded, declared, tmp_path, capsys):
    content = records.read(recorded)
    content["results"] = content["results"][:14]
    recorded.write_text(json.dumps(content))
    assert run("score", declared, "--out", tmp_path / "results", "--epochs", 1) == 0
    scores = records.read(tmp_path / "results" / "small_scores.json")["results"]
    assert scores.keys() == {"gradient norm", "NASWOT", "ZiCo", "supernet"}
    nets = {row["net"] for row in content["results"]}
    assert all(values.keys() <= nets for values in scores.values()) and scores["supernet"].keys() == nets
    assert len(set(scores["gradient norm"].values())) == len(nets)
    assert run("--replay", recorded) == 0
    assert "| ZiCo |" in capsys.readouterr().out


def test_latencies_of_a_table_become_a_cost(recorded, declared, tmp_path, capsys):
    content = records.read(recorded)
    content["results"] = content["results"][:10]
    recorded.write_text(json.dumps(content))
    assert run("latency", declared, "--out", tmp_path / "results", "--runs", tmp_path / "runs") == 0
    capsys.readouterr()
    found = records.read(tmp_path / "results" / "small_latency.json")
    assert found["results"].keys() == {row["net"] for row in content["results"]} and found["engine"] == "eager"
    assert all(ms > 0 for ms in found["results"].values()) and found["threads"] >= 1
    assert run("--replay", recorded) == 0
    assert "| search, accuracy and latency, ms |" in capsys.readouterr().out
    del found["results"][content["results"][0]["net"]]
    (tmp_path / "results" / "small_latency.json").write_text(json.dumps(found))
    assert run("--replay", recorded) == 0
    assert "latency is left out: 1 net was not measured; involution search latency does it" in capsys.readouterr().out


def test_a_training_that_diverges_says_so_and_leaves_its_history(quick):
    recipe = resolve(quick)
    recipe["model"]["init_args"]["optimizer"]["init_args"]["lr"] = 1e30
    found = evaluate.train(evaluate.recipe_of(recipe, "4 c3 / 4 c3 / 8 i3g4l / 8 c3", 0))
    assert found.accuracy is None and "the training diverged" in found.failure and len(found.history) < 2
