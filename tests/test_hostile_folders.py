"""Saved folders that are damaged, foreign or hostile: a sentence each, nothing built, nothing fetched."""

import json
import math
import re
import resource
import shutil
import socket
import time

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file
from trainings import refusal

from involution.commands.main import main
from involution.models import saved
from involution.models.checkpoints import CheckpointError


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


DESCRIPTION = {
    "task": "segmentation",
    "architecture": "semantic_fpn",
    "arguments": {
        "backbone": "rednet26",
        "backbone_args": {"stem": "small", "channels": [8, 8, 8, 8]},
        "neck_channels": 8,
        "head_channels": 8,
    },
    "classes": ["a", "b"],
    "mean": [0.0, 0.0, 0.0],
    "std": [1.0, 1.0, 1.0],
    "details": {},
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"classes": []}, "classes must be a list with something in it"),
        ({"classes": "ab"}, "classes must be a list"),
        ({"classes": [1, 2]}, r"classes\[0\] must be text"),
        ({"mean": [0.0]}, "mean and std must be as many"),
        ({"std": [1, 0, 1]}, r"std\[1\] must be a number above zero"),
        ({"std": [1, "1", 1]}, r"std\[1\] must be a number above zero"),
        ({"arguments": []}, "arguments must be a mapping"),
        ({"architecture": None}, "architecture must be text"),
        ({"task": ["segmentation"]}, "unknown task"),
        ({"details": {"image_size": [32, -1]}}, r"details.image_size"),
        ({"details": {"views": {"flip": 3}}}, "details.views.flip must be true or false"),
        ({"task": "detection", "details": {"category_ids": [1]}}, "there are 1 category_ids for 2 classes"),
        (
            {"arguments": {"backbone": "hf-hub:user/net"}},
            "names 'hf-hub:user/net', which would be fetched from a network",
        ),
        ({"arguments": {"backbone": "rednet26", "x": [{"y": "https://h/x"}]}}, "names 'https://h/x'"),
    ],
)
def test_a_description_is_checked_before_anything_is_built(tmp_path, no_network, change, words):
    (tmp_path / "config.json").write_text(json.dumps({**DESCRIPTION, **change}))
    with pytest.raises(CheckpointError, match=words):
        saved.describe(tmp_path)


def test_a_description_names_no_weights_of_its_own(tmp_path, no_network):
    arguments = {
        "weights": "/etc/passwd",
        "backbone": "resnet18",
        "backbone_args": {"pretrained": True, "stem_width": 8},
    }
    (tmp_path / "config.json").write_text(json.dumps({**DESCRIPTION, "arguments": arguments}))
    described = saved.describe(tmp_path)
    assert described.arguments == {"backbone": "resnet18", "backbone_args": {"stem_width": 8}}
    saved.build(described)


def test_a_description_may_name_a_hub_where_that_is_allowed(tmp_path, no_network):
    (tmp_path / "config.json").write_text(json.dumps({**DESCRIPTION, "arguments": {"backbone": "hf-hub:user/net"}}))
    assert saved.describe(tmp_path, allow_network=True).arguments["backbone"] == "hf-hub:user/net"


def test_of_a_description_that_cannot_be_written_no_weights_come(tmp_path):
    description = saved.Description(**{**DESCRIPTION, "classes": ("a", "b")})
    (tmp_path / "config.json").mkdir()
    (tmp_path / "model.safetensors").write_text("old")
    with pytest.raises(IsADirectoryError):
        saved.save(tmp_path, saved.build(description), description)
    assert (tmp_path / "model.safetensors").read_text() == "old"


def test_a_description_is_whole_on_the_disk_before_the_weights_are_replaced(tmp_path, monkeypatch):
    description = saved.Description(**{**DESCRIPTION, "classes": ("a", "b")})
    (tmp_path / "config.json").write_text("old")

    def write(state, file, metadata):
        (partial,) = (path for path in tmp_path.iterdir() if path.suffix == ".partial")
        assert json.loads(partial.read_text())["classes"] == ["a", "b"]
        raise CheckpointError("no place left")

    monkeypatch.setattr(saved.checkpoints, "write", write)
    with pytest.raises(CheckpointError, match="no place left"):
        saved.save(tmp_path, saved.build(description), description)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("config.json", "old")]


def test_sizes_that_no_file_has_take_no_memory(tmp_path, no_network):
    description = saved.Description(**{**DESCRIPTION, "classes": ("a", "b")})
    net = saved.build(description)
    saved.save(tmp_path, net, description)
    saved.load(tmp_path)
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    for arguments, words in (
        ({"neck_channels": 9}, "does not fit its description"),
        ({"neck_channels": 100_000, "head_channels": 100_000}, "the net would have more than"),
        ({"neck_channels": 2**20, "head_channels": 2**20}, "the net would have more than"),
        (
            {"backbone_args": {**DESCRIPTION["arguments"]["backbone_args"], "layers": [10**6] * 4}},
            "would have more than",
        ),
        ({"head_channels": 10**9}, "must have no number beyond 1,048,576, but has one at head_channels"),
        ({"backbone_args": {"channels": [8, 10**17]}}, r"but has one at backbone_args.channels\[1\]"),
    ):
        other = {**DESCRIPTION, "arguments": {**DESCRIPTION["arguments"], **arguments}}
        (tmp_path / "config.json").write_text(json.dumps(other))
        with pytest.raises(CheckpointError, match=words):
            saved.load(tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**19 and time.monotonic() - begun < 60


@pytest.mark.parametrize(
    ("task", "change", "words"),
    [
        ("segmentation", {"details": {"image_size": [10**4, 10**4]}}, "from 1 to 4096, got 10000"),
        ("segmentation", {"details": {"views": {"window": [2**13, 1]}}}, "from 1 to 4096, got 8192"),
        ("segmentation", {"details": {"views": {"scales": [1e6]}}}, "must be a number from 0.1 to 10, got 1000000.0"),
        ("detection", {"arguments": {"min_size": 10**5}}, "arguments.min_size must be a .* from 1 to 4096, got 100000"),
        ("detection", {"arguments": {"min_size": [64, 10**5]}}, r"from 1 to 4096, got \[64, 100000\]"),
        ("detection", {"arguments": {"max_size": 0}}, "arguments.max_size must be a number of pixels from 1 to 4096"),
    ],
)
def test_sizes_of_images_beyond_any_use(tmp_path, task, change, words):
    (tmp_path / "config.json").write_text(json.dumps({**DESCRIPTION, "task": task, **change}))
    with pytest.raises(CheckpointError, match=words):
        saved.describe(tmp_path)


def test_a_classifier_without_weights_is_not_built(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "rednet26", "num_classes": 10**6}))
    with pytest.raises(CheckpointError, match=r"holds no weights: expected model.safetensors beside config.json"):
        saved.check_classifier(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architecture": "hf-hub:user/net"}, "names 'hf-hub:user/net', which would be fetched"),
        ({"model_args": {"pretrained_cfg_overlay": {"url": "https://h/x"}}}, "names 'https://h/x'"),
        ({"model_args": []}, "model_args must be a mapping"),
        ({"architecture": 5}, "architecture must be text"),
        ({"num_classes": 10**9}, "num_classes must be a number from 0 to 1,048,576, got 1000000000"),
        (
            {"model_args": {"num_classes": 10**6}},
            r"describes another net than the weights are of: the net would have more than .* bytes",
        ),
        ({"model_args": {"channels": [10**9] * 4}}, r"no number beyond 1,048,576, but has one at channels\[0\]"),
        ({"model_args": {"channels": [2**16] * 4}}, "the net would have more than"),
        ({"model_args": {"layers": [10**6] * 4}}, "the net would have more than"),
        ({"model_args": {"kernel_size": 2**20 - 1}}, "the net would have more than"),
        ({"model_args": {"drop_path_rate": math.inf}}, "but has one at drop_path_rate"),
        ({"pretrained_cfg": {"input_size": [3, 8192, 8192]}}, "must be a number of pixels from 1 to 4096, got 8192"),
        ({"pretrained_cfg": {"crop_pct": 1e-9}}, "crop_pct must be a number from 0.1 to 10, got 1e-09"),
        (
            {"pretrained_cfg": {"input_size": [3, 10**9, 4]}},
            r"pretrained_cfg.input_size\[1\] must be a number of pixels",
        ),
        ({"pretrained_cfg": {"mean": ["x"]}}, r"pretrained_cfg.mean\[0\] must be a finite number"),
        ({"pretrained_cfg": {"interpolation": "none"}}, "the net does not say how it sees an image|cannot be loaded"),
        ({"architecture": "rednet27"}, "rednet27|nknown"),
        ({"label_names": ["a"]}, "10 outputs and its description names 1 classes"),
    ],
)
def test_a_classifiers_folder(run, tmp_path, capsys, no_network, change, words):
    model = tmp_path / "model"
    shutil.copytree(run / "model", model)
    content = json.loads((model / "config.json").read_text())
    for key, value in change.items():
        content[key] = {**content[key], **value} if key == "pretrained_cfg" else value
    (model / "config.json").write_text(json.dumps(content))
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    assert main(["predict", str(tmp_path / "a.png"), "--model", str(model)]) == 2
    assert re.search(words, refusal(capsys))


def test_the_folder_of_a_training_is_refused_with_that_of_its_net(run, tmp_path, capsys):
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    assert main(["predict", str(tmp_path / "a.png"), "--model", str(run)]) == 2
    words = f"{run} holds no saved net: expected config.json and model.safetensors; name the net of this training, {run}/model"
    assert words in refusal(capsys)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"[" * 5000, b"\xff", b"null", b"3"])
def test_any_file_in_the_place_of_a_description(run, tmp_path, capsys, content):
    (tmp_path / "config.json").write_bytes(content)
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    assert main(["predict", str(tmp_path / "a.png"), "--model", str(tmp_path)]) == 2
    assert str(tmp_path / "config.json") in refusal(capsys)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_no_numbers(run, tmp_path, capsys, value):
    classifier, net = tmp_path / "classifier", tmp_path / "net"
    shutil.copytree(run / "model", classifier)
    description = saved.Description(**{**DESCRIPTION, "classes": ("a", "b")})
    saved.save(net, saved.build(description), description)
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    for folder in (classifier, net):
        weights = load_file(folder / "model.safetensors")
        name = next(name for name in weights if weights[name].ndim == 4)
        weights[name].view(-1)[1] = value
        save_file(weights, folder / "model.safetensors")
        assert main(["predict", str(tmp_path / "a.png"), "--model", str(folder), "--out", str(tmp_path / "o")]) == 2
        assert f"{folder}" in (words := refusal(capsys)) and f"no finite numbers (in {name})" in words
