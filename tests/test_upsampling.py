"""CARAFE against its published definition."""

from itertools import product

import pytest
import torch
from torch.nn import functional as F

from involution.upsampling import CARAFE


def layer(channels=4, **options):
    torch.manual_seed(0)
    made = CARAFE(channels, compressed_channels=3, **options)
    torch.nn.init.normal_(made.content_encoder.weight)
    return made


def definition(carafe, x):
    """Kernel prediction as published, pixel shuffle before the softmax, and the sum written as loops."""
    s, k, groups = carafe.scale_factor, carafe.up_kernel, carafe.up_group
    mask = F.pixel_shuffle(carafe.content_encoder(carafe.channel_compressor(x)), s)
    (batch, channels, height, width), reach = x.shape, k // 2
    y = x.new_zeros(batch, channels, s * height, s * width)
    for b, c, i, j in product(range(batch), range(channels), range(s * height), range(s * width)):
        group = c // (channels // groups)
        weights = mask[b, group * k * k : (group + 1) * k * k, i, j].softmax(0).view(k, k)
        for u, v in product(range(k), repeat=2):
            m, n = i // s + u - reach, j // s + v - reach
            if 0 <= m < height and 0 <= n < width:
                y[b, c, i, j] += weights[u, v] * x[b, c, m, n]
    return y


@pytest.mark.parametrize(
    "options",
    [
        {"up_kernel": 3},
        {"up_kernel": 3, "up_group": 2, "encoder_dilation": 2},
        {"scale_factor": 3},
        {"scale_factor": 1},
    ],
    ids=str,
)
def test_it_is_the_published_definition(options):
    carafe = layer(**options).double()
    x = torch.randn(1, 4, 3, 2, dtype=torch.float64)
    torch.testing.assert_close(carafe(x), definition(carafe, x))


def test_gradients_by_differences():
    carafe = layer(2, up_kernel=3).double()
    x = torch.randn(1, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(carafe, x)


def test_names_and_shapes_are_mmcvs():
    shapes = {name: tuple(value.shape) for name, value in CARAFE(8).state_dict().items()}
    assert shapes == {
        "channel_compressor.weight": (64, 8, 1, 1),
        "channel_compressor.bias": (64,),
        "content_encoder.weight": (100, 64, 3, 3),
        "content_encoder.bias": (100,),
    }


def test_untrained_it_averages():
    x = torch.ones(1, 4, 8, 8)
    torch.testing.assert_close(CARAFE(4, up_kernel=3)(x)[..., 2:-2, 2:-2], torch.ones(1, 4, 12, 12))


def test_compiled_exported_and_in_half_precision():
    carafe = layer(8).eval()
    x = torch.randn(2, 8, 5, 6)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(carafe, fullgraph=True, backend="aot_eager")(x), carafe(x))
        size = {2: torch.export.Dim("height", min=2, max=64), 3: torch.export.Dim("width", min=2, max=64)}
        exported = torch.export.export(carafe, (x,), dynamic_shapes=(size,)).module()
        other = torch.randn(2, 8, 4, 9)
        torch.testing.assert_close(exported(other), carafe(other))
        expected = carafe(x)
        half = carafe.bfloat16()(x.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), expected, atol=0.1, rtol=0.1)


def test_a_tuple_of_one_number_is_that_number():
    assert repr(CARAFE((8,), scale_factor=(3,))) == repr(CARAFE(8, scale_factor=3))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: CARAFE(8, up_kernel=4), r"up_kernel and encoder_kernel must be odd, got 4 and 3"),
        (lambda: CARAFE(8, up_group=3), r"channels must be divisible by up_group, got 8 channels and 3 groups"),
        (lambda: CARAFE(8, 0), r"scale_factor must be at least 1, got 0"),
        (lambda: CARAFE(8, (2, 2)), r"scale_factor must be an int, got \(2, 2\)"),
        (
            lambda: CARAFE(8)(torch.zeros(1, 4, 5, 5)),
            r"4 dimensions, 8 channels in the second, got shape \(1, 4, 5, 5\)",
        ),
    ],
)
def test_refusals(call, words):
    with pytest.raises(ValueError, match=words):
        call()
