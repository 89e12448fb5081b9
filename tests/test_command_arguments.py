"""What the arguments of commands become: sizes, batches, engines, shares and numbers of classes."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from trainings import refusal

from involution.commands.main import main
from involution.commands.parsing import refuse
from involution.export import checked
from involution.models import named
from involution.studies.latency import run

NET = "rednet14_eighth.cifar10"


@pytest.fixture
def image(tmp_path):
    file = tmp_path / "photo.png"
    Image.new("RGB", (32, 32), (90, 30, 60)).save(file)
    return str(file)


def test_predict_prints_so_many_classes_with_their_probabilities(image, capsys):
    assert main(["predict", image, "--model", NET, "--top", "10", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["image"] == image
    probabilities = [one["probability"] for one in found["top"]]
    assert probabilities == sorted(probabilities, reverse=True) and sum(probabilities) == pytest.approx(1)
    assert sorted(one["class"] for one in found["top"]) == sorted(named.classifier(NET).pretrained_cfg["label_names"])
    assert main(["predict", image, "--model", NET, "--top", "2"]) == 0
    words = ", ".join(f"{one['class']} {100 * one['probability']:.1f} %" for one in found["top"][:2])
    assert capsys.readouterr().out == f"{image}: {words}\n"


def test_opacity_is_the_share_of_the_heat_map(image, tmp_path):
    pictures = []
    for flags in (["--opacity", "0"], []):
        assert (
            main(["predict", image, "--model", NET, "--heatmaps", "layer2.0.conv2", "--out", str(tmp_path), *flags])
            == 0
        )
        pictures.append(np.asarray(Image.open(tmp_path / "photo-layer2.0.conv2.png")).astype(int))
    side = pictures[0].shape[0]
    assert np.array_equal(pictures[0][:, :side], pictures[1][:, :side]), "the image itself has no heat map over it"
    # Below a heat map the image is grey.
    grey = pictures[0][:, :side].mean(2, keepdims=True)
    without, usual = (abs(picture[:, side : 2 * side] - grey).max() for picture in pictures)
    assert without <= 1 and usual > 20


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--top", "0"], "top and batch_size must be at least 1, got 0 and 16"),
        (["--batch-size", "0"], "top and batch_size must be at least 1, got 5 and 0"),
        (["--heatmaps", "all", "--opacity", "1.5"], "opacity must be from 0 to 1, got 1.5"),
    ],
)
def test_what_predict_cannot_do_is_refused(image, capsys, flags, words):
    assert main(["predict", image, "--model", NET, *flags]) == 2
    assert words in refusal(capsys)


@pytest.fixture
def exported(tmp_path, monkeypatch):
    """Return a function that lets the command export to nothing, and gives module, size of the images and options."""
    seen = []

    def write(module, inputs, file, **options):
        file.touch()
        seen.append((module, tuple(inputs[0].shape), options))
        return "the same"

    monkeypatch.setattr(checked, "export", write)

    def export(*flags):
        assert main(["export", NET, "--output", str(tmp_path / "net.onnx"), *flags]) == 0
        return seen.pop()

    return export


def test_export_takes_height_before_width(exported):
    module, size, options = exported("--size", "40", "48", "--batch", "3", "--opset", "19", "--tolerance", "0.5")
    assert size == (3, 3, 40, 48) and not options["others"] and options["dynamic_shapes"] is None
    assert (options["opset_version"], options["tolerance"], options["format"]) == (19, 0.5, "onnx")
    assert not any(isinstance(part, nn.BatchNorm2d) for part in module.modules())
    module, size, _ = exported("--size", "40", "--no-fold")
    assert size == (1, 3, 40, 40) and any(isinstance(part, nn.BatchNorm2d) for part in module.modules())


def test_export_compares_other_sizes_than_that_of_the_example(exported, capsys):
    def sizes(*flags):
        _, size, options = exported("--dynamic", *flags)
        return [size, *(tuple(images.shape) for (images,) in options["others"])]

    assert sizes("--size", "40", "48") == [(2, 3, 40, 48), (1, 3, 72, 112), (3, 3, 45, 49)]
    assert "any batch, height and width from 40 pixels on\n" in capsys.readouterr().out
    assert sizes("--size", "40", "48", "--multiple", "8", "--batch", "4") == [(4, 3, 40, 48), (1, 3, 48, 64)]
    assert "any batch, height and width from 16 pixels on, in steps of 8\n" in capsys.readouterr().out


def test_benchmark_plans_what_it_is_asked(tmp_path, monkeypatch):
    plans = []
    monkeypatch.setattr(run, "measure", lambda plan, say: plans.append(plan) or [])
    monkeypatch.setattr(run, "write", lambda *_, **__: [])
    words = ["benchmark", NET, "resnet14_eighth.cifar10", "--out", str(tmp_path)]
    assert main([*words, "--size", "40", "48", "--engines", "folded", "eager", "folded", "--batch", "1", "8"]) == 0
    assert main([*words, "--size", "64", "--dtype", "bfloat16", "--threads", "3"]) == 0
    first, second = plans
    assert (first.size, first.engines, first.batches, first.dtypes) == (
        (40, 48),
        ("folded", "eager"),
        (1, 8),
        ("float32",),
    )
    assert first.threads == torch.get_num_threads() and first.models == (NET, "resnet14_eighth.cifar10")
    assert (second.size, second.batches, second.dtypes, second.threads) == ((64, 64), (1,), ("bfloat16",), 3)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([NET], f"every net may be named once, got {NET} {NET}"),
        (
            ["--size", "8", "8", "8"],
            "--size (height and width), --threads, --rounds and --processes must be at least 1",
        ),
        (["--batch", "1", "0"], "must be at least 1"),
        (["--processes", "0"], "must be at least 1"),
    ],
)
def test_what_benchmark_cannot_do_is_refused(tmp_path, monkeypatch, capsys, flags, words):
    monkeypatch.setattr(run, "measure", lambda plan, say: pytest.fail("measured"))
    assert main(["benchmark", NET, *flags, "--out", str(tmp_path / "out")]) == 2
    assert words in refusal(capsys) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--dtype", "float32"], "--calibration is of int8; name that in --dtype, or leave it out"),
        (["--dtype", "int8", "--batch", "1", "100"], "of the 100 images of the largest batch are in"),
    ],
)
def test_images_that_benchmark_cannot_calibrate_on_are_refused_first(
    photographs, tmp_path, monkeypatch, capsys, flags, words
):
    monkeypatch.setattr(run, "measure", lambda plan, say: pytest.fail("measured"))
    assert main(["benchmark", NET, *flags, "--calibration", str(photographs), "--out", str(tmp_path / "out")]) == 2
    assert words in refusal(capsys) and not (tmp_path / "out").exists()


def test_a_long_refusal_is_cut():
    with pytest.raises(SystemExit) as ended:
        refuse("\n".join(f"{i} {'x' * 1000}" for i in range(50)))
    lines = str(ended.value.__cause__).splitlines()
    assert ended.value.code == 2 and lines[0].startswith("49 x") and lines[1].startswith("  0 x")
    assert len(lines) == 9 and max(map(len, lines)) <= 307 and all(line.endswith("…") for line in lines)
