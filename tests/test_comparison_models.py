import math

import pytest
import torch
from torch import nn

from involution import Involution2d
from involution.studies.comparison.architecture import trace
from involution.studies.comparison.nets import DESIGNS, OPERATORS, VARIANTS, comparison_net, quirks


def trainable(module):
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("dataset", "operator", "parameters"),
    [
        ("mnist", "convolution", 34_826),
        ("mnist", "involution", 544),
        ("fashion_mnist", "convolution", 257_162),
        ("fashion_mnist", "involution", 3_916),
        ("cifar10", "convolution", 319_178),
        ("cifar10", "involution", 13_074),
    ],
)
def test_published_parameter_counts(dataset, operator, parameters):
    assert trainable(comparison_net(dataset, "published", operator)) == parameters


@pytest.mark.parametrize(
    ("dataset", "parameters", "layers"), [("mnist", 22, 2), ("fashion_mnist", 22, 3), ("cifar10", 24, 3)]
)
def test_published_involutions(dataset, parameters, layers):
    net = comparison_net(dataset, "published", "involution")
    involutions = [m for m in net.modules() if isinstance(m, Involution2d)]
    assert [trainable(m) for m in involutions] == [parameters] * layers
    for involution in involutions:
        generator = involution.kernel_generator
        assert (involution.groups, involution.kernel_size) == (1, (3, 3))
        assert generator.reduce.out_channels == 1 and generator.reduce.bias is not None
        # Keras counts momentum from the other end: 0.99 there is 0.01 here.
        assert (generator.norm.eps, generator.norm.momentum) == (1e-3, 0.01)


@pytest.mark.parametrize("dataset", DESIGNS)
@pytest.mark.parametrize("operator", OPERATORS)
def test_published_nets_start_as_keras_starts_them(dataset, operator):
    for module in comparison_net(dataset, "published", operator).modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            taps = module.weight[0, 0].numel() if module.weight.ndim > 2 else 1
            bound = math.sqrt(6 / (taps * (module.weight.shape[0] + module.weight.shape[1])))
            assert module.weight.abs().max() <= bound
            assert module.weight.numel() < 50 or module.weight.abs().max() > 0.8 * bound
            assert not module.bias.any()


@pytest.mark.parametrize("dataset", DESIGNS)
def test_softmax_twice_where_the_report_has_it(dataset):
    images = torch.rand(3, *DESIGNS[dataset].input_shape)
    sums = {o: comparison_net(dataset, "published", o).eval()(images).sum(1) for o in OPERATORS}
    is_probability = torch.allclose(sums["involution"], torch.ones(3), atol=1e-6)
    assert is_probability == (dataset in ("digits", "mnist"))
    assert not torch.allclose(sums["convolution"], torch.ones(3), atol=1e-3)


@pytest.mark.parametrize("dataset", DESIGNS)
def test_fair_nets_differ_in_the_spatial_operator_alone(dataset):
    layers = {o: trace(comparison_net(dataset, "fair", o), DESIGNS[dataset].input_shape) for o in OPERATORS}
    differing = [(a, b) for a, b in zip(*layers.values(), strict=True) if a != b]
    assert [(a.kind, b.kind) for a, b in differing] == [("convolution", "involution")] * len(DESIGNS[dataset].widths)
    for width, (convolution, involution) in zip(DESIGNS[dataset].widths, differing, strict=True):
        assert convolution.output_shape == involution.output_shape
        assert convolution.output_shape[0] == width
        assert convolution.kernel_size == involution.kernel_size == (3, 3)
        assert convolution.followers == involution.followers


@pytest.mark.parametrize("dataset", DESIGNS)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("operator", OPERATORS)
def test_every_net_runs_and_learns(dataset, variant, operator):
    net = comparison_net(dataset, variant, operator)
    assert net.training and all(module.training for module in net.modules())
    output = net(torch.rand(2, *DESIGNS[dataset].input_shape))
    assert output.shape == (2, 10)
    output.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_building_a_net_leaves_its_statistics_untouched():
    net = comparison_net("digits", "fair", "involution")
    assert all(not m.running_mean.any() for m in net.modules() if isinstance(m, nn.BatchNorm2d))


def test_quirks_are_stated():
    assert any("softmax twice" in sentence.lower() for sentence in quirks("mnist", "involution"))
    assert not any("softmax" in sentence.lower() for sentence in quirks("mnist", "convolution"))
    assert any("0 to 255" in sentence for sentence in quirks("cifar10", "convolution"))
    assert any("3 channels" in sentence for sentence in quirks("cifar10", "involution"))
    assert any("no digits" in sentence for sentence in quirks("digits", "convolution"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("svhn", "fair", "involution"),
            "unknown data set 'svhn'; expected one of digits, mnist, fashion_mnist, cifar10",
        ),
        (("mnist", "good", "involution"), "unknown variant 'good'; expected one of published, fair"),
        (("mnist", "fair", "attention"), "unknown operator 'attention'; expected one of convolution, involution"),
    ],
)
def test_unknown_names(arguments, words):
    with pytest.raises(ValueError) as error:
        comparison_net(*arguments)
    assert str(error.value) == words
