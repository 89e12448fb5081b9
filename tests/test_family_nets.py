"""The nets that RedNet is compared with, as timm serves them."""

import family_definitions as definitions
import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

import involution.models
from involution import Involution1d
from involution.models.axial import AlongAxis, AxialAttention, PositionSensitiveAttention
from involution.models.san import SAN, SANLayer
from involution.models.stand_alone import StandAloneAttention

# Counted from the papers' definitions and the authors' code.
PARAMETERS = {
    "axial_resnet26s": 5_944_936,
    "san10_pairwise": 10_531_848,
    "san10_patchwise": 11_841_124,
    "san15_pairwise": 14_065_436,
    "san15_patchwise": 16_181_310,
    "san19_pairwise": 17_596_156,
    "san19_patchwise": 20_518_470,
    "sasa_resnet26": 10_331_264,
    "sasa_resnet38": 14_173_384,
    "sasa_resnet50": 18_015_504,
}
NOT_REPRODUCED = ("lrnet101", "lrnet26", "lrnet50")
# The smallest of each kind, at a fraction of the width.
SMALL = {
    "axial_resnet26s": {"width": 16, "heads": 2, "img_size": 65},
    "axial_resnet26s, without positions": {"width": 16, "heads": 2, "position_sensitive": False},
    "lrnet26": {"channels": (16, 16, 32, 32)},
    "san10_pairwise": {"channels": (32, 32, 32, 32, 64, 64), "kernel_sizes": (3, 3, 3, 3, 3)},
    "san10_patchwise": {"channels": (32, 32, 32, 32, 64, 64), "kernel_sizes": (3, 3, 3, 3, 3)},
    "sasa_resnet26": {"channels": (16, 16, 32, 32), "kernel_size": 5},
}


def on_meta(name, **options):
    with torch.device("meta"):
        return timm.create_model(name, **options)


def small(name, **options):
    return timm.create_model(name.partition(",")[0], **{"num_classes": 3, **SMALL[name], **options})


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts(name):
    assert sum(p.numel() for p in on_meta(name).parameters()) == PARAMETERS[name]
    assert f"{PARAMETERS[name]:,}" in getattr(involution.models, name).__doc__


def test_every_registered_net_has_a_count_or_says_that_it_has_none():
    registered = [name for family in ("axial", "local_relation", "san", "stand_alone") for name in of(family)]
    assert sorted(registered) == sorted((*PARAMETERS, *NOT_REPRODUCED))
    assert all("not those of the paper" in getattr(involution.models, name).__doc__ for name in NOT_REPRODUCED)


def of(family):
    names = timm.list_models(module=family)
    return [name for name in names if hasattr(involution.models, name)]


@pytest.mark.parametrize("name", SMALL)
def test_odd_images_forward_and_backward(name):
    net = small(name)
    y = net(torch.randn(2, 3, 65, 64 if name.startswith("san") else 50))
    assert y.shape == (2, 3)
    y.sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())


@pytest.mark.parametrize("name", SMALL)
def test_features_only(name):
    net = small(name, features_only=True).eval()
    reductions = net.feature_info.reduction()
    assert reductions[-4:] == [4, 8, 16, 32]
    with torch.inference_mode():
        features = net(torch.randn(1, 3, 64, 64))
    assert [tuple(f.shape[1:]) for f in features] == [
        (channels, 64 // r, 64 // r) for channels, r in zip(net.feature_info.channels(), reductions, strict=True)
    ]


@pytest.mark.parametrize("name", ["san10_pairwise", "san10_patchwise"])
def test_san_is_a_net_of_timm(name):
    from timm.models import group_parameters

    net = small(name).eval()
    groups = group_parameters(net, net.group_matcher())
    assert sum(map(len, groups.values())) == len(list(net.parameters()))
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = net(x)
        net.set_grad_checkpointing(True)
        torch.testing.assert_close(net(x), expected)
        net.reset_classifier(0)
        torch.testing.assert_close(net(x), net.forward_head(net.forward_features(x), pre_logits=True))
    net.reset_classifier(7)
    assert net(x).shape == (2, 7)


def test_san_is_reflected_as_a_whole():
    """Layer and formula, with the authors' interleaved sharing of kernels."""
    layer = definitions.with_statistics(SANLayer(16, 16, 3, "pairwise"))
    x = torch.randn(1, 16, 4, 3, dtype=torch.float64)
    values, field = layer.value(x), layer.kernel_generator(x)
    # Channel c of ours takes kernel c // 8, theirs kernel c mod G.
    order = torch.arange(16).view(2, 8).t().flatten()
    expected = definitions.san_aggregation(values[:, order], field, groups=2)
    torch.testing.assert_close(layer(x)[:, order], expected)


def test_stand_alone_attention_strides_by_pooling():
    torch.manual_seed(0)
    layer = StandAloneAttention(16, 16, 3, stride=2, heads=2)
    dense = StandAloneAttention(16, 16, 3, heads=2)
    dense.load_state_dict(layer.state_dict())
    x = torch.randn(1, 16, 7, 6)
    assert layer(x).shape == (1, 16, 4, 3)
    torch.testing.assert_close(layer(x), definitions.average_pool(dense(x), 2))


@pytest.mark.parametrize("length", [4, 3])
def test_position_sensitive_attention_is_its_formula(length):
    torch.manual_seed(0)
    layer = definitions.with_statistics(PositionSensitiveAttention(16, heads=2, span=4))
    x = torch.randn(2, 16, length, dtype=torch.float64)
    torch.testing.assert_close(layer(x), definitions.position_sensitive(layer, x))


def test_axial_attention_is_position_sensitive_attention_without_embeddings():
    torch.manual_seed(0)
    sensitive = PositionSensitiveAttention(16, heads=2, span=5).double().eval()
    plain = AxialAttention(16, heads=2).double().eval()
    nn.init.zeros_(sensitive.offsets)
    # An untouched norm divides by √(1 + ε).
    sensitive.norm.eps = sensitive.product_norm.eps = plain.norm.eps = 0.0
    plain.qkv.load_state_dict(sensitive.qkv.state_dict())
    x = torch.randn(2, 16, 5, dtype=torch.float64)
    torch.testing.assert_close(sensitive(x), plain(x))


@pytest.mark.parametrize("axis", [0, 1])
def test_along_an_axis(axis):
    """The local form of axial attention: an involution along one axis is one with a flat window."""
    torch.manual_seed(0)
    layer = AlongAxis(Involution1d(16, 16, 3, groups=2, kernel_generator="sasa"), axis)
    x = torch.randn(2, 16, 4, 5)
    y = layer(x)
    line = x[1, :, :, 2] if axis == 0 else x[1, :, 2, :]
    expected = layer.layer(line[None])[0]
    torch.testing.assert_close(y[1, :, :, 2] if axis == 0 else y[1, :, 2, :], expected)
    pooled = AlongAxis(nn.AvgPool1d(2), axis)(x)
    torch.testing.assert_close(pooled, F.avg_pool2d(x, (2, 1) if axis == 0 else (1, 2)))


def test_axial_net_pools_where_resnet_strides():
    net = small("axial_resnet26s", output_stride=16)
    assert net.layer4[0].conv2[0].layer.span == 5
    assert net.forward_features(torch.randn(1, 3, 64, 64)).shape == (1, 512, 4, 4)


# A compiler takes its time for every block: few, but two in one stage.
@pytest.mark.parametrize(
    ("name", "layers"),
    [("axial_resnet26s", (1, 2, 1, 1)), ("san10_patchwise", (1, 2, 1, 1, 1)), ("sasa_resnet26", (1, 2, 1, 1))],
)
def test_compiled_and_exported(name, layers):
    net = small(name, layers=layers).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        compiled = torch.compile(net, fullgraph=True, backend="aot_eager")(x)
        torch.testing.assert_close(compiled, net(x), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(torch.export.export(net, (x,)).module()(x), net(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: SAN("triple"), r"unknown form 'triple'; expected 'pairwise' or 'patchwise'"),
        (lambda: small("san10_pairwise", layers=(1, 1)), r"every stage needs blocks, a kernel size and channels"),
        (lambda: small("san10_pairwise", channels=(64, 64, 72, 64, 64, 64)), r"channels must be multiples of 32"),
        (
            lambda: timm.create_model("san10_patchwise", layers=(1,), kernel_sizes=(7,), channels=(8, 32))(
                torch.zeros(1, 3, 7, 9)
            ),
            r"reflecting \(3, 3\) pixels needs a map of at least \(4, 4\), got \(3, 4\); use larger images",
        ),
        (
            lambda: small("axial_resnet26s")(torch.zeros(1, 3, 96, 64)),
            r"a map of 24 pixels is longer than the span of 17 .* create the net with a larger img_size",
        ),
        (lambda: AxialAttention(16, 0), r"heads must be at least 1, got 0"),
        (lambda: StandAloneAttention(16, 16, heads=0), r"heads must be at least 1, got 0"),
        (lambda: AxialAttention(24, 8), r"channels must be divisible by 2·heads, got 24 channels and 8 heads"),
        (lambda: AlongAxis(nn.Identity(), 2), r"axis must be 0 \(height\) or 1 \(width\), got 2"),
        (lambda: StandAloneAttention(16, 20), r"out_channels must be divisible by heads, got 20 channels and 8 heads"),
    ],
)
def test_refusals(call, words):
    with pytest.raises(ValueError, match=words):
        call()
