"""RedNet as timm serves it."""

import copy
import re

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

import involution.models
from involution import Involution2d

NARROW = ("rednet14_eighth", "rednet26_half", "resnet14_eighth", "resnet26_half")
PARAMETERS = {26: 9_233_166, 38: 12_386_986, 50: 15_540_806, 101: 25_652_950, 152: 33_984_582}


def create(name="rednet26", **kwargs):
    return timm.create_model(name, **kwargs)


def on_meta(name, **kwargs):
    with torch.device("meta"):
        return timm.create_model(name, **kwargs)


def count(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("depth", PARAMETERS)
def test_parameter_counts(depth):
    assert count(on_meta(f"rednet{depth}")) == PARAMETERS[depth]
    assert f"{PARAMETERS[depth]:,}" in getattr(involution.models, f"rednet{depth}").__doc__


def test_every_registered_rednet_has_a_count():
    names = {name for name in timm.list_models("re[ds]net*") if hasattr(involution.models, name)}
    assert names == {*(f"rednet{depth}" for depth in PARAMETERS), *NARROW}


@pytest.mark.parametrize("name", NARROW)
def test_narrow_nets_have_the_count_that_they_state(name):
    parameters = count(on_meta(name, num_classes=10))
    assert f"{parameters:,} parameters with 10 classes" in getattr(involution.models, name).__doc__


def test_depthwise_convolutions_are_static_kernels_of_the_same_size():
    net = create("rednet26_half", spatial_layer="depthwise", kernel_size=7, output_stride=16)
    layers = [block.conv2 for stage in (net.layer1, net.layer2, net.layer4) for block in stage]
    assert {(m.kernel_size, m.groups == m.in_channels, m.bias) for m in layers} == {((7, 7), True, None)}
    features = net.eval().forward_features(torch.randn(1, 3, 64, 64))
    assert features.shape == (1, 1024, 4, 4)
    with pytest.raises(ValueError, match="needs an odd kernel size to keep the size of maps, got 4"):
        on_meta("rednet26", spatial_layer="depthwise", kernel_size=4)


def test_the_convolutional_control_is_resnet():
    control = create("rednet50", spatial_layer="convolution", stem="plain").eval()
    resnet = timm.create_model("resnet50").eval()
    resnet.load_state_dict(control.state_dict())
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(control(x), resnet(x))


def test_no_spatial_convolution_is_left_in_the_stages():
    model = on_meta("rednet50")
    spatial = [name for name, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1)]
    assert spatial == ["conv1.0", "conv1.6"]
    involutions = {name: m for name, m in model.named_modules() if isinstance(m, Involution2d)}
    assert len(involutions) == 17
    assert involutions["conv1.3"].kernel_size == (3, 3)
    assert {m.kernel_size for name, m in involutions.items() if name != "conv1.3"} == {(7, 7)}
    assert {m.in_channels // m.groups for m in involutions.values()} == {16}
    assert [m.stride for m in involutions.values() if m.stride != (1, 1)] == [(2, 2)] * 3


def test_forward_backward_and_resolution():
    model = create(num_classes=5, drop_path_rate=0.1)
    y = model(torch.randn(2, 3, 65, 50))
    assert y.shape == (2, 5)
    y.sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize(
    ("output_stride", "reductions"), [(32, [4, 8, 16, 32]), (16, [4, 8, 16, 16]), (8, [4, 8, 8, 8])]
)
def test_features_only(output_stride, reductions):
    model = create(features_only=True, out_indices=(1, 2, 3, 4), in_chans=4, output_stride=output_stride)
    assert model.feature_info.channels() == [256, 512, 1024, 2048]
    assert model.feature_info.reduction() == reductions
    features = model(torch.randn(1, 4, 64, 96))
    assert [f.shape[2:] for f in features] == [(64 // r, 96 // r) for r in reductions]


def test_dilation_reaches_the_involutions():
    model = on_meta("rednet26", output_stride=16)
    assert model.layer4[0].conv2.stride == (1, 1)
    # RedNet-26 has one block in its last stage, and the first block keeps the dilation of the stage before it.
    deeper = on_meta("rednet50", output_stride=16)
    assert [block.conv2.dilation for block in deeper.layer4] == [(1, 1), (2, 2), (2, 2)]
    assert [block.conv2.padding for block in deeper.layer4] == [(3, 3), (6, 6), (6, 6)]


def test_forward_intermediates():
    model = create().eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        last, intermediates = model.forward_intermediates(x, indices=[0, 2, 4])
        assert [tuple(f.shape[1:]) for f in intermediates] == [(64, 32, 32), (512, 8, 8), (2048, 2, 2)]
        torch.testing.assert_close(last, model.forward_features(x))


def test_gradient_checkpointing_gives_the_same_gradients():
    model = create(num_classes=3)
    twin = copy.deepcopy(model)
    twin.set_grad_checkpointing(True)
    x = torch.randn(2, 3, 48, 48)
    model(x).square().sum().backward()
    twin(x).square().sum().backward()
    for (name, p), q in zip(model.named_parameters(), twin.named_parameters(), strict=True):
        torch.testing.assert_close(p.grad, q[1].grad, msg=lambda m, name=name: f"{name}: {m}")


def test_reset_classifier_and_feature_extraction():
    model = create(num_classes=0).eval()
    with torch.inference_mode():
        assert model(torch.randn(1, 3, 64, 64)).shape == (1, 2048)
    model.reset_classifier(7)
    with torch.inference_mode():
        assert model(torch.randn(1, 3, 64, 64)).shape == (1, 7)


def test_group_matcher_sorts_every_parameter():
    from timm.models import group_parameters

    model = on_meta("rednet26")
    matcher = model.group_matcher(coarse=True)
    groups = group_parameters(model, matcher)
    assert sum(map(len, groups.values())) == len(list(model.parameters()))
    assert any("conv1.3.kernel_generator" in name for name in groups[0])
    assert all(re.match(matcher["stem"], name) for name in groups[0])


def test_stems():
    assert on_meta("rednet26", stem_kernel_size=7).conv1[3].kernel_size == (7, 7)
    assert isinstance(on_meta("rednet26", stem="deep").conv1[3], nn.Conv2d)
    plain = on_meta("rednet26", stem="plain")
    assert plain.conv1.kernel_size == (7, 7)
    assert plain.pretrained_cfg["first_conv"] == "conv1"
    small = create(stem="small", channels=(16, 32, 64, 128), num_classes=10)
    assert small.forward_features(torch.randn(1, 3, 32, 32)).shape == (1, 512, 4, 4)
    assert small.conv1.weight.shape == (16, 3, 3, 3)
    assert on_meta("rednet26", stem="small").conv1.weight.shape == (64, 3, 3, 3)
    shallow = on_meta("rednet26", layers=(1, 1, 2, 1))
    assert [len(getattr(shallow, f"layer{stage}")) for stage in (1, 2, 3, 4)] == [1, 1, 2, 1]
    features = create(stem="small", features_only=True)
    assert features.feature_info.reduction() == [1, 1, 2, 4, 8]


@pytest.mark.parametrize("kind", ["fx", "hook"])
def test_features_by_other_ways_of_timm(kind):
    models = []
    for options in ({}, {"feature_cls": kind}):
        torch.manual_seed(0)
        models.append(create(features_only=True, out_indices=(1, 3), **options).eval())
    model, expected = models
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for one, other in zip(model(x), expected(x), strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "millions"),
    [
        ({"kernel_size": 3}, 14.7),
        ({"kernel_size": 5}, 15.1),
        ({"kernel_size": 9}, 16.2),
        ({"group_channels": 1}, 30.2),
        ({"group_channels": 4}, 18.5),
        ({"groups": 1}, 14.6),
        ({"kernel_generator": "linear"}, 18.1),
        ({"reduction": 1}, 19.4),
        ({"reduction": 16}, 14.6),
    ],
    ids=str,
)
def test_ablations_have_the_published_size(arguments, millions):
    assert round(count(on_meta("rednet50", stem="plain", **arguments)) / 1e6, 1) == pytest.approx(millions, abs=0.1)


def test_own_spatial_layer():
    def layer(in_channels, out_channels, *, stride, dilation, device, dtype):
        return nn.Conv2d(
            in_channels, out_channels, 5, stride, 2 * dilation[0], dilation, in_channels, device=device, dtype=dtype
        )

    model = create(spatial_layer=layer, kernel_generator="attention")
    assert model.layer1[0].conv2.kernel_size == (5, 5)
    attention = create(kernel_generator="attention", num_classes=3)
    attention(torch.randn(1, 3, 48, 48)).sum().backward()


def test_initialisation_is_the_recipes():
    model = create()
    assert all(torch.count_nonzero(m.bn3.weight) == 0 for m in model.modules() if hasattr(m, "bn3"))
    assert model.fc.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert torch.count_nonzero(model.fc.bias) == 0
    for convolution in (m for m in model.modules() if isinstance(m, nn.Conv2d) and m.weight.numel() > 20_000):
        fan_out = convolution.out_channels * convolution.kernel_size[0] * convolution.kernel_size[1]
        assert convolution.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)


def test_norm_layer_reaches_phi():
    model = on_meta("rednet26", norm_layer=lambda channels, **kwargs: nn.GroupNorm(1, channels, **kwargs))
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())


def test_saving_and_loading_from_a_local_folder(tmp_path):
    import json

    from safetensors.torch import save_file

    model = create(num_classes=4, kernel_size=5).eval()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    config = {
        "architecture": "rednet26",
        "num_classes": 4,
        "model_args": {"kernel_size": 5},
        "pretrained_cfg": {"input_size": [3, 64, 64], "first_conv": "conv1.0", "classifier": "fc", "num_classes": 4},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(loaded(x), model(x))
    fine_tuned = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=9, in_chans=1)
    assert fine_tuned.fc.out_features == 9
    assert fine_tuned.conv1[0].in_channels == 1
    assert torch.equal(fine_tuned.layer1[0].conv1.weight, model.layer1[0].conv1.weight)


def test_compiled_and_exported():
    model = create(num_classes=3).eval().to(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 48, 64).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        expected = model(x)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")(x)
        torch.testing.assert_close(compiled, expected, atol=1e-5, rtol=1e-4)
    exported = torch.export.export(model, (x,)).module()
    torch.testing.assert_close(exported(x), model(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"stem": "deeper"}, r"unknown stem 'deeper'; expected one of 'involution', 'deep', 'plain', 'small'"),
        ({"spatial_layer": "attention"}, r"unknown spatial_layer 'attention'; expected 'involution', 'convolution' or"),
        ({"kernel_size": 4}, r"padding='same' needs an odd kernel size"),
        ({"kernel_generator": "dense"}, r"unknown kernel generator 'dense'"),
        ({"group_channels": 24}, r"divisible by group_channels"),
        (
            {"block": nn.Identity},
            "RedNet takes no block: its blocks are bottlenecks around spatial_layer; leave it out",
        ),
        ({"stem_type": "deep"}, "RedNet takes no stem_type: stem names its stem; leave it out"),
        (
            {"cardinality": 32, "base_width": 4},
            "RedNet takes no cardinality: it is of convolutions; groups and group_c",
        ),
        ({"spatial_layer": "depthwise", "cardinality": 32}, "RedNet takes no cardinality"),
        ({"stem": "plain", "stem_width": 64}, "RedNet takes no stem_width: the stem 'plain' has a width of its own"),
        ({"stem": "small", "stem_width": 64}, "RedNet takes no stem_width: the stem 'small' has a width of its own"),
        (
            {"stem": "small", "replace_stem_pool": True},
            "RedNet takes no replace_stem_pool: the stem 'small' has no pool",
        ),
    ],
)
def test_refusals(arguments, words):
    with pytest.raises(ValueError, match=words):
        on_meta("rednet26", **arguments)


@pytest.mark.parametrize("stem", ["involution", "deep"])
def test_the_width_of_a_deep_stem(stem):
    net = on_meta("rednet26", stem=stem, stem_width=64)
    assert net.conv1[0].out_channels == 64 and net.conv1[-1].out_channels == net.layer1[0].conv1.in_channels == 128
    assert isinstance(net.conv1[3], Involution2d) == (stem == "involution")


def test_what_timms_blocks_take_beside_the_spatial_layer():
    net = create("rednet26", num_classes=2, channels=(16, 16, 32, 32), block_args={"attn_layer": "se"}).eval()
    assert type(net.layer1[0].se).__name__ == "SEModule" and isinstance(net.layer1[0].conv2, Involution2d)
    assert net(torch.randn(1, 3, 64, 64)).shape == (1, 2)
    assert count(on_meta("rednet26", block_args={})) == PARAMETERS[26]


def test_convolutions_in_groups():
    with torch.device("meta"):
        resnext = timm.create_model("resnext50_32x4d").state_dict()
    control = on_meta("rednet50", spatial_layer="convolution", stem="plain", cardinality=32, base_width=4).state_dict()
    assert {key: value.shape for key, value in control.items()} == {key: value.shape for key, value in resnext.items()}


def test_pretrained_says_where_weights_are(tmp_path):
    with pytest.raises(RuntimeError) as error:
        create("rednet50", pretrained=True)
    sentence = str(error.value)
    assert "the links of the authors' code are dead; PaddleClas has its own at https://" in sentence
    assert "involution convert RedNet50_pretrained.pdparams rednet50.safetensors" in sentence
    # What it tells to do works.
    file = tmp_path / "rednet26.safetensors"
    weights = create("rednet26")
    save_file(weights.state_dict(), file)
    loaded = create("rednet26", pretrained=True, pretrained_cfg_overlay={"file": str(file)})
    assert torch.equal(loaded.fc.weight, weights.fc.weight)
