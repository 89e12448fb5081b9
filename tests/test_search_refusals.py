"""What the command `involution search` refuses in a sentence: arguments, recipes, and records of other tables."""

import json

import pytest
import yaml
from searches import DIGITS, ROOT, FakeTraining, declared_table, journal_of_trainings, recorded_table  # noqa: F401

from involution import records
from involution.commands.main import main
from involution.errors import CommandError
from involution.recipes import resolve
from involution.studies.search import answers, evaluate


def run(*arguments):
    return main(["search", *map(str, arguments)])


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """What is not refused shall write nothing into the checkout."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("journal")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["dance"], "unknown action 'dance'; expected one of run, export, table, score, latency"),
        (["table"], "name the file of the table"),
        (["table", "gone.yaml"], "there is no table gone.yaml"),
        (["export"], "name the study"),
        (["export", "gone"], "there is no study gone"),
        (["--trials", "0"], "--trials must be at least 1"),
        (["--data", "mnist1"], "unknown data 'mnist1'"),
        (["--recipe", "gone.yaml"], "there is no recipe gone.yaml"),
        (["--space", "all"], "unknown space 'all'"),
        (["--widths", "8,16,32,63"], "multiples of 4"),
        (["--limits", "params<5"], "a limit is a cost and the most of it"),
        (["--limits", "params=1,macs=2,params=3"], "the limit of params is given twice; give it once"),
        (["--objectives", "accuracy,latency", "--engine", "abacus"], "unknown engine 'abacus'"),
        (
            ["--engine", "abacus"],
            "--engine abacus measures latency, which this search does not ask for; add latency to",
        ),
        (["run", "../out"], "a study's name is that of its folder, such as digits-mixed-tpe, got '../out'; leave out"),
        (["export", "a/b"], "a study's name is that of its folder, such as digits-mixed-tpe, got 'a/b'; leave out"),
        (["run", ".."], "a study's name is that of its folder"),
    ],
)
def test_what_cannot_be_searched_is_refused(arguments, words, capsys, tmp_path):
    assert run(*arguments, "--runs", tmp_path / "runs") == 2
    said = capsys.readouterr().err
    assert words in said and said.startswith("involution search: ")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("journal")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "there"], "--out means nothing to involution search run; leave it out"),
        (["run", "s", "--trial", "1"], "--trial means nothing to involution search run"),
        (["export", "s", "--replay", "gone.json"], "--replay means nothing to involution search export"),
        (["--replay", "gone.json", "--trials", "9"], "--trials means nothing to involution search --replay"),
        (["run", "s", "--replay", "gone.json"], "the name s means nothing to involution search --replay"),
        (["table", "t.yaml", "--no-prune"], "--prune means nothing to involution search table"),
        (["score", "t.yaml", "--from-record", "r.json"], "--from-record means nothing to involution search score"),
        (["latency", "t.yaml", "--seed", "1"], "--seed means nothing to involution search latency"),
        (["--replay", "gone.json"], "gone.json is no record of a table"),
    ],
)
def test_what_an_action_would_ignore_is_refused(arguments, words, capsys):
    assert run(*arguments) == 2
    assert words in capsys.readouterr().err


def written(path, change):
    """Write a recipe for the digits with something changed."""
    recipe = resolve(DIGITS)
    change(recipe)
    path.write_text(yaml.safe_dump(recipe))
    return path


@pytest.mark.usefixtures("journal")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda r: r["data"]["init_args"].pop("validation_share"),
            "sets no images apart, so that the test images would",
        ),
        (lambda r: r["data"]["init_args"].update(validation_share=0), "sets no images apart"),
        (lambda r: r["data"].pop("init_args"), "sets no images apart"),
        (
            lambda r: r["data"]["init_args"].update(dataset="cifar10"),
            "take images of 1 channels, its data have 3; give",
        ),
        (lambda r: r["model"]["init_args"].pop("num_classes"), "the key 'model.init_args.num_classes' is missing"),
        (lambda r: r.pop("model"), "the key 'model' is missing"),
        (lambda r: r.pop("data"), "the key 'data' is missing"),
        (
            lambda r: r["data"].update(class_path="involution.data.ImageFolders"),
            "classify SmallImages; let the recipe's",
        ),
    ],
)
def test_a_recipe_that_nets_cannot_be_chosen_by_is_refused(change, words, tmp_path, capsys):
    assert run("--recipe", written(tmp_path / "r.yaml", change), "--runs", tmp_path / "runs") == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.usefixtures("journal")
def test_a_recipe_that_cannot_train_the_exported_net_is_refused(tmp_path, capsys):
    bare = written(
        tmp_path / "bare.yaml",
        lambda r: (r["model"]["init_args"].pop("model_args"), r["data"]["init_args"].update(dataset="cifar10")),
    )
    assert run("run", "s", "--recipe", bare, "--runs", tmp_path, "--trials", 1) == 0
    out = tmp_path / "long.yaml"
    for recipe, words in [
        (ROOT / "recipes" / "coco" / "base.yaml", "the nets of a search classify SmallImages"),
        (written(tmp_path / "no.yaml", lambda r: r.pop("model")), "the key 'model' is missing"),
    ]:
        assert run("export", "s", "--runs", tmp_path, "--recipe", recipe, "--out", out) == 2
        assert words in capsys.readouterr().err and not out.exists()
    # What a search shares may be nothing.
    assert run("export", "s", "--runs", tmp_path, "--recipe", DIGITS, "--out", out) == 0
    assert yaml.safe_load(out.read_text())["model"]["init_args"]["model_args"].keys() == {"blocks", "in_chans"}


def test_a_storage_that_is_not_there_is_not_made_by_an_export(tmp_path, capsys):
    assert run("export", "s", "--storage", tmp_path / "typo.db") == 2
    assert "there is no storage" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_search_of_failures_says_where_to_look(journal, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(evaluate, "train", FakeTraining(journal, diverging=lambda recipe: True))
    assert run("run", "s", "--runs", tmp_path, "--trials", 2) == 2
    said = capsys.readouterr()
    assert f"no net was trained to the end; {tmp_path / 's' / 'report.html'} says of each why" in said.err
    assert "export" not in said.out and "the loss is nan" in (tmp_path / "s" / "report.html").read_text()


@pytest.fixture
def few(recorded):
    """Return the record of a table of few nets."""
    content = records.read(recorded)
    content["results"] = content["results"][:4]
    recorded.write_text(json.dumps(content))
    return recorded


@pytest.mark.parametrize("action", ["score", "latency"])
def test_what_judges_a_table_says_of_which_nets(action, few, declared, capsys, monkeypatch):
    def ask(*_, **__):
        raise CommandError("so few nets answer nothing")

    monkeypatch.setattr(answers, "answer", ask)
    flags = (action, declared, "--out", few.parent, *(["--runs", few.parent] if action == "latency" else []))
    assert run(*flags) == 0
    beside = few.with_name("small_scores.json" if action == "score" else "small_latency.json")
    found, rows = records.read(beside), records.read(few)["results"]
    assert found["blocks"] == {row["net"]: row["blocks"] for row in rows}
    found["blocks"][rows[-1]["net"]] = "4 c3 / 4 c3 / 4 c3 / 4 c3"
    beside.write_text(json.dumps(found))
    capsys.readouterr()
    assert run("--replay", few) == 2
    words = (
        f"{beside} is of another table: its {rows[-1]['net']} is 4 c3 / 4 c3 / 4 c3 / 4 c3, not {rows[-1]['blocks']}"
    )
    assert words in capsys.readouterr().err
    # Of a record from before it said so, nothing is known.
    del found["blocks"]
    beside.write_text(json.dumps(found))
    assert run("--replay", few) == 2
    assert capsys.readouterr().err == "involution search: so few nets answer nothing\n"
    beside.write_text("{")
    assert run("--replay", few) == 2
    assert "is damaged: " in capsys.readouterr().err
    # The table is declared otherwise meanwhile.
    declared.write_text(declared.read_text().replace("- 64", "- 60"))
    assert run(*flags) == 2
    assert "is of another table: its widths differs from that of small" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("what", "results", "words"),
    [
        ("scores", {"x": 3}, "x must be a mapping, got 3"),
        ("scores", {"x": {"mixed-000": "high"}}, "x.mixed-000 must be a finite number, got 'high'"),
        ("latency", {"mixed-000": "slow"}, "results.mixed-000 must be a finite number, got 'slow'"),
        ("latency", {"mixed-000": 0.0}, "milliseconds must be above zero, got 0.0"),
    ],
)
def test_figures_beside_a_table_are_numbers(what, results, words, few, capsys):
    beside = few.with_name(f"small_{what}.json")
    beside.write_text(json.dumps({"results": results}))
    assert run("--replay", few) == 2
    assert f"{beside} is damaged: {words}; move it away" in capsys.readouterr().err


def test_scores_are_not_written_over_by_fewer(few, declared, capsys):
    beside = few.with_name("small_scores.json")
    content = json.dumps({"results": {"gradient norm": {}, "supernet": {"mixed-000": 1.0}}})
    beside.write_text(content)
    assert run("score", declared, "--out", few.parent) == 2
    assert f"{beside} holds supernet, which would be lost; ask for a supernet too (--epochs)" in capsys.readouterr().err
    assert beside.read_text() == content
