"""Convolutions that `replace_convolutions` leaves instead of failing for the whole net, and weights that can train."""

import pytest
import torch
from torch import nn

from involution import Involution2d, replace_convolutions


def convolution(**options):
    return nn.Conv2d(16, 16, **{"kernel_size": 3, "padding": 1, **options})


class Listed(nn.Module):
    def __init__(self, keep):
        super().__init__()
        self.conv, self.other = convolution(), convolution()
        self.layers = keep(self.conv)

    def forward(self, x):
        return self.conv(self.other(x))


@pytest.mark.parametrize(
    "keep",
    [
        lambda conv: [conv],
        lambda conv: ({"first": conv},),
        lambda conv: conv.forward,
    ],
)
def test_what_an_ordinary_attribute_would_keep_is_left(keep):
    model = Listed(keep)
    report = replace_convolutions(model)
    assert report.replaced == ("other",) and type(model.conv) is nn.Conv2d
    assert report.left[0].outcome == "it also stands in the attribute layers, which would keep it"


@pytest.mark.parametrize("size", [4, (1, 4)])
def test_an_even_kernel_with_the_same_size_is_left_where_nobody_chose_it(size):
    model = nn.Sequential(convolution(), convolution(kernel_size=size, padding="same"))
    words = "its padding is 'same', which an involution has for odd kernels alone, not for one of "
    report = replace_convolutions(model, dry_run=True)
    assert report.replaced == ("0",) and report.left[0].outcome.startswith(words)
    with pytest.raises(ValueError, match="1 cannot be replaced: padding='same' needs an odd kernel size"):
        replace_convolutions(model, lambda name, module: name == "1")
    assert replace_convolutions(model, kernel_size=5).replaced == ("0", "1")
    assert model(torch.ones(1, 16, 6, 6)).shape == (1, 16, 6, 6)


def test_a_padding_mode_that_a_generator_does_not_take_is_left_where_nobody_chose_it():
    model = nn.Sequential(convolution(), convolution(padding_mode="circular"))
    report = replace_convolutions(model, kernel_generator="attention", dry_run=True)
    assert report.replaced == ("0",) and report.left[0].outcome.startswith("padding_mode='circular' is for a φ that")
    with pytest.raises(ValueError, match="1 cannot be replaced: padding_mode='circular' is for a φ that"):
        replace_convolutions(model, lambda name, module: name == "1", kernel_generator="attention")
    with pytest.raises(ValueError, match="0 cannot be replaced: padding_mode='circular'"):
        replace_convolutions(model, kernel_generator="attention", padding_mode="circular")
    with pytest.raises(ValueError, match="1 cannot be replaced: out_channels must be divisible by groups"):
        replace_convolutions(nn.Sequential(nn.ReLU(), model[1]), groups=7)
    assert [type(layer) for layer in model] == [nn.Conv2d, nn.Conv2d]


def test_weights_made_in_inference_mode_train():
    model = nn.Sequential(convolution())
    with torch.inference_mode():
        replace_convolutions(model, input_size=(16, 5, 5))
    model(torch.randn(1, 16, 5, 5)).sum().backward()
    assert isinstance(model[0], Involution2d) and all(weight.grad is not None for weight in model.parameters())
