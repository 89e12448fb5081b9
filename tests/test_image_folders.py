"""Folders of images: one numbering of the classes in every part, every image judged once, and read before that."""

import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn
from PIL import Image
from trainings import pictures_flags, refusal, write_pictures

from involution.commands.main import main
from involution.data import DataError, ImageFolders, SmallImages, load, verification
from involution.data.sampling import UNJUDGED
from involution.errors import InvolutionWarning
from involution.tasks import ClassificationTask


def write(root, **parts):
    """Write two images for every letter of a part, each letter a class."""
    for part, classes in parts.items():
        for name in classes:
            (root / part / name).mkdir(parents=True)
            for i in range(2):
                Image.fromarray(np.full((20, 20, 3), ord(name), np.uint8)).save(root / part / name / f"{i}.png")
    return root


def labels(data, part):
    return {Path(path).parent.name: label for path, label in data.sets[part].samples}


def test_parts_that_lack_a_class_are_numbered_by_the_training_images(tmp_path):
    data = ImageFolders(write(tmp_path, train="abc", val="bc", test="ac"), test="test")
    words = r"{} has no images of 1 of the 3 classes \({}\): its figures say nothing of them"
    for stage, part, missing in (("validate", "val", "a"), ("test", "test", "b")):
        with pytest.warns(InvolutionWarning, match=words.format(tmp_path / part, missing)):
            data.setup(stage)
    data.setup("fit")
    assert labels(data, "train") == {"a": 0, "b": 1, "c": 2}
    assert labels(data, "val") == {"b": 1, "c": 2} and labels(data, "test") == {"a": 0, "c": 2}
    assert data.sets["test"].classes == ["a", "b", "c"]


def test_an_image_that_is_judged_elsewhere_has_no_label(tmp_path):
    data = ImageFolders(write(tmp_path, train="ab", val="ab"), num_workers=0)
    data.setup("validate")
    digits = SmallImages("digits")
    for images in (data.sets["val"], digits.test_set):
        assert images[~0][1] == UNJUDGED and images[0][1] >= 0
    torch.testing.assert_close(data.sets["val"][~0][0], data.sets["val"][0][0])
    labels = torch.cat([labels for _, labels in digits.val_dataloader()])
    assert torch.equal(labels, digits.test_set.labels)


@pytest.mark.parametrize("stage", ["fit", "validate", "test"])
def test_a_class_that_training_has_not_is_refused_whatever_is_set_up(tmp_path, stage):
    part = "test" if stage == "test" else "val"
    data = ImageFolders(write(tmp_path, **{"train": "ac", "val": "ac", "test": "ac", part: "abc"}), test="test")
    words = r"{} has the folder b, which is none of the 2 classes of the training images \(a, c\); rename or remove it"
    with pytest.raises(DataError, match=words.format(tmp_path / part)):
        data.setup(stage)


def test_classes_that_are_not_divided_are_named(tmp_path):
    write(tmp_path, **{"a": "1", "b": "1", "c": "1", "d": "1", ".hidden": "1"})
    words = r"there is no folder {0}/train, and {0} itself holds a, b, c, …: where these are the classes, divide their images"
    with pytest.raises(DataError, match=words.format(tmp_path)):
        ImageFolders(tmp_path).prepare_data()
    with pytest.raises(DataError, match="1/train holds no classes of images"):
        ImageFolders(tmp_path / "a" / "1").prepare_data()


def test_a_single_image_that_is_left_over_is_not_trained_on(tmp_path):
    data = ImageFolders(write(tmp_path, train="abcde", val="a"), batch_size=3, num_workers=0)
    data.setup("fit")
    assert [len(labels) for _, labels in data.train_dataloader()] == [3, 3, 3]


def damage(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return file


@pytest.mark.parametrize(("stage", "parts"), [(None, "train val test"), ("validate", "val"), ("test", "test")])
def test_damaged_images_of_the_parts_that_are_needed_are_found_before_anything_begins(tmp_path, stage, parts):
    write(tmp_path, train="ab", val="ab", test="ab")
    for part in ("train", "val", "test"):
        file = tmp_path / part / "b" / "1.png"
        whole = file.read_bytes()
        data = ImageFolders(tmp_path, test="test")
        data.trainer = stage and SimpleNamespace(state=SimpleNamespace(fn=TrainerFn(stage)))
        data.prepare_data()
        damage(file)
        if part in parts:
            with pytest.raises(DataError, match=f"{file} cannot be read as an image: .*; repair or remove it"):
                data.prepare_data()
        else:
            data.prepare_data()
        data.verify = False
        data.prepare_data()
        file.write_bytes(whole)


def test_a_training_with_a_damaged_validation_image_does_not_begin(tmp_path, capsys, monkeypatch):
    file = damage(write_pictures(tmp_path / "photos") / "val" / "light" / "3.png")
    steps = []
    monkeypatch.setattr(ClassificationTask, "on_train_batch_start", lambda *_: steps.append(1))
    flags = ["fit", *pictures_flags(tmp_path / "photos", f"--run={tmp_path / 'run'}", "--data.num_workers=0")]
    for more, begins in (([], False), (["--data.verify=false"], True)):
        assert main([*flags, *more]) == 2
        assert refusal(capsys).startswith(f"involution fit: {file} cannot be read as an image")
        assert bool(steps) is begins


def test_a_pass_over_many_images_says_how_far_it_is(monkeypatch, caplog):
    monkeypatch.setattr(verification, "_TOGETHER", 3)
    with caplog.at_level(logging.INFO):
        assert verification.check_each(str, range(8)) == [*"01234567"] and not caplog.messages
        monkeypatch.setattr(verification, "_TOLD_AFTER_S", 0)
        verification.check_each(str, range(8))
    words = "of 8 images are checked before the first step, each read whole unless --data.verify is false"
    assert caplog.messages == [f"{number} {words}" for number in (3, 6)]


def test_a_pass_ends_at_the_first_image_that_is_refused():
    def check(item):
        checked.append(item)
        if item == 5:
            raise DataError("no")

    checked = []
    with pytest.raises(DataError, match="no"):
        verification.check_each(check, range(10_000))
    assert len(checked) < 5000


def test_images_of_a_small_set_become_a_folder_of_classes(tmp_path):
    from tools import image_folders

    data = load("digits")
    image_folders.write(data, [str(i) for i in range(10)], tmp_path, {"train": 3, "val": 2})
    folders = ImageFolders(str(tmp_path))
    folders.setup("fit")
    assert [len(folders.sets[part]) for part in ("train", "val")] == [30, 20]
    third = sorted((tmp_path / "val" / "7").iterdir())[0]
    with Image.open(third) as image:
        assert torch.equal(torch.from_numpy(np.array(image)), data.test_images[int(third.stem)][0])
    assert data.test_labels[int(third.stem)] == 7
