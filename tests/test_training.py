"""involution fit, validate, test and predict on folders of real digits."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from trainings import assert_same_weights, kill_after_a_checkpoint, logged, refusal, weights

from involution.commands.main import main
from involution.runs import RunFolder

FLAGS = [
    "--model=involution.tasks.ClassificationTask",
    "--model.model=rednet26",
    "--model.num_classes=2",
    "--model.model_args={stem: small, channels: [16, 16, 32, 32], kernel_size: 3, drop_path_rate: 0.1}",
    "--model.channels_last=true",
    "--model.optimizer=torch.optim.SGD",
    "--model.optimizer.lr=0.05",
    "--model.optimizer.momentum=0.9",
    "--model.lr_scheduler=involution.tasks.WarmupCosineLR",
    "--model.lr_scheduler.epochs=3",
    "--model.lr_scheduler.warmup_epochs=1",
    "--data=involution.data.ImageFolders",
    "--data.batch_size=32",
    "--data.num_workers=1",
    "--data.transforms=involution.data.ImageTransforms",
    "--data.transforms.image_size=16",
    "--data.transforms.min_scale=0.7",
    "--trainer.max_epochs=3",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a data set of the zeros and ones of scikit-learn's digits, as image files."""
    root = tmp_path_factory.mktemp("digits")
    digits = load_digits()
    for i, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        if label > 1:
            continue
        place = root / ("val" if i % 4 == 0 else "train") / ("zero", "one")[label]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.kron(image * 15, np.ones((3, 3))).astype(np.uint8)).convert("RGB").save(place / f"{i}.png")
    return root


def fit(folder, run, *more):
    return main(["fit", *FLAGS, f"--data.root={folder}", f"--run={run}", *more])


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    run = tmp_path_factory.mktemp("run") / "whole"
    assert fit(folder, run) == 0
    return run


def test_a_training_leaves_logs_checkpoints_and_a_model(finished):
    metrics = (finished / "logs" / "version_0" / "metrics.csv").read_text()
    assert {"train_loss", "val_accuracy", "lr-SGD"} <= set(metrics.splitlines()[0].split(","))
    assert all(0 < epoch["epoch_s"] < 600 for epoch in RunFolder(finished).history())
    assert list((finished / "tensorboard").rglob("events.out.tfevents*"))
    assert (finished / "checkpoints" / "best.ckpt").exists()
    config = json.loads((finished / "model" / "config.json").read_text())
    assert config["label_names"] == ["one", "zero"]
    assert config["architecture"] == "rednet26"
    assert config["pretrained_cfg"]["input_size"] == [3, 16, 16]
    # Whose net it is, and under which licence, says who trained it.
    assert not {"tag", "license", "origin_url"} & config["pretrained_cfg"].keys()


def test_its_record_comes_with_its_starts_and_its_weights_with_their_licence(finished, tmp_path, monkeypatch):
    from tools import model_cards, training_record

    flags = ["--results", str(tmp_path / "results"), "--weights", str(tmp_path / "weights")]
    monkeypatch.setattr("sys.argv", ["training_record", str(finished), "tiny.cifar10", *flags])
    training_record.main()
    began = json.loads((finished / "logs" / "version_0" / "environment.json").read_text())
    record = json.loads((tmp_path / "results" / "cifar10" / "tiny.json").read_text())
    assert [start["date"] for start in record["starts"]] == [began["date"]]
    folder = tmp_path / "weights" / "tiny.cifar10"
    assert "was not kept" not in (folder / "README.md").read_text(encoding="utf-8")
    described = json.loads((folder / "config.json").read_text())["pretrained_cfg"]
    assert described["license"].startswith(model_cards.LICENCE) and "origin_url" not in described


def test_validate_and_test_take_the_checkpoint(finished, folder, capsys, recwarn):
    for command in ("validate", "test"):
        checkpoint = f"--ckpt_path={finished}/checkpoints/best.ckpt"
        assert main([command, *FLAGS, f"--data.root={folder}", f"--run={finished}", checkpoint]) == 0
        assert f"{'val' if command == 'validate' else 'test'}_accuracy" in capsys.readouterr().out
    # Nothing is said of what Lightning would change of its own, nor of checkpoints that nobody writes.
    assert not [str(warning.message) for warning in recwarn if "/lightning/" in warning.filename]


def test_a_training_says_what_it_trains_and_what_it_left(folder, tmp_path, capsys):
    run = tmp_path / "run"
    # One callback, which is no list.
    assert fit(folder, run, "--trainer.callbacks=lightning.pytorch.callbacks.LambdaCallback") == 0
    model = run / "model"
    said = capsys.readouterr().out.splitlines()
    lines = [line for line in said if line.startswith(str(run))]
    parameters = sum(
        tensor.numel() for name, tensor in load_file(model / "model.safetensors").items() if is_parameter(name)
    )
    best = max(float(row["val_accuracy"]) for row in logged(run) if row["val_accuracy"])
    assert lines == [
        f"{run}: {parameters:,} parameters",
        f"{model} reaches a val_accuracy of {best:.4f}; to use it: involution predict IMAGE --model {model}",
    ]
    # Where a bar would be drawn on a terminal, a file gets a line an epoch.
    rows = [row for row in logged(run) if row["train_loss"]]
    figures = {row["epoch"]: row["val_accuracy"] for row in logged(run) if row["val_accuracy"]}
    expected = [
        f"epoch {i + 1} of {len(rows)}: train_loss {float(row['train_loss']):.4f}, val_accuracy {float(figures[row['epoch']]):.4f}"
        for i, row in enumerate(rows)
    ]
    assert [line for line in said if line.startswith("epoch ")] == expected and len(expected) > 1


def is_parameter(name):
    return not name.endswith(("running_mean", "running_var", "num_batches_tracked"))


def test_an_interrupted_training_ends_at_the_same_weights(finished, folder, tmp_path):
    run = tmp_path / "run"
    assert fit(folder, run, "--trainer.max_epochs=1") == 0
    assert fit(folder, run, "--ckpt_path=last") == 0
    assert_same_weights(finished, run)


def test_a_killed_training_goes_on(finished, folder, tmp_path, copies):
    run = tmp_path / "run"
    kill_after_a_checkpoint(copies, run, *FLAGS, f"--data.root={folder}")
    assert fit(folder, run, "--ckpt_path=last") == 0
    assert_same_weights(finished, run)


def test_predict_reads_the_trained_model(finished, folder, tmp_path, capsys):
    image = sorted((folder / "val" / "zero").glob("*.png"))[0]
    arguments = ["--model", str(finished / "model"), "--top", "1"]
    assert main(["predict", str(image), str(folder / "val" / "one"), *arguments, "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0]["image"] == str(image)
    assert len(lines) == 1 + len(list((folder / "val" / "one").glob("*.png")))
    right = [line["top"][0]["class"] == Path(line["image"]).parent.name for line in lines]
    assert sum(right) > 0.8 * len(right)
    layers = "layer1.0.conv2,layer4.0.conv2"
    assert main(["predict", str(image), *arguments, "--heatmaps", layers, "--out", str(tmp_path / "maps")]) == 0
    pictures = sorted((tmp_path / "maps").glob("*.png"))
    assert [p.name for p in pictures] == [f"{image.stem}-{layer}.png" for layer in layers.split(",")]
    width, height = Image.open(pictures[0]).size
    assert height == 160, "images of 16 pixels are shown large"
    assert 320 < width < 480, "image and heat map side by side, the scale at their right"


def test_a_second_training_in_the_same_folder_is_refused(finished, folder, capsys):
    assert fit(folder, finished) == 2
    assert "already holds a training; go on with --ckpt_path last, or choose another --run" in refusal(capsys)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--model.num_classes=10"], "the data have 2 classes (one, zero) and the model 10; set num_classes to 2"),
        (["--model.model=rednet27"], "unknown model 'rednet27'; expected rednet26, 38, 50, 101, 152 or another name"),
        (["--model.model_args={kernal: 3}"], "cannot be built with {'kernal': 3}: "),
        (["--model.model_args={in_chans: 1}"], "the images have 3 channels and the model takes 1; build it with"),
        (["--model.optimizer.lr=1e30"], "the training diverged; lower the learning rate"),
        (["--data.val=missing"], "missing holds no classes of images"),
    ],
    ids=["classes", "model", "argument", "channels", "diverged", "folder"],
)
def test_refusals_are_sentences(folder, tmp_path, capsys, flags, words):
    run = tmp_path / "run"
    assert fit(folder, run, *flags) == (3 if "diverged" in words else 2)
    assert words in refusal(capsys)
    # A training that made a step has logs; one that was refused leaves the next one the first folder.
    left = {path.relative_to(run).parts[0] for path in run.rglob("version_*")}
    assert left == ({"logs", "tensorboard"} if "diverged" in words else set())


def test_an_unreadable_image_is_named(folder, tmp_path, capsys):
    import shutil

    broken = tmp_path / "data"
    shutil.copytree(folder, broken)
    (broken / "train" / "one" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nthis is no picture")
    assert fit(broken, tmp_path / "run") == 2
    assert "broken.png cannot be read as an image" in refusal(capsys)
    assert fit(broken, tmp_path / "run", "--model.num_classes=10") == 2
    assert "set num_classes to 2" in refusal(capsys), "said before every image is read"
    assert main(["predict", str(broken / "train" / "one" / "broken.png"), "--model", "rednet26"]) == 2


def test_misspelt_keys_are_named(folder, tmp_path, capsys):
    with pytest.raises(SystemExit):
        fit(folder, tmp_path / "run", "--model.leraning_rate=1")
    assert "leraning_rate" in capsys.readouterr().err


def test_predict_without_weights_says_what_to_do(folder, capsys):
    image = str(next((folder / "val" / "one").glob("*.png")))
    assert main(["predict", image, "--model", "rednet50"]) == 2
    assert "; give --weights, or as --model a folder that involution fit wrote" in refusal(capsys)
    assert main(["predict", "nowhere.png", "--model", "rednet50"]) == 2
    assert "there is no image or folder at nowhere.png" in refusal(capsys)


def test_warmup_cosine():
    from involution.tasks import WarmupCosineLR

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.8)
    schedule = WarmupCosineLR(optimizer, 130)
    rates = []
    for _ in range(130):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates[0] == pytest.approx(0.8 * 0.25)
    assert rates[65] == pytest.approx(0.4)
    assert max(rates) == rates[5]
    assert schedule.get_last_lr()[0] == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="warmup_epochs between 0 and epochs, got 3 and 5"):
        WarmupCosineLR(optimizer, 3)


def losses(run):
    """Return the training losses of the epochs."""
    return [float(row["train_loss"]) for row in logged(run) if row["train_loss"]]


def test_two_processes_train_as_one_with_the_same_global_batch(folder, tmp_path, copies):
    # No batch norm and nothing random beside the order: the two halves of a batch are the batch.
    flags = [
        *FLAGS,
        "--model.model_args={stem: small, channels: [16, 16, 32, 32], kernel_size: 3, norm_layer: groupnorm1}",
        f"--data.root={folder}",
        "--data.transforms.min_scale=1.0",
        "--data.transforms.flip=0.0",
        "--data.drop_last=true",
        "--trainer.max_epochs=2",
    ]
    one, two = tmp_path / "one", tmp_path / "two"
    assert copies.run("fit", *flags, f"--run={one}")[0] == 0
    copies.run_two("fit", *flags, f"--run={two}", "--trainer.strategy=ddp", "--data.batch_size=16")
    assert losses(two) == pytest.approx(losses(one), rel=1e-4)
    assert len(losses(one)) == 2
    expected, actual = weights(one), weights(two)
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=1e-3, atol=1e-4)
