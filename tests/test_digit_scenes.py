"""Scenes of digits: what sets of one seed have in common, and what they do not."""

import pytest

pytest.importorskip("lightning", reason="the DataModules are Lightning's")

from involution.data import DigitScenes


def test_the_ground_of_no_scene_of_training_is_that_of_one_of_validation():
    data = DigitScenes(count=8, size=(48, 64), batch_size=4)
    data.setup("fit")
    grounds = {part: [data.sets[part][i] for i in range(2)] for part in ("train", "val")}
    for image, labels in grounds["train"]:
        for other, other_labels in grounds["val"]:
            ground = (labels == 0) & (other_labels == 0)
            assert ground.sum() > 1000
            assert not (image[0] == other[0])[ground].any()
