"""README and documentation: every Python block runs on its own, every command is one that is taken as it stands."""

import importlib.util
import json
import re
import shlex
import shutil
from importlib import import_module

import jsonargparse
import numpy as np
import pages
import pytest
import timm
import torch
import yaml
from pages import ROOT
from PIL import Image

import involution.models  # noqa: F401
from involution import recipes
from involution.commands.main import _normalised, main
from involution.commands.parsing import CommandParser
from involution.export import export
from involution.models import checkpoints, saved
from involution.models.segmentation import semantic_fpn
from involution.studies.search.evaluate import recipe_of
from involution_cli.commands import COMMANDS

# The first hour is run as a whole, by `test_first_hour`.
PYTHON = [block for block in pages.blocks("python") if block.page != "first_hour.md"]
CONSOLE = [(block, command) for block in pages.blocks("console") for command in pages.commands(block)]
TRAINING = ("fit", "validate", "test")


def write_rednet50(path):
    checkpoints.write(timm.create_model("rednet50").state_dict(), path)


def write_searched(path):
    searched = recipes.resolve(ROOT / "recipes" / "search" / "digits.yaml")
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump(recipe_of(searched, "8 i7g8r4 / 16 c3 d7 / 32 i5g16l / 64 a3", 0)), encoding="utf-8")


def write_cells(path):
    """Two images of one box each, as Ultralytics reads them."""
    for part in ("train", "val"):
        for folder in ("images", "labels"):
            (path.parent / "cells" / folder / part).mkdir(parents=True)
        for i in range(2):
            Image.effect_noise((64, 64), 90).convert("RGB").save(path.parent / "cells" / "images" / part / f"{i}.png")
            (path.parent / "cells" / "labels" / part / f"{i}.txt").write_text("0 0.5 0.5 0.4 0.4\n", encoding="utf-8")
    described = {"path": str(path.parent / "cells"), "train": "images/train", "val": "images/val", "names": {0: "cell"}}
    path.write_text(yaml.safe_dump(described), encoding="utf-8")


def copy_example(path):
    path.parent.mkdir(parents=True)
    shutil.copy(ROOT / "examples" / "ultralytics" / path.name, path)


def write_segmentation_net(path):
    """A net of three classes, the same as ONNX, and an image that it sees at half its size."""
    arguments = {"backbone": "rednet26", "neck": "involution", "neck_channels": 32, "head_channels": 16}
    arguments["backbone_args"] = {"channels": (16, 16, 32, 32), "layers": (1, 1, 1, 1)}
    torch.manual_seed(0)
    net = semantic_fpn(3, **arguments)
    details = {"image_size": [64, 96]}
    described = saved.Description(
        "segmentation", "semantic_fpn", arguments, tuple("abc"), (0.5,) * 3, (0.2,) * 3, details
    )
    saved.save(path.parent, net, described)
    root = path.parents[3]
    export(net, (torch.randn(1, 3, 64, 96),), root / "streets.onnx", output_names=["logits"])
    Image.effect_noise((12, 8), 90).resize((192, 128), Image.Resampling.BICUBIC).convert("RGB").save(root / "new.jpg")


# Files that a page made by a command before the block that reads them.
FILES = {
    "runs/streets/model/config.json": write_segmentation_net,
    "rednet50.safetensors": write_rednet50,
    "runs/search/digits-mixed-tpe/recipe.yaml": write_searched,
    "cells.yaml": write_cells,
    "examples/ultralytics/yolo_involution.yaml": copy_example,
}


@pytest.mark.parametrize("page", sorted({block.page for block in PYTHON}))
def test_every_python_block_runs_on_its_own(page, tmp_path, page_copies):
    parts = [block for block in PYTHON if block.page == page]
    missing = {
        need for block in parts for need in block.needs if "=" not in need and not importlib.util.find_spec(need)
    }
    parts = [block for block in parts if not missing.intersection(block.needs)]
    for name, make in FILES.items():
        if any(f'"{name}"' in block.text for block in parts):
            make(tmp_path / name)
    status, said = pages.run(page_copies, parts, tmp_path)
    assert status == 0, said
    if missing:
        pytest.skip(f"ran but for the blocks that need {', '.join(missing)}, which is not installed")


def test_an_exported_segmentation_net_gives_the_classes_of_predict(tmp_path, monkeypatch, capsys):
    (text,) = (block.text for block in PYTHON if block.page == "segmentation.md" and "onnxruntime" in block.text)
    write_segmentation_net(tmp_path / "runs/streets/model/config.json")
    monkeypatch.chdir(tmp_path)
    made = {}
    exec(text, made)
    assert main(["predict", "new.jpg", "--model", "runs/streets/model", "--out", "maps"]) == 0
    classes = np.asarray(Image.open("maps/new.png"))
    assert made["classes"].shape == classes.shape == (128, 192) and len(np.unique(classes)) > 1
    # Pillow and torchvision round differently.
    assert (made["classes"] == classes).mean() > 0.99


def test_a_block_that_fails_is_named(tmp_path, page_copies):
    good = pages.Block("a.md", 3, "python", "x = 1\n", ())
    bad = pages.Block("a.md", 9, "python", "print(x)\n", ())
    status, said = pages.run(page_copies, [good, bad], tmp_path)
    assert status == 1 and said.splitlines()[-1] == "the block at a.md:9 does not run on its own"
    call = pages.Block("a.md", 12, "python", "import urllib.request as r; r.urlopen('http://127.0.0.1:9')\n", ())
    assert "they use no network" in pages.run(page_copies, [call], tmp_path)[1]
    # What the server has imported serves no block: a net of ours is not known where nobody says so.
    net = pages.Block("a.md", 15, "python", "import timm\ntimm.create_model('rednet26')\n", ())
    assert "rednet26" in pages.run(page_copies, [net], tmp_path)[1]


def test_all_languages_of_the_pages_are_looked_at():
    known = {"python", "console", "json", "yaml"}
    assert len(PYTHON) > 25 and len(CONSOLE) > 50
    found = {language for page in pages.PAGES for language in re.findall(r"^```(\w+)$", page.read_text("utf-8"), re.M)}
    assert found == known


@pytest.mark.parametrize("block", pages.blocks("json", "yaml"), ids=lambda block: block.place)
def test_data_in_the_pages_is_as_in_the_files_it_names(block):
    data = json.loads(block.text) if block.language == "json" else yaml.safe_load(block.text)
    assert data
    named = re.match(r"# (recipes/\S+)\n", block.text)
    if named:
        assert yaml.safe_load((ROOT / named[1]).read_text(encoding="utf-8")) == data


@pytest.mark.parametrize(
    ("block", "command"), CONSOLE, ids=[f"{block.place} {command[:40]}" for block, command in CONSOLE]
)
def test_every_command_is_taken(block, command, tmp_path, monkeypatch, capsys):
    command = re.sub(r"^[A-Z_]+=\$\(.*\)$", "", command)
    words = [word for word in shlex.split(command) if not re.fullmatch(r"[A-Z_]+=\S*", word)]
    program, *rest = words or [""]
    if program == "make":
        assert set(rest) <= set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    elif program in ("python", "torchrun") and "-m" in rest:
        module = rest[rest.index("-m") + 1]
        assert importlib.util.find_spec(module), module
    elif program == "involution":
        for name, make in FILES.items():
            if name in rest:
                make(tmp_path / name)
        monkeypatch.chdir(tmp_path)
        check(rest, capsys)
    else:
        assert program in ("pip", "cmake", "g++", "./run", "python", "uv", "conda", "", "cibuildwheel", "twine"), (
            command
        )


def check(words, capsys):
    """Parse the words of a command as the command line does, and run nothing."""
    name, *rest = words
    if name == "--help":
        return
    if name in TRAINING:
        with pytest.raises(SystemExit) as ended:
            main([name, *rest, "--print_config"])
        assert ended.value.code == 0, capsys.readouterr().err
        return
    command = COMMANDS[name]
    function = getattr(import_module(f"involution.commands.{command.module}"), command.function)
    if name == "doctor":
        assert not rest
        return
    parser = jsonargparse.capture_parser(lambda: jsonargparse.auto_cli(function, args=[], parser_class=CommandParser))
    parser.exit_on_error = False
    parser.parse_args(_normalised(function, rest))
