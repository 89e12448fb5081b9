"""Properties of nets: equivariance to shifts, consistency of predictions, receptive fields."""

import pytest
import timm
import torch
from torch import nn

import involution.models  # noqa: F401
from involution import Involution2d
from involution.data.small_images import TensorImages
from involution.studies.properties import receptive, shifts


@pytest.mark.parametrize("kernel_size", [3, 7])
@pytest.mark.parametrize("shift", [(0, 1), (2, -3), (-5, 4)])
def test_involution_of_stride_1_is_equivariant_to_translation(kernel_size, shift):
    torch.manual_seed(0)
    layer = Involution2d(32, 32, kernel_size).double().eval()
    x = torch.randn(1, 32, 24, 24, dtype=torch.float64)
    with torch.inference_mode():
        moved_after = torch.roll(layer(x), shift, (2, 3))
        moved_before = layer(torch.roll(x, shift, (2, 3)))
    # Where no window reaches what came in at a border, before or after the shift.
    margin = kernel_size // 2 + max(map(abs, shift))
    inner = (..., slice(margin, -margin), slice(margin, -margin))
    torch.testing.assert_close(moved_before[inner], moved_after[inner], rtol=0, atol=1e-15)
    assert not torch.equal(moved_before, moved_after)


def test_shifted_images():
    images = torch.arange(9.0).view(1, 1, 3, 3)
    assert shifts.shifted(images, 1, 0, "constant")[0, 0].tolist() == [[0, 0, 0], [0, 1, 2], [3, 4, 5]]
    assert shifts.shifted(images, 0, -1, "reflect")[0, 0].tolist() == [[1, 2, 1], [4, 5, 4], [7, 8, 7]]
    assert torch.equal(shifts.shifted(images, 0, 0, "constant"), images)


class Brightest(nn.Module):
    """The class is the column of the brightest pixel, or nothing of it."""

    def __init__(self, invariant):
        super().__init__()
        self.invariant = invariant

    def forward(self, images):
        columns = images.amax((1, 2))
        return columns.sort(1).values if self.invariant else columns


def test_consistency_tells_what_a_shift_changes():
    images = torch.zeros(5, 1, 9, 9)
    images[:, :, 4, 4] = 1
    assert shifts.consistency(Brightest(True), images, [1, 2], "constant") == {1: 100.0, 2: 100.0}
    # Shifts up and down leave the column.
    assert shifts.consistency(Brightest(False), images, [1, 2], "constant") == {1: 50.0, 2: 50.0}


def test_the_radius_of_a_known_field():
    strength = torch.zeros(11, 11)
    strength[5, 2] = strength[5, 8] = 0.5
    assert receptive.radius(strength) == pytest.approx(3.0)
    assert receptive.share_within(strength, 0.9) == 7
    single = torch.zeros(11, 11)
    single[3, 3] = 1.0
    assert receptive.radius(single) == 0.0 and receptive.share_within(single, 1.0) == 1


def test_a_larger_kernel_reaches_further():
    def radius(**options):
        torch.manual_seed(0)
        net = timm.create_model("rednet14_eighth", zero_init_last=False, **options)
        images = torch.randn(4, 3, 48, 48)
        strength = receptive.field(receptive.calibrated(net, images), images, 2)
        assert not net.training and strength[:4].sum() == 0
        assert strength.shape == (48, 48) and strength.sum().item() == pytest.approx(1.0, abs=1e-5)
        return receptive.radius(strength)

    assert radius(kernel_size=7) > 1.2 * radius(kernel_size=3)


class Differences(nn.Module):
    """A map that red raises and green lowers, and red of the pixel to the left raises twice as much."""

    def forward_intermediates(self, x, indices, intermediates_only):
        red, green = x[:, :1], x[:, 1:2]
        return [red - green + 2 * red.roll(1, 3)]


def test_what_two_channels_do_to_a_pixel_adds_up_also_where_one_undoes_the_other():
    strength = receptive.field(Differences(), torch.zeros(2, 3, 4, 6), 0)
    expected = torch.zeros(4, 6)
    expected[2, 2] = expected[2, 3] = 0.5
    torch.testing.assert_close(strength, expected)


def test_calibration_leaves_every_norm_the_momentum_that_it_had():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4, momentum=0.03))
    images = torch.randn(5, 3, 12, 12)
    receptive.calibrated(net, images)
    assert (net[1].momentum, net[3].momentum) == (0.1, 0.03)
    normalised = net[1](net[0](images))
    torch.testing.assert_close(normalised.mean((0, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)


def test_accuracy_is_a_percentage_over_all_batches():
    images = torch.zeros(4, 1, 3, 3, dtype=torch.uint8)
    images[torch.arange(4), 0, 1, torch.tensor([0, 1, 2, 0])] = 255
    labelled = TensorImages(images, torch.tensor([0, 1, 1, 2]), [0], [1])
    assert shifts.accuracy(Brightest(False), labelled) == 50.0
    assert shifts.accuracy(Brightest(False), labelled, batch_size=3) == 50.0
