"""involution fit, validate, test and predict of segmentation nets, on tiny street scenes."""

import fnmatch
import json
import warnings

import numpy as np
import pytest
import street_scenes
import torch
from PIL import Image

pytest.importorskip("lightning", reason="the task is Lightning's")

from lightning.pytorch import Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassJaccardIndex
from trainings import assert_same_weights, kill_after_a_checkpoint, logged, refusal

from involution.commands.main import main
from involution.errors import DivergenceError, InvolutionWarning
from involution.tasks import PolyLR, SegmentationTask, TrainingError
from involution.tasks import segmentation_results as analysis

FLAGS = [
    "--model=involution.tasks.SegmentationTask",
    "--model.model=semantic_fpn",
    "--model.num_classes=3",
    "--model.model_args={backbone: rednet26, neck: involution, neck_channels: 16, head_channels: 16, backbone_args: "
    "{channels: [16, 16, 32, 32], kernel_size: 3}}",
    "--model.channels_last=true",
    "--model.optimizer=torch.optim.AdamW",
    "--model.optimizer.lr=0.01",
    "--model.lr_scheduler=involution.tasks.PolyLR",
    "--model.lr_scheduler.min_lr=0.0001",
    "--data=involution.data.SegmentationFolders",
    "--data.batch_size=4",
    "--data.num_workers=1",
    "--data.transforms=involution.data.SegmentationTransforms",
    "--data.transforms.crop_size=[32, 48]",
    "--trainer.max_epochs=4",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.num_sanity_val_steps=0",
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return street_scenes.write_folders(tmp_path_factory.mktemp("streets"))


def fit(root, run, *more):
    return main(["fit", *FLAGS, f"--data.root={root}", f"--run={run}", *more])


@pytest.fixture(scope="module")
def finished(root, tmp_path_factory):
    run = tmp_path_factory.mktemp("run") / "whole"
    assert fit(root, run) == 0
    return run


def test_a_training_learns_and_leaves_logs_and_a_model(finished):
    rows = logged(finished)
    assert {"val_loss", "val_pixel_accuracy", "val_mean_accuracy", "val_iou/box"} <= set(rows[0])
    assert all(fnmatch.filter(rows[0], pattern) for pattern in SegmentationTask.logged)
    losses = [float(row["train_loss"]) for row in rows if row["train_loss"]]
    assert losses[-1] < 0.8 * losses[0]
    config = json.loads((finished / "model" / "config.json").read_text())
    assert (config["task"], config["architecture"]) == ("segmentation", "semantic_fpn")
    assert config["classes"] == list(street_scenes.CLASSES)


def test_test_writes_the_confusion_matrix(finished, root):
    checkpoint = f"--ckpt_path={finished}/checkpoints/best.ckpt"
    assert main(["test", *FLAGS, f"--data.root={root}", f"--run={finished}", checkpoint]) == 0
    record = json.loads((finished / "segmentation-test.json").read_text())
    results, matrix = record["results"], np.array(record["results"]["confusion_matrix"])
    labels = [np.asarray(Image.open(path)) for path in (root / "labels" / "val").glob("*.png")]
    assert matrix.sum() == sum((values != 3).sum() for values in labels)
    assert matrix.sum(1)[2] == sum((values == 7).sum() for values in labels)
    assert results["pixel_accuracy_percent"] == pytest.approx(100 * np.trace(matrix) / matrix.sum())
    assert list(results["iou_percent"]) == list(street_scenes.CLASSES)
    assert record["checkpoint"] == "best.ckpt" and record["image_size"] is None
    assert record["data"] == {"module": "SegmentationFolders", "root": str(root), "part": "val"}
    assert record["images"] == len(labels)
    assert Image.open(finished / "segmentation-test.png").width > 200
    views = ["--model.window=[32, 32]", "--model.scales=[0.5, 1.0]", "--model.flip=true"]
    views.append("--data.transforms.image_size=[30, 40]")
    run = finished.parent / "views"
    assert main(["validate", *FLAGS, f"--data.root={root}", f"--run={run}", checkpoint, *views]) == 0
    other = json.loads((run / "segmentation-val.json").read_text())
    assert other["views"] == {"window": [32, 32], "stride": None, "scales": [0.5, 1.0], "flip": True}
    assert other["image_size"] == [30, 40]
    assert np.array(other["results"]["confusion_matrix"]).sum() == matrix.sum()
    assert other["results"]["confusion_matrix"] != results["confusion_matrix"]


def test_predict_writes_label_images_and_overlays(finished, root, tmp_path, capsys):
    images = root / "images" / "val"
    arguments = ["--model", str(finished / "model"), "--out", str(tmp_path / "out")]
    assert main(["predict", str(images), *arguments, "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["image"] for line in lines] == [str(images / f"{i}.png") for i in range(3)]
    right = total = 0
    for line in lines:
        labels = Image.open(line["labels"])
        truth = np.asarray(Image.open(root / "labels" / "val" / f"{line['labels'][-5]}.png"))
        values = np.asarray(labels)
        assert labels.mode == "P" and values.shape == truth.shape
        assert set(np.unique(values)) <= {0, 1, 7}
        right, total = right + (values == truth)[truth != 3].sum(), total + (truth != 3).sum()
        assert sum(line["share_percent"].values()) == pytest.approx(100, abs=0.1)
        # Enlarged, with the legend at its side.
        assert Image.open(line["overlay"]).width > 4 * labels.width
    assert right > 0.6 * total
    views = ["--window", "[32, 32]", "--scales", "[0.5, 1]", "--flip"]
    assert main(["predict", str(images / "0.png"), *arguments, *views]) == 0
    assert " % → " in capsys.readouterr().out
    assert main(["predict", str(images / "0.png"), *arguments, "--opacity", "0"]) == 0
    plain, overlay = Image.open(images / "0.png"), Image.open(tmp_path / "out" / "0-overlay.png")
    factor = -(-160 // plain.height)
    enlarged = plain.convert("RGB").resize((plain.width * factor, plain.height * factor), Image.Resampling.NEAREST)
    assert overlay.crop((0, 0, *enlarged.size)).tobytes() == enlarged.tobytes()


def test_predict_refuses_in_words(finished, root, tmp_path, capsys):
    (tmp_path / "a").mkdir()
    image = root / "images" / "val" / "0.png"
    twin = tmp_path / "a" / "0.png"
    twin.write_bytes(image.read_bytes())
    model = ["--model", str(finished / "model"), "--out", str(tmp_path / "out")]
    assert main(["predict", str(image), str(twin), *model]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"0.png", "0-2.png", "0-2-overlay.png"}
    assert main(["predict", str(twin), "--model", str(finished / "model"), "--out", str(tmp_path / "a")]) == 2
    assert "a/0.png is one of the files that are read and would be overwritten; choose another" in refusal(capsys)
    assert twin.read_bytes() == image.read_bytes()
    twin.write_bytes(b"no picture")
    assert main(["predict", str(twin), *model]) == 2
    assert "0.png cannot be read as an image" in refusal(capsys)
    assert main(["predict", str(image), *model, "--window", "[0, 5]"]) == 2
    assert "window and stride must be a height and a width, got (0, 5)" in refusal(capsys)


def test_an_interrupted_training_ends_at_the_same_weights(finished, root, tmp_path, copies):
    run = tmp_path / "run"
    kill_after_a_checkpoint(copies, run, *FLAGS, f"--data.root={root}")
    assert fit(root, run, "--ckpt_path=last") == 0
    assert_same_weights(finished, run)


def test_two_processes_train_as_one_with_the_same_global_batch(root, tmp_path, copies):
    # No batch norm and nothing random beside the order: the two halves of a batch are the batch.
    flags = [
        *FLAGS,
        "--model.model_args={backbone: rednet26, neck: involution, neck_channels: 16, head_channels: 16, norm: group, "
        "dropout: 0.0, backbone_args: {channels: [16, 16, 32, 32], kernel_size: 3, norm_layer: groupnorm1}, "
        "neck_args: {norm_layer: null, kernel_generator: linear}}",
        f"--data.root={root}",
        "--data.transforms.crop_size=[40, 56]",
        "--data.transforms.scale_range=[1.0, 1.0]",
        "--data.transforms.photometric_distortion=false",
        "--data.transforms.flip=0.0",
        "--trainer.max_epochs=2",
    ]
    one, two = tmp_path / "one", tmp_path / "two"
    assert main(["fit", *flags, f"--run={one}"]) == 0
    copies.run_two("fit", *flags, f"--run={two}", "--trainer.strategy=ddp", "--data.batch_size=2")

    def columns(run):
        rows = logged(run)
        return [[float(r[key]) for r in rows if r[key]] for key in ("train_loss", "val_loss", "val_pixel_accuracy")]

    # The three validation images are judged once each, though two processes share them.
    for ours, theirs in zip(columns(two), columns(one), strict=True):
        assert ours == pytest.approx(theirs, rel=2e-3)
        assert len(ours) == 2


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            ["--model.num_classes=4"],
            "the data have 3 classes (sky, road, box) and the model 4; set num_classes to 3",
        ),
        (["--model.model=segformer"], "unknown segmentation net 'segformer'"),
        (["--model.model_args={weights: nowhere.pth}"], "nowhere.pth"),
        (
            ["--model.optimizer.lr=1e30", "--model.lr_scheduler.min_lr=0"],
            "the training diverged; lower the learning rate",
        ),
        (["--data.root=nowhere"], "there is no folder nowhere or data/nowhere; name the data set's with --data.root"),
    ],
    ids=["classes", "model", "weights", "diverged", "folder"],
)
def test_refusals_are_sentences(root, tmp_path, capsys, monkeypatch, flags, words):
    monkeypatch.delenv("INVOLUTION_DATA", raising=False)
    assert fit(root, tmp_path / "run", *flags) == (3 if "diverged" in words else 2)
    assert words in refusal(capsys)


def test_a_bad_label_met_in_a_worker_is_named(tmp_path, capsys):
    root = street_scenes.write_folders(tmp_path / "streets", train=4, val=1)
    Image.fromarray(np.full((40, 56), 99, np.uint8)).save(root / "labels" / "train" / "2.png")
    assert fit(root, tmp_path / "run") == 2
    assert "labels/train/2.png holds the value 99 in 2240 of its 2240 pixels, which is neither" in refusal(capsys)


# The figures


def test_the_figures_are_those_of_torchmetrics():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (5, 20, 30), generator=generator)
    predicted = torch.where(torch.rand(5, 20, 30, generator=generator) < 0.6, labels, 0)
    labels[0] = 255
    valid = labels != 255
    confusion = torch.zeros(4, 4, dtype=torch.long)
    confusion.index_put_((labels[valid], predicted[valid]), torch.ones((), dtype=torch.long), accumulate=True)
    metric = MulticlassJaccardIndex(4, average=None, ignore_index=255)
    torch.testing.assert_close(analysis.class_iou(confusion).float(), metric(predicted, labels))
    assert analysis.pixel_accuracy(confusion) == pytest.approx((predicted == labels)[valid].double().mean().item())


def test_a_name_of_a_class_is_no_formula():
    from involution.pictures.plots import png

    picture = analysis.confusion_picture(torch.eye(2).long(), ["a$\\frac$", "US$ 1^"])
    assert png(picture).startswith(b"\x89PNG")


@pytest.mark.parametrize("size", [(60_000, 1), (2000, 3), (1, 60_000), (1, 1), (4096, 40), (300, 200)])
def test_the_legend_of_a_thin_image_makes_it_no_larger_than_can_be_seen(size):
    from involution.pictures.overlays import with_legend

    image = Image.new("RGB", size, (0, 0, 200))
    classes = np.zeros((image.height, image.width), np.uint8)
    picture = with_legend(image, classes, ["road", "sky"], [(200, 0, 0), (0, 200, 0)], 0.6)
    assert picture.height >= 160 and picture.height <= max(160, image.height)
    assert picture.width <= max(4096, image.width) + 300
    # The image itself is at the left, a legend of one entry beside it.
    assert picture.getpixel((0, 0)) == (120, 0, 80) and picture.getpixel((picture.width - 1, 159)) == (255, 255, 255)


def test_letters_that_no_font_has_are_told_of_once():
    from involution.pictures.plots import png

    picture = analysis.confusion_picture(torch.eye(3).long(), ["道路", "天空", "人行道"])
    with pytest.warns(
        InvolutionWarning, match="matplotlib's font lacks some letters of the names, .*matplotlibrc"
    ) as caught:
        assert png(picture).startswith(b"\x89PNG")
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        png(analysis.confusion_picture(torch.eye(2).long(), ["road", "ciel"]))


def test_a_class_that_is_nowhere_counts_in_no_mean():
    confusion = torch.tensor([[8, 2, 0], [0, 10, 0], [0, 0, 0]])
    results = analysis.summary(confusion, "abc")
    assert results["iou_percent"]["a"] == pytest.approx(80)
    assert np.isnan(results["iou_percent"]["c"])
    assert results["miou_percent"] == pytest.approx((80 + 1000 / 12) / 2)
    assert results["mean_accuracy_percent"] == pytest.approx(90)


def task(**options):
    return SegmentationTask(
        "semantic_fpn",
        3,
        model_args={
            "backbone": "rednet26",
            "neck_channels": 16,
            "head_channels": 8,
            "backbone_args": {"channels": [16] * 4},
        },
        **options,
    )


def test_a_batch_without_labels_has_the_loss_zero():
    module = task()
    loss = module.training_step((torch.randn(2, 3, 32, 32), torch.full((2, 32, 32), 255)), 0)
    assert loss.item() == 0
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in module.parameters() if p.grad is not None)


def test_a_net_that_gives_no_numbers_in_evaluation_ends_its_training():
    module = task()
    run = Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    images = DataLoader(
        TensorDataset(torch.randn(2, 3, 32, 32), torch.zeros(2, 32, 32, dtype=torch.long)), batch_size=2
    )
    spoilt = next(norm for norm in module.modules() if isinstance(norm, nn.BatchNorm2d))
    spoilt.momentum, spoilt.running_var = 0.0, torch.full_like(spoilt.running_var, float("nan"))
    with pytest.raises(DivergenceError, match="the validation loss is nan in epoch 0, batch 0: the training diverged"):
        run.fit(module, images, images)


def test_a_label_that_is_no_class_is_refused():
    """An index error of the loss, or an assertion on the GPU; a data module of the user's checks nothing."""
    module, labels = task(), torch.zeros(2, 32, 32, dtype=torch.long)
    labels[1, 3, 4], labels[0, 0] = 3, 255
    for step in (module.training_step, module.validation_step):
        with pytest.raises(
            TrainingError, match="the data have the label 3, and the model's 3 classes the labels 0 to 2"
        ):
            step((torch.randn(2, 3, 32, 32), labels), 0)


def test_a_batch_norm_with_a_single_value_is_explained():
    pytest.importorskip("transformers", reason="UPerNet's heads are transformers'")
    arguments = {
        "backbone": "rednet26",
        "head_channels": 8,
        "auxiliary_channels": 0,
        "backbone_args": {"channels": [16] * 4},
    }
    module = SegmentationTask("upernet", 3, model_args=arguments)
    with pytest.raises(TrainingError, match="a batch of 1 leaves a batch norm with one value per channel; train with"):
        module.training_step((torch.randn(1, 3, 64, 64), torch.zeros(1, 64, 64, dtype=torch.long)), 0)


def test_poly():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    schedule = PolyLR(optimizer, 800, warmup_steps=100)
    rates = {}
    for step in range(801):
        if step in (0, 50, 100, 400, 800):
            rates[step] = schedule.get_last_lr()[0]
        optimizer.step()
        schedule.step()
    assert rates[0] == pytest.approx(0.001)
    assert rates[400] == pytest.approx(1e-4 + 0.0099 * 0.5**0.9)
    assert rates[800] == pytest.approx(1e-4)
    assert rates[50] < rates[100] < 0.01
    assert "steps" not in schedule.state_dict()
    with pytest.raises(ValueError, match=r"min_lr must be between 0 and the base rate 0.01, got 0.1"):
        PolyLR(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01), 10, min_lr=0.1)
