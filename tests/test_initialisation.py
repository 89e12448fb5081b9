"""Nets that are built without memory and initialised afterwards, as FSDP and other tools for large nets do it."""

import pytest
import timm
import torch

import involution.models  # noqa: F401 registers the nets
from involution import Involution1d, Involution2d, Involution3d
from involution.kernel_generation import SpanMatrix
from involution.models.axial import AxialAttention, PositionSensitiveAttention
from involution.upsampling import CARAFE

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


def of_layer(kind, kernel_size=3):
    return Involution2d(256, 256, kernel_size, groups=16, kernel_generator=kind).kernel_generator


def of_pytorch():
    matrix = SpanMatrix(256, 3, 16, bias=True, dims=2)
    matrix.reset_parameters()
    return matrix


# Xavier's normal has the variance 2 / (inputs + outputs), Kaiming's of fan-out 2 / outputs, and PyTorch's own convolutions
# are uniform with the variance 1 / (3 · inputs).
SPREADS = {
    "bottleneck": (
        lambda: of_layer("bottleneck"),
        {"reduce.weight": (2 / 64) ** 0.5, "span.weight": (2 / (16 * 9)) ** 0.5},
    ),
    "linear": (lambda: of_layer("linear"), {"span.weight": (2 / (16 * 9)) ** 0.5}),
    "attention": (
        lambda: of_layer("attention"),
        {"query.weight": 1 / 16, "key.weight": 1 / 16, "relative_position": 0.02},
    ),
    "stand-alone attention": (
        lambda: of_layer("sasa", 7),
        {"query.weight": 1 / 16, "key.weight": 1 / 16, "offsets": 0.02},
    ),
    "local relation": (lambda: of_layer("local_relation"), {"query.weight": (2 / 272) ** 0.5}),
    "outlook": (lambda: of_layer("outlook", 5), {"attention.weight": 0.02}),
    "SAN": (
        lambda: of_layer("san_patchwise"),
        {"query.weight": (1 / (3 * 256)) ** 0.5, "key.weight": (1 / (3 * 256)) ** 0.5},
    ),
    "a matrix by itself": (of_pytorch, {"weight": (1 / (3 * 256)) ** 0.5, "bias": (1 / (3 * 256)) ** 0.5}),
    "CARAFE": (
        lambda: CARAFE(256),
        {"channel_compressor.weight": (2 / (256 + 64)) ** 0.5, "content_encoder.weight": 0.001},
    ),
    "axial attention": (lambda: AxialAttention(256), {"qkv.weight": 1 / 16}),
    # The offsets of a head have twice its 32 channels.
    "axial attention with positions": (
        lambda: PositionSensitiveAttention(256),
        {"qkv.weight": 1 / 16, "offsets": 32**-0.5},
    ),
}


@pytest.mark.parametrize(("make", "expected"), SPREADS.values(), ids=SPREADS)
def test_spreads_are_those_of_the_papers(make, expected):
    found: dict[str, list[torch.Tensor]] = {name: [] for name in expected}
    for name, parameter in make().named_parameters():
        for key in expected.keys() & {name, name.rpartition(".")[0]}:
            found[key].append(parameter.detach().flatten())
    measured = {name: torch.cat(values).std().item() for name, values in found.items()}
    assert measured == pytest.approx(expected, rel=0.1)
