"""How an image and its labels are scaled and cropped together."""

import pytest
import torch

pytest.importorskip("lightning", reason="the DataModules are Lightning's")

from involution.data.segmentation_transforms import random_resize_crop


def test_labels_are_scaled_by_the_pixels_whose_centres_are_nearest():
    classes = torch.tensor([[0, 1, 2, 3]] * 4, dtype=torch.uint8)
    pixels, cropped = random_resize_crop(classes.expand(3, -1, -1), classes, (2, 2), (2, 2), 1)
    assert cropped.tolist() == [[1, 3], [1, 3]] and cropped.dtype == torch.uint8
    assert pixels.shape == (3, 2, 2)
