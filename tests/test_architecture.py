import re
from xml.etree import ElementTree

import pytest
import torch
from torch import nn

from involution import Involution2d
from involution.counting import count
from involution.studies.comparison.architecture import trace
from involution.studies.comparison.drawing import draw
from involution.studies.comparison.nets import OPERATORS, comparison_net


@pytest.mark.parametrize("variant", ["published", "fair"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_the_steps_add_up_to_the_network(variant, operator):
    net = comparison_net("fashion_mnist", variant, operator)
    layers, cost = trace(net, (1, 28, 28)), count(net, (1, 28, 28))
    assert sum(layer.params + layer.follower_params for layer in layers) == cost.params
    assert sum(layer.macs for layer in layers) == cost.macs
    assert sum(layer.is_spatial for layer in layers) == 3
    assert layers[-1].output_shape == (10,)


def test_steps_in_words():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Identity(),
        Involution2d(8, kernel_size=5, groups=2, stride=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.25),
        nn.Linear(8, 2),
    ).train()
    layers = trace(net, (3, 9, 9))
    assert [layer.title for layer in layers] == [
        "1×1 convolution, 3 → 8",
        "5×5 involution, 8 → 8",
        "average pooling",
        "flatten",
        "fully connected, 8 → 2",
    ]
    assert [layer.kind for layer in layers] == ["projection", "involution", "pooling", "reshape", "linear"]
    assert layers[0].followers == ("BN", "ReLU") and layers[0].follower_params == 16
    assert layers[1].generator == ("1×1, 8 → 2", "BN", "ReLU", "1×1, 2 → 50") and layers[1].groups == 2
    assert layers[1].output_shape == (8, 5, 5)
    assert layers[3].followers == ("dropout 0.25",)
    assert net.training and not any(module._forward_hooks for module in net.modules())


def test_a_generator_that_is_a_function():
    layer = Involution2d(4, kernel_size=3, kernel_generator=lambda x: torch.ones(len(x), 1, 3, 3, *x.shape[2:]))
    assert trace(nn.Sequential(layer), (4, 5, 5))[0].generator == ("a function",)


def test_what_both_nets_share_is_drawn_once():
    layers = {o: trace(comparison_net("digits", "fair", o), (1, 8, 8)) for o in OPERATORS}
    svg = draw(layers, (1, 8, 8))
    ElementTree.fromstring(svg)
    assert svg.count("1×1 convolution, 1 → 32") == 1 and svg.count("fully connected, 256 → 10") == 1
    assert svg.count("3×3 convolution, 32 → 32") == svg.count("3×3 involution, 32 → 32") == 1
    assert svg.count('class="card involution"') == svg.count('class="card convolution"') == 2
    assert "φ makes 8 kernels of 3×3 for every pixel" in svg and "φ makes 16 kernels" in svg
    assert svg.count("10 classes") == 1
    # Inside the drawing's box.
    width, height = map(float, re.search(r'viewBox="0 -2 (\d+) (\d+)"', svg).groups())
    for x, y, w, h in re.findall(
        r'<rect class="card \w+" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"', svg
    ):
        assert float(x) + float(w) <= width and float(y) + float(h) <= height


def test_nets_of_different_length_and_text_that_needs_escaping():
    class Odd(nn.Module):
        def forward(self, x):
            return x

    Odd.__name__ = "a<b"
    short, long = nn.Sequential(nn.Conv2d(1, 4, 3)), nn.Sequential(nn.Conv2d(1, 4, 3), Odd(), nn.ReLU())
    svg = draw({"one": trace(short, (1, 8, 8)), "two": trace(long, (1, 8, 8))}, (1, 8, 8))
    ElementTree.fromstring(svg)
    assert "a&lt;b" in svg
    with pytest.raises(ValueError, match="two networks are drawn side by side, got 1"):
        draw({"one": trace(short, (1, 8, 8))}, (1, 8, 8))
