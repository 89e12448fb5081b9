"""Folders of images: one numbering of the classes in every part, every image judged once."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from involution.data import DataError, ImageFolders, SmallImages
from involution.data.sampling import UNJUDGED
from involution.errors import InvolutionWarning


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
    words = (
        r"{} has the folder b, which is none of the 2 classes of the training images \(a, c, …\); rename or remove it"
    )
    with pytest.raises(DataError, match=words.format(tmp_path / part)):
        data.setup(stage)


def test_a_single_image_that_is_left_over_is_not_trained_on(tmp_path):
    data = ImageFolders(write(tmp_path, train="abcde", val="a"), batch_size=3, num_workers=0)
    data.setup("fit")
    assert [len(labels) for _, labels in data.train_dataloader()] == [3, 3, 3]
