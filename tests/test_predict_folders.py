"""What predict does with many images: one that is damaged costs none of the others, and an end under way nothing."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectors import NARROW
from PIL import Image
from trainings import refusal

from involution.commands import predict_detection
from involution.commands.main import main
from involution.errors import InvolutionWarning
from involution.models import saved

CLASSIFIER = "rednet26_half.imagenette"
DESCRIBED = {"classes": ("square", "bar"), "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
DETECTOR = saved.Description(
    task="detection",
    architecture="retinanet",
    arguments={"backbone": "rednet26", "backbone_args": NARROW, "neck_channels": 16, "min_size": 48, "max_size": 64},
    details={"category_ids": [3, 7]},
    **DESCRIBED,
)
SEGMENTER = saved.Description(
    task="segmentation",
    architecture="semantic_fpn",
    arguments={"backbone": "rednet26", "backbone_args": NARROW, "neck_channels": 8, "head_channels": 8},
    details={},
    **DESCRIBED,
)


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    """Return the folders of nets with random weights, by their task."""
    folder = tmp_path_factory.mktemp("nets")
    for description in (DETECTOR, SEGMENTER):
        saved.save(folder / description.task, saved.build(description), description)
    return folder


@pytest.fixture
def images(tmp_path):
    """Return a folder of four images, the third of which is damaged."""
    folder = tmp_path / "images"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for i in range(4):
        Image.fromarray(generator.integers(0, 256, (40, 48, 3)).astype(np.uint8)).save(folder / f"{i}.png")
    damaged = folder / "2.png"
    damaged.write_bytes(damaged.read_bytes()[:2000])
    return folder


@pytest.mark.parametrize("batch", [1, 2, 16])
@pytest.mark.parametrize("task", ["detection", "segmentation", "classification"])
def test_a_damaged_image_is_left_out_and_said(nets, images, tmp_path, capsys, task, batch):
    model = CLASSIFIER if task == "classification" else str(nets / task)
    flags = ["--model", model, "--out", str(tmp_path / "out"), "--json", "--batch-size", str(batch)]
    with pytest.warns(InvolutionWarning, match=rf"left out: {images}/2.png cannot be read as an image"):
        assert main(["predict", str(images), *flags]) == 2
    said = capsys.readouterr()
    assert f"involution predict: 1 of 4 images are left out: {images}/2.png cannot be read as" in said.err
    done = [str(images / f"{i}.png") for i in (0, 1, 3)]
    assert [json.loads(line)["image"] for line in said.out.splitlines()] == done
    if task == "detection":
        content = json.loads((tmp_path / "out" / "predictions.json").read_text())
        assert [(entry["id"], entry["file_name"]) for entry in content["images"]] == list(enumerate(done, 1))


def test_what_an_interrupted_detector_found_is_kept(nets, images, tmp_path, monkeypatch):
    def interrupted(picture, path):
        if path.name == "3.png":
            raise KeyboardInterrupt
        picture.save(path)

    (images / "2.png").unlink()
    monkeypatch.setattr(predict_detection, "write_png", interrupted)
    flags = ["--model", str(nets / "detection"), "--out", str(tmp_path / "out")]
    assert main(["predict", str(images), *flags]) == 130
    written = tmp_path / "out" / "predictions.json"
    before = written.read_bytes()
    assert [entry["id"] for entry in json.loads(before)["images"]] == [1, 2]
    # A second start that does nothing leaves what the first one wrote.
    assert main(["predict", str(images / "3.png"), *flags]) == 130
    assert written.read_bytes() == before


@pytest.mark.parametrize(
    ("task", "flags", "words"),
    [
        ("classification", ["--window", "5,5"], "--window is for segmentation nets, and {} is a classification net"),
        ("classification", ["--flip"], "--flip is for segmentation nets"),
        ("classification", ["--min-score", "0.7"], "--min-score is for detection nets"),
        ("classification", ["--opacity", "0.7"], "--opacity is that of heat maps"),
        ("detection", ["--scales", "0.5,1"], "--scales is for segmentation nets, and {} is a detection net"),
        ("detection", ["--top", "3"], "--top is for classification nets"),
        ("detection", ["--min-score", "7"], "min_score must be from 0 to 1, got 7"),
        ("segmentation", ["--labels", "none"], "--labels is for detection nets, and {} is a segmentation net"),
        ("segmentation", ["--heatmaps", "all"], "--heatmaps is for classification nets"),
    ],
)
def test_options_of_another_task_are_refused(nets, images, capsys, task, flags, words):
    model = CLASSIFIER if task == "classification" else str(nets / task)
    assert main(["predict", str(images / "0.png"), "--model", model, *flags]) == 2
    assert words.format(model) in refusal(capsys)


@pytest.mark.parametrize("task", ["detection", "segmentation", "classification"])
def test_a_net_that_gives_no_numbers_is_refused(nets, images, tmp_path, capsys, monkeypatch, task):
    """Every class would have as much of nothing, a segmentation net's first one all pixels, and a detector find nothing."""
    model = CLASSIFIER if task == "classification" else str(nets / task)
    monkeypatch.setattr(torch.nn.ReLU, "forward", lambda _, x: x * float("nan"))
    assert main(["predict", str(images / "0.png"), "--model", model, "--out", str(tmp_path / "out")]) == 2
    assert "the net gives no numbers for " in refusal(capsys) and not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize("task", ["detection", "segmentation", "classification"])
def test_an_image_without_numbers_costs_none_of_the_others(nets, images, tmp_path, capsys, monkeypatch, task):
    (images / "2.png").unlink()
    Image.new("RGB", (48, 40), "white").save(images / "1.png")
    model = CLASSIFIER if task == "classification" else str(nets / task)

    def none_of_plain_images(_, x):
        y = x.clamp_min(0)
        if min(x.shape[2:]) > 16:
            y[x[..., 6:12, 6:12].std((2, 3)).amax(1) < 1e-5] = float("nan")
        return y

    monkeypatch.setattr(torch.nn.ReLU, "forward", none_of_plain_images)
    with pytest.warns(InvolutionWarning, match=rf"left out: the net gives no numbers for {images}/1.png"):
        assert main(["predict", str(images), "--model", model, "--out", str(tmp_path / "out"), "--json"]) == 2
    said = capsys.readouterr()
    assert [Path(json.loads(line)["image"]).name for line in said.out.splitlines()] == ["0.png", "3.png"]
    assert f"1 of 3 images are left out: the net gives no numbers for {images}/1.png" in said.err


def test_heads_of_a_detector_that_give_no_numbers(nets, images, tmp_path, capsys, monkeypatch):
    """With a backbone that does."""
    net, _ = saved.load(nets / "detection")
    forward = type(net.head).forward
    monkeypatch.setattr(
        type(net.head), "forward", lambda head, maps: {k: v * float("inf") for k, v in forward(head, maps).items()}
    )
    out = tmp_path / "out"
    with pytest.warns(InvolutionWarning, match="left out: "):
        assert main(["predict", str(images), "--model", str(nets / "detection"), "--out", str(out)]) == 2
    said = capsys.readouterr()
    assert "4 of 4 images are left out: " in said.err and "pictures" not in said.out and not list(out.iterdir())
