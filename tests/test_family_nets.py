"""The nets that RedNet is compared with, as timm serves them."""

import family_definitions as definitions
import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

import involution.models
from involution import Involution1d, Involution2d
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


@pytest.mark.parametrize("kind", [{}, {"feature_cls": "fx"}], ids=["usual", "fx"])
@pytest.mark.parametrize("name", SMALL)
def test_features_only(name, kind):
    net = small(name, features_only=True, **kind).eval()
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


@pytest.mark.parametrize("pool", ["avg", "catavgmax"])
def test_the_width_before_san_s_classifier(pool):
    net = small("san10_patchwise", global_pool=pool).eval()
    hidden = net.forward_head(net.forward_features(torch.randn(1, 3, 64, 64)), pre_logits=True)
    assert net.head_hidden_size == hidden.shape[1] == net.fc.in_features == net.get_classifier().in_features
    assert net.get_classifier(name_only=True) == "fc"
    net.reset_classifier(5)
    assert net.head_hidden_size == net.fc.in_features and not net.fc.training


@pytest.mark.parametrize("name", SMALL)
def test_every_net_is_made_where_and_as_it_is_asked_for(name):
    net = small(name, device="meta", dtype=torch.float64)
    tensors = [value for value in net.state_dict().values() if value.is_floating_point()]
    assert {(value.device.type, value.dtype) for value in tensors} == {("meta", torch.float64)}


def test_san_gives_the_maps_of_its_stages():
    net, x = small("san10_patchwise").eval(), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        last, maps = net.forward_intermediates(x)
        assert [tuple(m.shape[1:]) for m in maps] == [
            (info["num_chs"], 64 // info["reduction"], 64 // info["reduction"]) for info in net.feature_info
        ]
        assert maps[-1] is last and torch.equal(last, net.forward_features(x))
        early, two = net.forward_intermediates(x, [0, 2], stop_early=True)
        assert [torch.equal(a, b) for a, b in zip(two, (maps[0], maps[2]), strict=True)] == [
            True,
            True,
        ] and early is two[1]
        (only,) = net.forward_intermediates(x, 1, intermediates_only=True)
        assert torch.equal(only, last)
        with pytest.raises(ValueError, match="output_fmt must be 'NCHW', got 'NLC'"):
            net.forward_intermediates(x, output_fmt="NLC")
        for indices in (0, 6, [5], [-6], []):
            with pytest.raises(ValueError, match="indices must be"):
                net.forward_intermediates(x, indices)
        assert torch.equal(net.forward_intermediates(x, [-2], intermediates_only=True)[0], maps[3])
        getter = small("san10_patchwise", features_only=True, feature_cls="getter", out_indices=(1, 3)).eval()
        getter.model.load_state_dict(net.state_dict(), strict=False)
        for found, expected in zip(getter(x), (maps[1], maps[3]), strict=True):
            assert torch.equal(found, expected)
        assert not any(key.startswith(("stage4", "fc")) for key in getter.state_dict())
        assert net.prune_intermediate_layers([0, 2]) == [0, 2]
        assert not hasattr(net, "stage3") and net.num_features == net.feature_info[2]["num_chs"]
        assert torch.equal(net(x), maps[2])


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


def test_groups_of_local_relation():
    net = on_meta("lrnet26", groups=4)
    assert {module.groups for module in net.modules() if isinstance(module, Involution2d)} == {4}


def test_stand_alone_attention_is_the_default_and_gives_way():
    plain = on_meta("sasa_resnet26", spatial_layer="convolution", kernel_size=5)
    assert isinstance(plain.layer1[0].conv2, nn.Conv2d)
    net = on_meta("sasa_resnet26", stem="involution", group_channels=8, kernel_size=5)
    assert isinstance(net.layer1[0].conv2, StandAloneAttention) and net.conv1[3].groups == 4
    assert net.layer1[0].conv2.kernel_generator.window.kernel_size == (5, 5)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("sasa_resnet26", {}),
        ("sasa_resnet26", {"stem": "involution"}),
        ("sasa_resnet26", {"stem": "small"}),
        ("lrnet26", {}),
        ("rednet26", {"stem": "plain"}),
        ("resnet26_half", {}),
    ],
)
def test_timm_is_told_where_the_first_convolution_is(name, arguments):
    net = on_meta(name, **arguments)
    assert isinstance(net.get_submodule(net.pretrained_cfg["first_conv"]), nn.Conv2d)
    # Where it changes it for images of another number of channels.
    assert net.get_submodule(net.pretrained_cfg["first_conv"]).in_channels == 3


@pytest.mark.parametrize("name", ["sasa_resnet26", "lrnet26"])
def test_without_weights_it_is_said_where_some_are(name):
    with pytest.raises(RuntimeError, match=f"there are no weights of {name}. What comes with this library: "):
        timm.create_model(name, pretrained=True)


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
            r"padding_mode='reflect' by \(3, 3\) pixels needs a map of at least \(4, 4\), got \(3, 4\); use larger images",
        ),
        (
            lambda: small("axial_resnet26s")(torch.zeros(1, 3, 96, 64)),
            r"a map of 24 pixels is longer than the span of 17 .* create the net with a larger img_size",
        ),
        (
            lambda: small("axial_resnet26s", stem_width=8),
            "AxialResNet takes no stem_width: width says it; leave it out",
        ),
        (lambda: small("axial_resnet26s", cardinality=2), "AxialResNet takes no cardinality: it is of convolutions"),
        *(
            (
                lambda name=name: small("lrnet26", **{name: "x"}),
                f"LRNet takes no {name}: its layers are local relation l",
            )
            for name in ("spatial_layer", "kernel_generator", "reduction")
        ),
        *(
            (
                lambda name=name: small("lrnet26", **{name: "x"}),
                f"LRNet takes no {name}: its stem has a local relation l",
            )
            for name in ("stem", "stem_kernel_size", "stem_type", "stem_width")
        ),
        *(
            (
                lambda name=name: small("sasa_resnet26", **{name: 4}),
                f"sasa_resnet26 takes no {name}: its layers are att",
            )
            for name in ("kernel_generator", "groups", "group_channels", "reduction")
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


def test_a_san_drops_of_the_pooled_map_in_training_alone():
    net = small("san10_patchwise", drop_rate=0.5)
    x = torch.ones(4, net.num_features, 2, 2)
    torch.manual_seed(0)
    dropped = net.train().forward_head(x, pre_logits=True)
    assert dropped.unique().tolist() == [0, 2] and 0.3 < (dropped == 0).float().mean() < 0.7
    assert torch.equal(net.eval().forward_head(x, pre_logits=True), torch.ones(4, net.num_features))
