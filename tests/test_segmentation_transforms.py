"""What becomes of labels, colours and the finest lines of images that are scaled, cropped and distorted."""

import colorsys

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("lightning", reason="the transforms are of Lightning's DataModules")

from involution.data import SegmentationTransforms
from involution.data.segmentation_transforms import distort, random_resize_crop
from involution.models.segmentation_inference import segment


def test_labels_are_scaled_by_the_pixels_whose_centres_are_nearest():
    classes = torch.tensor([[0, 1, 2, 3]] * 4, dtype=torch.uint8)
    pixels, cropped = random_resize_crop(classes.expand(3, -1, -1), classes, (2, 2), (2, 2), 1)
    assert cropped.tolist() == [[1, 3], [1, 3]] and cropped.dtype == torch.uint8
    assert pixels.shape == (3, 2, 2)


def test_distortion_turns_the_hue_by_a_tenth_at_most():
    # So dark and so far from grey that no channel is cut off, which would change the hue as well.
    colour = 0.5, 0.3, 0.35
    hue = colorsys.rgb_to_hsv(*colour)[0]
    turns = []
    for seed in range(100):
        torch.manual_seed(seed)
        red, green, blue = distort(torch.tensor(colour).view(3, 1, 1)).flatten().tolist()
        turn = abs(colorsys.rgb_to_hsv(red, green, blue)[0] - hue)
        turns.append(min(turn, 1 - turn))
    assert 0.08 < max(turns) <= 0.1 + 1e-4
    assert min(turns) < 1e-4


@pytest.mark.parametrize("row", range(30, 34))
def test_a_line_of_one_pixel_is_no_darker_and_no_brighter_in_a_smaller_image(row):
    line = np.zeros((64, 64, 3), np.uint8)
    line[row] = 255
    pixels = torch.from_numpy(line).permute(2, 0, 1)
    transforms = SegmentationTransforms(image_size=(16, 16), mean=(0, 0, 0), std=(1, 1, 1))
    evaluated = transforms.evaluate(Image.fromarray(line))
    assert evaluated.shape == (3, 16, 16) and evaluated.mean().item() == pytest.approx(1 / 64, rel=0.03)
    trained, _ = random_resize_crop(pixels, torch.zeros(64, 64, dtype=torch.uint8), (16, 16), (16, 16), 1)
    assert trained.shape == (3, 16, 16) and trained.double().mean().item() == pytest.approx(255 / 64, rel=0.03)
    seen = []
    segment(lambda view: seen.append(view) or view, pixels[None].float(), scales=(0.25,))
    assert seen[0].shape == (1, 3, 16, 16) and seen[0].mean().item() == pytest.approx(255 / 64, rel=1e-3)
