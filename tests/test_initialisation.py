"""Nets that are built without memory and initialised afterwards, as FSDP and other tools for large nets do it."""

import pytest
import timm
import torch

import involution.models  # noqa: F401 registers the nets
from involution import Involution1d, Involution2d, Involution3d
from involution.kernel_generation import SpanMatrix

PHIS = (
    "bottleneck", "linear", "attention", "sasa", "san_pairwise", "san_patchwise", "local_relation", "outlook",
)  # fmt: skip
NETS = [name for name in timm.list_models() if timm.model_entrypoint(name).__module__.startswith("involution.")]


def reset(net):
    """Initialise every module that has a way to, the inner ones first."""
    net.apply(lambda module: getattr(module, "reset_parameters", lambda: None)())


def materialised(make):
    """Return what ``make`` builds, built without memory; what is not initialised is NaN."""
    with torch.device("meta"):
        net = make()
    net.to_empty(device="cpu")
    for tensor in (*net.parameters(), *net.buffers()):
        if tensor.is_floating_point():
            tensor.data.fill_(float("nan"))
    reset(net)
    return net


def spreads(net):
    """Return the standard deviation of every parameter; of one of few numbers it says little, if it has one."""
    assert all(p.isfinite().all() for p in net.parameters())
    return {name: p.detach().std(correction=0).item() for name, p in net.named_parameters() if p.numel() >= 64}


@pytest.mark.parametrize("name", NETS)
def test_whatever_holds_parameters_can_initialise_them(name):
    with torch.device("meta"):
        net = timm.create_model(name)
    holders = [m for m in net.modules() if [*m.parameters(recurse=False), *m.buffers(recurse=False)]]
    assert {type(m).__name__ for m in holders if not hasattr(m, "reset_parameters")} == set()


@pytest.mark.parametrize("kind", PHIS)
@pytest.mark.parametrize("layer", [Involution1d, Involution2d, Involution3d])
def test_a_layer_without_memory_is_initialised_as_one_with(layer, kind):
    def make():
        kernel_size = 5 if kind == "outlook" else 3
        return layer(96, 48, kernel_size, group_channels=6, bias=True, kernel_generator=kind)

    assert spreads(materialised(make)) == pytest.approx(spreads(make()), rel=0.5)


def test_a_net_without_memory_is_initialised_as_one_with():
    def make():
        return timm.create_model("rednet14_eighth", num_classes=10)

    net, expected = materialised(make), spreads(make())
    net.init_weights()
    # timm's nets leave the classifier as nn.Linear initialises itself.
    del expected["fc.weight"]
    assert {name: spread for name, spread in spreads(net).items() if name in expected} == pytest.approx(
        expected, rel=0.5
    )
    assert net.eval()(torch.randn(1, 3, 32, 32)).isfinite().all()


def test_a_matrix_by_itself_holds_no_memory_of_others():
    matrix = SpanMatrix(8, 3, 2, bias=True, dims=2)
    assert not matrix.weight.any()
    assert not matrix.bias.any()
