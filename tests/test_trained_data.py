"""What a checkpoint keeps of its data: other data are seen as they were, and data of other classes are refused."""

import numpy as np
import pytest
import street_scenes
import timm
import torch
from lightning.pytorch import LightningDataModule, Trainer
from small_coco import write_coco
from timm.data import resolve_data_config
from torch.utils.data import DataLoader, TensorDataset
from trainings import write_pictures

import involution.models  # noqa: F401
from involution.commands.classifiers import class_names
from involution.commands.main import main
from involution.data import (
    CocoImages,
    DetectionTransforms,
    ImageFolders,
    ImageTransforms,
    SegmentationFolders,
    SegmentationTransforms,
)
from involution.errors import CheckpointError
from involution.models import checkpoints, named
from involution.tasks import ClassificationTask, DetectionTask, SegmentationTask

NARROW = {"channels": [16, 16, 32, 32], "kernel_size": 3}
BACKBONE = {"backbone": "rednet26", "backbone_args": NARROW}
NORMALISED = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
ARGUMENTS = {
    **BACKBONE,
    "neck_channels": 16,
    "anchor_sizes": [8, 16, 32, 64, 128],
    "box_channels": 32,
    "min_size": 48,
    "max_size": 64,
}


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    """Where tests of detection and segmentation leave their records."""
    monkeypatch.chdir(tmp_path)


def trainer(**options):
    options = {"max_epochs": 1, **options}
    return Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, **options,
    )  # fmt: skip


def trained(task, data, file):
    """Train for a step, write the checkpoint and return its path."""
    run = trainer(max_steps=1, limit_val_batches=0)
    run.fit(task, datamodule=data)
    run.save_checkpoint(file)
    return file


def classifier():
    torch.manual_seed(0)
    return ClassificationTask(timm.create_model("rednet26", layers=(1, 1, 1, 1), num_classes=2, **NARROW), 2)


def folders(root, **transforms):
    return ImageFolders(root, batch_size=4, num_workers=0, transforms=ImageTransforms(**transforms))


@pytest.fixture
def pictures(tmp_path):
    return write_pictures(tmp_path / "pictures")


@pytest.fixture
def checkpoint(pictures, tmp_path):
    data = folders(pictures, image_size=32, crop_fraction=0.9, interpolation="nearest", **NORMALISED)
    return trained(classifier(), data, tmp_path / "net.ckpt")


def judged(task, data, checkpoint):
    """Return the figures of a test."""
    (figures,) = trainer().test(task, datamodule=data, ckpt_path=checkpoint, verbose=False, weights_only=True)
    return figures


def test_images_are_seen_as_the_net_of_a_checkpoint_saw_them(pictures, checkpoint):
    same = folders(pictures, image_size=32, crop_fraction=0.9, interpolation="nearest", **NORMALISED)
    untold = folders(pictures)
    expected = judged(classifier(), same, checkpoint)
    assert judged(classifier(), untold, checkpoint) == expected
    assert untold.data_config == same.data_config
    told = folders(pictures, image_size=40, mean=[0.0, 0.0, 0.0])
    assert judged(classifier(), told, checkpoint) != expected
    assert told.data_config == same.data_config | {"input_size": (3, 40, 40), "mean": (0.0, 0.0, 0.0)}


def test_a_checkpoint_that_says_nothing_of_its_data_changes_nothing(pictures, checkpoint):
    content = torch.load(checkpoint, weights_only=True)
    torch.save({key: value for key, value in content.items() if not key.startswith("involution_")}, checkpoint)
    untold = folders(pictures, image_size=32)
    judged(classifier(), untold, checkpoint)
    assert untold.data_config == folders(pictures, image_size=32).data_config


@pytest.mark.parametrize("function", ["test", "validate", "fit"])
def test_data_of_other_classes_are_refused(pictures, checkpoint, function):
    for part in ("train", "val"):
        (pictures / part / "dark").rename(pictures / part / "night")
    with pytest.raises(
        CheckpointError,
        match=r"net.ckpt was trained with other classes: label 0 is 'dark' there and 'light' in the data; gi",
    ):
        getattr(trainer(), function)(
            classifier(), datamodule=folders(pictures, image_size=32), ckpt_path=checkpoint, weights_only=True
        )


def test_without_a_trainer_there_are_no_data_to_tell(checkpoint):
    loaded = ClassificationTask.load_from_checkpoint(
        checkpoint, model=classifier().model, num_classes=2, weights_only=True
    )
    kept = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in kept.items())


class Own(LightningDataModule):
    """Data of a user's, which say of themselves what they like."""

    data_config = {"mean": np.float32([0.5, 0.5, 0.25]), "std": torch.ones(3), "interpolation": object(), "more": 1}
    class_names = (1, 2)

    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.randn(4, 3, 32, 32), torch.arange(4) % 2), batch_size=4)


def test_arrays_are_kept_as_numbers(tmp_path):
    content = torch.load(trained(classifier(), Own(), tmp_path / "own.ckpt"), weights_only=True)
    assert content["involution_images"] == {"mean": [0.5, 0.5, 0.25], "std": [1, 1, 1]}
    assert content["involution_classes"] == ["1", "2"]


def test_a_net_with_the_weights_of_a_checkpoint_answers_in_its_classes(checkpoint, pictures, capsys):
    net = named.classifier("rednet26", checkpoint)
    assert class_names(net) == ["dark", "light"]
    config = resolve_data_config(model=net)
    expected = folders(pictures, image_size=32, crop_fraction=0.9, interpolation="nearest", **NORMALISED).data_config
    assert {
        key: tuple(config[key]) if key in ("mean", "std", "input_size") else config[key] for key in expected
    } == expected
    picture = pictures / "val" / "light" / "0.png"
    assert main(["predict", str(picture), "--model", "rednet26", "--weights", str(checkpoint)]) == 0
    assert "dark " in capsys.readouterr().out


@pytest.mark.parametrize("ending", [".safetensors", ".pth", ".pdparams"])
def test_converted_weights_say_of_their_data_what_the_checkpoint_did(checkpoint, ending, tmp_path, capsys):
    content = torch.load(checkpoint, weights_only=True)
    state = timm.create_model("rednet26", num_classes=2).state_dict()
    torch.save(content | {"state_dict": {f"model.{name}": value for name, value in state.items()}}, checkpoint)
    out = tmp_path / f"net{ending}"
    assert main(["convert", str(checkpoint), str(out), "--quiet"]) == 0
    said = capsys.readouterr().out
    net, original = (named.classifier("rednet26", file) for file in (out, checkpoint))
    if ending == ".pdparams":
        assert "left out, for .pdparams holds weights alone: classes dark, light; images with input_size [3, 32" in said
        assert "create_model" not in said and class_names(net) == ["0", "1"]
    else:
        assert "left out, for" not in said and "create_model" in said and class_names(net) == ["dark", "light"]
        assert resolve_data_config(model=net) == resolve_data_config(model=original)
        # A copy of the copy, too.
        assert main(["convert", str(out), str(tmp_path / "again.safetensors"), "--quiet"]) == 0
        assert class_names(named.classifier("rednet26", tmp_path / "again.safetensors")) == ["dark", "light"]


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"involution_classes": [1, 2]}, r"involution_classes\[0\] must be text"),
        ({"involution_images": {"mean": "grey"}}, r"involution_images.mean must be a list"),
    ],
)
def test_what_is_no_word_of_data_is_refused_by_trainings_and_left_by_all_others(checkpoint, entries, words):
    torch.save(torch.load(checkpoint, weights_only=True) | entries, checkpoint)
    with pytest.raises(CheckpointError, match=words):
        checkpoints.read_training(checkpoint)
    assert class_names(named.classifier("rednet26", checkpoint)) == ["0", "1"]


def detector(**arguments):
    torch.manual_seed(0)
    return DetectionTask("faster_rcnn", 3, model_args={**ARGUMENTS, **arguments})


def test_a_detector_normalises_as_that_of_a_checkpoint(tmp_path):
    def data():
        return CocoImages(root, batch_size=2, num_workers=0, transforms=DetectionTransforms())

    root = write_coco(tmp_path / "coco")
    normalised = {f"image_{key}": value for key, value in NORMALISED.items()}
    file = trained(detector(**normalised), data(), tmp_path / "net.ckpt")
    task = detector()
    expected = judged(detector(**normalised), data(), file)
    assert judged(task, data(), file) == expected
    assert {f"image_{key}": getattr(task.model.transform, f"image_{key}") for key in NORMALISED} == normalised
    told = detector(image_std=[1.0, 1.0, 1.0])
    judged(told, data(), file)
    assert (told.model.transform.image_mean, told.model.transform.image_std) == (NORMALISED["mean"], [1.0, 1.0, 1.0])


def test_segmentation_sees_images_as_the_net_of_a_checkpoint(tmp_path):
    def data(**options):
        return SegmentationFolders(
            root, batch_size=4, num_workers=0, transforms=SegmentationTransforms(crop_size=[32, 48], **options)
        )

    def net():
        torch.manual_seed(0)
        return SegmentationTask("semantic_fpn", 3, model_args={**BACKBONE, "neck_channels": 16, "head_channels": 16})

    root = street_scenes.write_folders(tmp_path / "streets")
    file = trained(net(), data(**NORMALISED), tmp_path / "net.ckpt")
    untold = data()
    assert judged(net(), untold, file) == judged(net(), data(**NORMALISED), file)
    assert {key: untold.data_config[key] for key in NORMALISED} == NORMALISED
