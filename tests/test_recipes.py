"""Recipes: every one is a net that can be built, pairs differ as they say, and a base and its delta merge as documented."""

import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml

pytest.importorskip("lightning")

import timm

from involution.commands.main import CommandError, main
from involution.models.detection import create as create_detector
from involution.models.segmentation import create as create_segmentation_net
from involution.recipes import beside, leaves, merge, resolve

ROOT = Path(__file__).parent.parent
FILES = sorted(file for file in (ROOT / "recipes").rglob("*.yaml") if file.parent.name not in ("studies", "tables"))
RECIPES = [file for file in FILES if not file.name.startswith("base")]
DELTAS = [file for file in FILES if "base" in yaml.safe_load(file.read_text(encoding="utf-8"))]

# What a recipe may have differently where it says "differs from … in … alone".
CLAIMS = {
    "backbone": ("model_args.backbone", "model_args.backbone_args"),
    "backbone and the warm-up": ("model_args.backbone", "model_args.backbone_args", "warmup_iterations"),
    "neck": ("model_args.neck",),
    "enlargement of the pyramid": ("model_args.neck_upsampling",),
    "spatial layers": ("model_args.spatial_layer", "model_args.kernel_size", "model_args.group_channels"),
    "spatial layers and the stem": ("model_args.spatial_layer", "model_args.stem"),
}


def name(file):
    return f"{file.parent.name}/{file.stem}"


def comment(file):
    return [line for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("#")]


def differences(one, other):
    one, other = dict(leaves(one)), dict(leaves(other))
    missing = object()
    return {path for path in {*one, *other} if one.get(path, missing) != other.get(path, missing)}


def commands(file):
    """Return the flags of every command in the comment: that of the recipe, and with what can be added to it."""
    lines = [line.removeprefix("#").strip() for line in comment(file) if line.startswith("#   ")]
    command, *more = [shlex.split(line) for line in lines if "involution fit" in line or line.startswith("--")]
    command = command[command.index("involution") + 1 :]
    return [[{"N": "3"}.get(word, word) for word in [*command, *flags]] for flags in ([], *more)]


def printed(capsys, *arguments):
    """Return the configuration that a command line prints."""
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--print_config"])
    assert end.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


def build(init_args, task):
    """Build a recipe's net; every function refuses an argument that it does not know."""
    model, arguments = init_args["model"], dict(init_args["model_args"] or {})
    arguments.pop("weights", None)
    if task.endswith("DetectionTask"):
        return create_detector(model, init_args["num_classes"], **arguments)
    with torch.device("meta"):
        if task.endswith("SegmentationTask"):
            return create_segmentation_net(model, init_args["num_classes"], **arguments)
        return timm.create_model(model, num_classes=init_args["num_classes"], **arguments)


@pytest.mark.parametrize("file", RECIPES, ids=name)
def test_the_command_in_the_comment_runs_the_recipe(file, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    command = commands(file)[0]
    assert command[:3] == ["fit", "--config", str(file.relative_to(ROOT))]
    config = printed(capsys, *command)
    # All that recipe and base say arrives, but for what the command's own flags say.
    flags = {flag.removeprefix("--").split(".")[-1] for flag in command if flag.startswith("--")}
    actual = dict(leaves(config))
    for path, value in leaves(resolve(file)):
        assert path.split(".")[-1] in flags or actual[path] == value, path
    assert not set(config) & {"base", "config"}
    assert build(config["model"]["init_args"], config["model"]["class_path"])


@pytest.mark.parametrize("file", [f for f in RECIPES if len(commands(f)) > 1], ids=name)
def test_what_a_comment_adds_to_the_command_is_taken(file, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    for command in commands(file)[1:]:
        assert printed(capsys, *command)


@pytest.mark.parametrize("recipe", ["imagenet/rednet50", "cityscapes/upernet_rednet50"], ids=["imagenet", "cityscapes"])
def test_what_the_comment_of_a_base_adds_is_taken(recipe, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    file = ROOT / "recipes" / f"{recipe}.yaml"
    added = [line.removeprefix("#").strip() for line in comment(file.parent / "base.yaml") if line.startswith("#   --")]
    assert len(added) == 1
    flags = shlex.split(added[0])
    config = printed(capsys, *commands(file)[0], *flags)
    assert flags[1] in dict(leaves(config)).values()


def test_the_pages_name_recipes_that_are_there():
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    named = {found for page in pages for found in re.findall(r"recipes/[\w/]+\.yaml", page.read_text("utf-8"))}
    assert len(named) > 10
    assert not [found for found in named if not (ROOT / found).is_file()]


@pytest.mark.parametrize("file", [f for f in RECIPES if "resnet" in f.stem], ids=name)
def test_a_control_says_how_it_differs(file):
    # From RedNet's recipe, or from the control that it varies.
    pair, varied = file.stem.replace("resnet", "rednet"), file.stem.rpartition("_")[0]
    assert re.search(rf"differs from ({pair}|{varied})\.yaml in the [\w -]+ alone", " ".join(comment(file)))


@pytest.mark.parametrize("file", [f for f in RECIPES if "differs from" in f.read_text("utf-8")], ids=name)
def test_a_recipe_differs_as_it_says(file):
    other, claim = re.search(r"differs from (\w+)\.yaml in the ([\w -]+) alone", " ".join(comment(file))).groups()
    found = differences(resolve(file), resolve(file.with_stem(other))) - {"run"}
    allowed = tuple(f"model.init_args.{path}" for path in CLAIMS[claim])
    assert any(path.startswith(allowed[0]) for path in found)
    assert not {path for path in found if not any(path == a or path.startswith(f"{a}.") for a in allowed)}


@pytest.mark.parametrize("file", DELTAS, ids=name)
def test_a_delta_repeats_nothing_of_its_base(file):
    delta = yaml.safe_load(file.read_text(encoding="utf-8"))
    base = dict(leaves(resolve(file.parent / delta.pop("base"))))
    missing = object()
    assert not [path for path, value in leaves(delta) if base.get(path, missing) == value]


@pytest.mark.parametrize(
    "file", [f for f in RECIPES if re.match("(faster|mask)_rcnn", f.stem) and "coco" in str(f.parent)], ids=name
)
def test_two_stages_of_coco_keep_the_authors_numbers_of_proposals(file):
    """Theirs: of each level the best 2,000 in training and 1,000 in tests, of an image 1,000 after suppression in both."""
    init_args = resolve(file)["model"]["init_args"]
    net = build(init_args, "DetectionTask")
    counts = []
    for _ in range(2):
        counts.append((net.rpn.pre_nms_top_n(), net.rpn.post_nms_top_n()))
        net.eval()
    assert counts == [(2000, 1000), (1000, 1000)]


@pytest.mark.parametrize("file", RECIPES, ids=name)
def test_no_schedule_ends_before_its_training(file):
    recipe = dict(leaves(resolve(file)))
    epochs = recipe.get("model.init_args.lr_scheduler.init_args.epochs")
    assert epochs is None or epochs == recipe["trainer.max_epochs"]


def test_every_run_has_a_folder_of_its_own():
    runs = [resolve(file)["run"] for file in RECIPES]
    assert len(set(runs)) == len(runs)


def test_mappings_merge_and_all_else_replaces():
    base = {"a": {"b": 1, "c": {"d": [1, 2]}}, "e": 2, "f": {"class_path": "X", "init_args": {"g": 1, "h": 2}}}
    assert merge(base, {"a": {"b": 3}}) == base | {"a": {"b": 3, "c": {"d": [1, 2]}}}
    assert merge(base, {"a": {"c": {"d": [3]}}})["a"] == {"b": 1, "c": {"d": [3]}}
    assert merge(base, {"a": None, "e": {"i": 1}}) == base | {"a": None, "e": {"i": 1}}
    assert merge(base, {"j": 1}) == base | {"j": 1}
    assert merge(base, {"f": {"init_args": {"h": 3}}})["f"] == {"class_path": "X", "init_args": {"g": 1, "h": 3}}
    same = {"class_path": "X", "init_args": {"h": 3}}
    assert merge(base, {"f": same})["f"] == {"class_path": "X", "init_args": {"g": 1, "h": 3}}
    other = {"class_path": "Y", "init_args": {"h": 3}}
    assert merge(base, {"f": other})["f"] == other
    assert base["a"]["b"] == 1 and base["f"]["init_args"] == {"g": 1, "h": 2}


BASE = """
run: runs/base
model:
  class_path: involution.tasks.ClassificationTask
  init_args:
    model: rednet26
    model_args: {stem: small, channels: [8, 8, 8, 8]}
    optimizer:
      class_path: torch.optim.SGD
      init_args: {lr: 0.1, momentum: 0.9}
data:
  class_path: involution.data.SmallImages
  init_args: {dataset: digits}
"""
DELTA = """
base: ../base.yaml
run: runs/delta
model:
  init_args:
    num_classes: 10
    model_args: {channels: [16, 16, 16, 16], in_chans: 1}
    optimizer: {init_args: {weight_decay: 1e-3}}
"""
FURTHER = """
base: middle/delta.yaml
model: {init_args: {optimizer: {class_path: torch.optim.Adam, init_args: {lr: 2e-3}}}}
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "middle").mkdir()
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "middle" / "delta.yaml").write_text(DELTA)
    (tmp_path / "further.yaml").write_text(FURTHER)
    return tmp_path


def test_the_librarys_own_are_found_from_any_folder(tmp_path, monkeypatch, capsys):
    """By commands, and by files that name them."""
    pytest.importorskip("optuna")
    from involution.studies.declared import reading
    from involution.studies.search import table

    monkeypatch.chdir(tmp_path)
    own = tmp_path / "own" / "mine.yaml"
    own.parent.mkdir()
    own.write_text("base: recipes/cifar10/rednet14_eighth.yaml\ntrainer: {max_epochs: 2}\n")
    assert resolve(own)["trainer"]["max_epochs"] == 2 and "data" in resolve(own)
    study = own.with_name("study.yaml")
    net = "a: {recipe: recipes/cifar10/rednet14_eighth.yaml}"
    study.write_text(f"{{title: t, metric: val_accuracy, seeds: [0], nets: {{{net}}}}}")
    known = reading.read(reading.find("cifar10")).plans["rednet14_eighth"]
    assert reading.read(study).plans["a"]["data"] == known["data"]
    assert len(table.read("recipes/tables/random_nets_digits.yaml").nets()) > 1
    assert main(["study", "gone"]) == 2
    assert "there is no study 'gone'; name a file, or one of ablations, " in capsys.readouterr().err
    assert main(["search", "--budget", "0s"]) == 2
    assert "no net was trained within the budget" in capsys.readouterr().err


def test_what_lies_beside_a_file_comes_before_the_librarys_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = "recipes/cifar10/rednet14_eighth.yaml"
    file, near = tmp_path / "mine" / "study.yaml", tmp_path / "mine" / path
    own = beside(file, path)
    assert own.is_file() and not own.is_relative_to(tmp_path)
    near.parent.mkdir(parents=True)
    near.write_text("{}")
    assert beside(file, path) == near
    assert beside(file, "recipes/none.yaml") == file.parent / "recipes" / "none.yaml"


@pytest.mark.parametrize("flag", ["--config", "-c", "--config="])
def test_a_delta_merges_into_its_base(folder, capsys, flag):
    path = str(folder / "middle" / "delta.yaml")
    config = printed(capsys, "fit", *([flag + path] if flag.endswith("=") else [flag, path]))
    init_args = config["model"]["init_args"]
    assert config["run"] == "runs/delta" and config["data"]["init_args"]["dataset"] == "digits"
    assert init_args["model"] == "rednet26" and init_args["num_classes"] == 10
    assert init_args["model_args"] == {"stem": "small", "channels": [16, 16, 16, 16], "in_chans": 1}
    optimizer = init_args["optimizer"]
    assert optimizer["class_path"] == "torch.optim.SGD"
    assert (optimizer["init_args"]["momentum"], optimizer["init_args"]["weight_decay"]) == (0.9, 1e-3)


def test_several_levels_and_another_class(folder, capsys):
    config = printed(capsys, "fit", "--config", str(folder / "further.yaml"))
    assert config["model"]["init_args"]["model_args"]["in_chans"] == 1
    optimizer = config["model"]["init_args"]["optimizer"]
    assert optimizer["class_path"] == "torch.optim.Adam" and optimizer["init_args"]["lr"] == 2e-3
    # The rest are Adam's own defaults, not what SGD had.
    assert optimizer["init_args"]["weight_decay"] == 0 and "momentum" not in optimizer["init_args"]


def test_a_second_file_and_flags_come_after_the_recipe(folder, capsys):
    mine = folder / "mine.yaml"
    mine.write_text("model:\n  init_args:\n    model_args: {in_chans: 3}\n    optimizer: {init_args: {lr: 0.5}}\n")
    recipe = ["fit", "--config", str(folder / "middle" / "delta.yaml")]
    init_args = printed(capsys, *recipe, "--config", str(mine), "--model.num_classes", "7")["model"]["init_args"]
    assert init_args["num_classes"] == 7
    # Lightning's rule: arguments of a class merge, a mapping is replaced.
    assert init_args["optimizer"]["init_args"]["lr"] == 0.5 and init_args["optimizer"]["init_args"]["momentum"] == 0.9
    assert init_args["model_args"] == {"in_chans": 3}
    init_args = printed(capsys, *recipe, "--model.model_args.in_chans", "4")["model"]["init_args"]
    assert init_args["model_args"] == {"stem": "small", "channels": [16, 16, 16, 16], "in_chans": 4}


def test_what_is_printed_is_whole_and_gives_the_same(folder, capsys):
    config = printed(capsys, "fit", "--config", str(folder / "further.yaml"))
    elsewhere = folder / "middle" / "elsewhere.yaml"
    elsewhere.write_text(yaml.safe_dump(config))
    assert printed(capsys, "fit", "--config", str(elsewhere)) == config


def test_a_run_keeps_the_whole_configuration(folder, capsys):
    run = folder / "run"
    flags = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1"]
    arguments = ["fit", "--config", str(folder / "middle" / "delta.yaml"), "--run", str(run), *flags]
    assert main([*arguments, "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]) == 0
    capsys.readouterr()
    kept = yaml.safe_load((run / "logs" / "version_0" / "config.yaml").read_text())
    assert "base" not in kept
    assert kept["model"]["init_args"]["model_args"] == {"stem": "small", "channels": [16] * 4, "in_chans": 1}


REFUSALS = {
    "circle": ("base: other.yaml", "base: mine.yaml", "mine.yaml → .*other.yaml → .*mine.yaml; remove one of these"),
    "itself": ("base: mine.yaml", "", "cannot build on itself"),
    "absent": ("base: absent.yaml", "", "mine.yaml has base .*absent.yaml, which is no file"),
    "list": ("base: [other.yaml]", "", "expected the path of one recipe"),
    "no YAML": ("base: other.yaml", "a: [", "other.yaml is no YAML"),
    "a key twice": (
        "base: other.yaml",
        "a: {b: 1}\nc: [{d: 1,\n  d: 2}]",
        "other.yaml has the key 'd' in lines 2 and 3, of which",
    ),
    "no mapping": ("base: other.yaml", "- a", "other.yaml holds no recipe; expected keys such as 'model'"),
}


@pytest.mark.parametrize(("mine", "other", "message"), REFUSALS.values(), ids=REFUSALS)
def test_a_base_that_cannot_be_is_refused_with_a_sentence(mine, other, message, tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text(mine)
    (tmp_path / "other.yaml").write_text(other)
    with pytest.raises(CommandError, match=message):
        resolve(tmp_path / "mine.yaml")
    assert main(["fit", "--config", str(tmp_path / "mine.yaml")]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("involution fit: ") and re.search(message, last)


def test_a_file_without_base_is_lightnings_alone(folder, capsys):
    (folder / "wrong.yaml").write_text("baze: base.yaml\n")
    for config, words in (("wrong.yaml", "baze"), ("absent.yaml", "absent.yaml")):
        with pytest.raises(SystemExit) as end:
            main(["fit", "--config", str(folder / config)])
        assert end.value.code == 2
        assert words in capsys.readouterr().err.splitlines()[-1]
