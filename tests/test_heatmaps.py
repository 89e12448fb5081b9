import numpy as np
import pytest
import torch
from torch import nn

from involution import Involution1d, Involution2d
from involution.pictures.heatmaps import colours, heat_map, kernel_fields, kernel_heat_maps, mosaic, overlay, with_scale


class Shared(nn.Module):
    """Calls one involution twice, and another once."""

    def __init__(self):
        super().__init__()
        self.head = Involution2d(16, kernel_size=3, group_channels=4)
        self.last = Involution2d(16, kernel_size=5, stride=2)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        return self.last(self.dropout(self.head(self.head(x))))


def test_heat_map_sums_the_taps():
    field = torch.randn(2, 3, 5, 7, 4, 6, dtype=torch.float64)
    maps = heat_map(field)
    assert maps.shape == (2, 3, 4, 6)
    assert maps[1, 2, 3, 5].item() == pytest.approx(
        sum(field[1, 2, u, v, 3, 5].item() for u in range(5) for v in range(7))
    )
    assert heat_map(torch.ones(2, 3, 5, 4)).unique().tolist() == [5]


def test_maps_are_those_of_the_kernels_that_were_used():
    model = Shared()
    model.train()
    model.dropout.eval()
    images = torch.randn(2, 16, 9, 9)
    statistics = [b.clone() for b in model.buffers()]
    fields, maps = kernel_fields(model, images), kernel_heat_maps(model, images)
    assert list(fields) == list(maps) == ["head", "head:2", "last"]
    assert fields["last"].shape == (2, 1, 5, 5, 5, 5) and maps["head"].shape == (2, 4, 9, 9)
    assert all(torch.equal(heat_map(fields[name]), maps[name]) for name in maps)
    assert model.training and not model.dropout.training
    assert all(torch.equal(a, b) for a, b in zip(statistics, model.buffers()))
    assert not model.head._forward_hooks
    model.eval()
    assert torch.equal(fields["head"], model.head.generate_kernel(images).field())
    assert torch.equal(fields["head:2"], model.head.generate_kernel(model.head(images)).field())
    assert not fields["head"].requires_grad


def test_chosen_layers_and_any_generator():
    def constant(x):
        return torch.full((len(x), 1, 3, 3, *x.shape[2:]), 2.0)

    model = nn.Sequential(Involution2d(4, kernel_size=3), Involution2d(4, kernel_size=3, kernel_generator=constant))
    maps = kernel_heat_maps(model, torch.randn(1, 4, 6, 6), layers=["1"])
    assert list(maps) == ["1"] and maps["1"].unique().tolist() == [18]
    assert kernel_heat_maps(Involution1d(8), torch.randn(2, 8, 9))[""].shape == (2, 1, 9)


def test_a_layer_that_is_called_by_the_name_of_its_argument():
    class ByName(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = Involution2d(16, kernel_size=3)

        def forward(self, x):
            return self.layer(input=x)

    model, x = ByName(), torch.randn(1, 16, 5, 6)
    assert torch.equal(kernel_fields(model, x)["layer"], kernel_fields(model.layer, x)[""])


def test_refusals():
    with pytest.raises(ValueError, match="no involution is called '2'; expected one of 0, 1"):
        kernel_heat_maps(nn.Sequential(Involution2d(4), Involution2d(4)), torch.randn(1, 4, 6, 6), layers=["2"])
    with pytest.raises(ValueError, match="Sequential has no involution, so it has no kernel field"):
        kernel_heat_maps(nn.Sequential(nn.Conv2d(4, 4, 3)), torch.randn(1, 4, 6, 6))
    with pytest.raises(ValueError, match=r"image must be uint8 of shape \(1, H, W\) or \(3, H, W\), got torch.float32"):
        overlay(torch.rand(3, 8, 8), torch.rand(4, 4))


def test_hooks_are_removed_when_the_model_fails():
    model = nn.Sequential(Involution2d(4), nn.Linear(1, 1)).train()
    with pytest.raises(RuntimeError):
        kernel_heat_maps(model, torch.randn(1, 4, 6, 6))
    assert model.training and not model[0]._forward_hooks


def test_mosaic_puts_each_kernel_into_its_pixels_place():
    kernels = torch.randn(3, 2, 4, 5)
    picture = mosaic(kernels)
    assert picture.shape == (12, 10)
    assert torch.equal(picture[3:6, 8:10], kernels[:, :, 1, 4])


def test_colours():
    maps = torch.stack([torch.tensor([[0.0, 1.0], [2.0, 4.0]]), torch.full((2, 2), 7.0)])
    picture = colours(maps, "gray")
    assert picture.shape == (2, 2, 2, 3) and picture.dtype == torch.uint8
    assert picture[0, :, :, 0].flatten().tolist() == [0, 64, 128, 255]
    assert picture[1].unique().tolist() == [128]
    assert colours(maps[0], "gray", (0, 2))[1, :, 0].tolist() == [255, 255]


def test_overlay_mixes_image_and_enlarged_map():
    image = torch.zeros(1, 8, 8, dtype=torch.uint8)
    values = torch.tensor([[0.0, 0.0], [0.0, 1.0]])
    picture = overlay(image, values, opacity=0.5, colormap="gray")
    assert picture.shape == (8, 8, 3) and picture.dtype == torch.uint8
    assert picture[0, 0].tolist() == [0, 0, 0] and picture[7, 7].tolist() == [128, 128, 128]
    assert torch.equal(overlay(image + 200, values, opacity=0)[3, 3], torch.full((3,), 200, dtype=torch.uint8))


def test_colours_stand_for_the_numbers_of_the_map_and_not_of_its_enlargement():
    image = torch.zeros(1, 8, 8, dtype=torch.uint8)
    values = torch.zeros(4, 4)
    values[1, 1] = 10
    picture = overlay(image, values, opacity=1, colormap="gray")
    # Halfway between pixels: 9/16 of the peak, of 256 colours.
    assert picture.max().item() == picture[2, 2, 0].item() == 256 * 9 // 16
    constant = overlay(image, torch.full((3, 3), 0.1), opacity=1, colormap="gray")
    assert (constant == constant[0, 0]).all() and 100 < constant[0, 0, 0] < 150


def test_the_scale_stands_beside_the_picture():
    picture = torch.full((60, 40, 3), 9, dtype=torch.uint8)
    shown = with_scale(picture, -1.5, 2.0)
    assert shown.height == 60 and shown.width > 60
    pixels = torch.from_numpy(np.asarray(shown).copy())
    assert torch.equal(pixels[:, :40], picture)
    bar = pixels[:, 47]
    assert torch.equal(bar[0], colours(torch.tensor([[0.0, 1.0]]))[0, 1]), "the largest is above"
    assert torch.equal(bar[-1], colours(torch.tensor([[0.0, 1.0]]))[0, 0])
    assert (pixels[:30, 58:] < 128).any() and (pixels[30:, 58:] < 128).any(), "a number each"


def test_the_largest_number_stands_above_and_the_least_below():
    def ends(low, high):
        pixels = np.asarray(with_scale(torch.zeros(60, 40, 3, dtype=torch.uint8), low, high))[:, 57:]
        return [np.flatnonzero((half < 128).any((0, 2))).max() for half in (pixels[:30], pixels[30:])]

    above, below = ends(-0.123, 1.0)
    assert below > above + 10
    above, below = ends(1.0, 1230.0)
    assert above > below + 10
