"""Layers with the norm, the addition and the activation that follow them, against the modules one after the other."""

import pytest
import timm
import torch
from test_fold import with_statistics
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import involution.models  # noqa: F401
from involution import Involution1d, Involution2d, backends, inference
from involution.backends import native

pytestmark = pytest.mark.skipif(not native.instruction_set(), reason="the native backend was not built")

POINTWISE = [((2, 19, 7, 5), 37, 1), ((1, 64, 9, 9), 70, 2), ((3, 130, 14, 14), 16, 1), ((1, 3, 1, 1), 1, 1)]


def one_after_the_other(layer, norm, act, x, residual=None):
    y = norm(layer(x))
    return act(y if residual is None else y + residual)


def norm_of(channels, **arguments):
    norm = nn.BatchNorm2d(channels, **arguments)
    return with_statistics(nn.Sequential(norm))[0] if norm.affine else norm.eval()


@pytest.fixture
def passes(monkeypatch):
    """Count the calls of the kernel for 1×1 convolutions."""
    calls = []
    kernel = native.pointwise
    monkeypatch.setattr(native, "pointwise", lambda *arguments: calls.append(1) or kernel(*arguments))
    return calls


@pytest.mark.parametrize(("size", "channels", "stride"), POINTWISE)
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=["last", "contiguous"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("rest", ["norm", "norm, relu", "residual, relu", "bias", "no weights"])
@torch.no_grad()
def test_pointwise_convolution(size, channels, stride, layout, dtype, rest, passes):
    layer = nn.Conv2d(size[1], channels, 1, stride=stride, bias="bias" in rest).to(dtype)
    norm = nn.Identity() if rest == "bias" else norm_of(channels, affine=rest != "no weights").to(dtype)
    act = nn.ReLU(inplace=True) if "relu" in rest else nn.Identity()
    x = torch.randn(size, dtype=dtype).to(memory_format=layout)
    residual = torch.randn_like(layer(x)) if "residual" in rest else None
    y = inference.apply(layer, norm, act, x, residual)
    assert len(passes) == 1
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, one_after_the_other(layer, norm, act, x, residual), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_pointwise_of_slices_and_nan(passes):
    layer, norm = nn.Conv2d(8, 20, 1), norm_of(20)
    x = torch.randn(2, 12, 9, 9).to(memory_format=torch.channels_last)[:, 2:10, 1:8, ::2]
    x[1, 3, 2, 2] = torch.nan
    y = inference.apply(layer, norm, nn.ReLU(), x)
    assert len(passes) == 1
    torch.testing.assert_close(y, norm(layer(x)).relu(), equal_nan=True)
    assert y[1, :, 2, 2].isnan().all()
    assert y.isnan().sum() == 20


@pytest.mark.parametrize("kind", ["stride", "bias", "value", "linear", "attention", "3×3 convolution"])
@torch.no_grad()
def test_other_layers(kind):
    arguments = {
        "stride": {"stride": 2},
        "bias": {"bias": True},
        "value": {"out_channels": 48},
        "linear": {"kernel_generator": "linear"},
        "attention": {"kernel_generator": "attention"},
    }
    layer = nn.Conv2d(32, 48, 3, bias=False) if kind not in arguments else Involution2d(32, **arguments[kind])
    layer = with_statistics(layer)
    if kind == "bias":
        nn.init.normal_(layer.bias)
    x = torch.randn(2, 32, 13, 9)
    norm = norm_of(layer.out_channels)
    for residual in (None, torch.randn_like(layer(x))):
        y = inference.apply(layer, norm, nn.ReLU(), x, residual)
        expected = one_after_the_other(layer, norm, nn.ReLU(), x, residual)
        torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_one_dimension(passes):
    layer, norm = with_statistics(Involution1d(32)), nn.BatchNorm1d(32).eval()
    x = torch.randn(2, 32, 40)
    y = inference.apply(layer, norm, nn.ReLU(), x)
    assert len(passes) == 1
    layer.fused = False
    torch.testing.assert_close(y, norm(layer(x)).relu(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("arguments", [{}, {"spatial_layer": "convolution"}, {"stem": "plain"}, {"output_stride": 16}])
def test_rednet_equals_itself_with_gradients(arguments, passes):
    model = with_statistics(timm.create_model("rednet26", num_classes=5, **arguments)).double()
    x = torch.randn(2, 3, 75, 64, dtype=torch.float64).to(memory_format=torch.channels_last)
    expected = model(x).detach()
    assert not passes
    with torch.inference_mode():
        torch.testing.assert_close(model(x), expected)
    assert len(passes) > 16


def test_everything_that_has_to_be_seen_is_seen(passes):
    model = with_statistics(timm.create_model("rednet26", num_classes=5)).double()
    x = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        y = model(x)
        one_pass = len(passes)
        seen = []
        watched = (model.layer1[0].bn1, model.layer1[0].conv2, model.conv1[4], model.layer1[0].downsample[1])
        handles = [m.register_forward_hook(lambda module, i, o: seen.append(module)) for m in watched]
        torch.testing.assert_close(model(x), y)
        assert set(seen) == set(watched)
        assert len(passes) < 2 * one_pass
        for handle in handles:
            handle.remove()
        passes.clear()
        with FlopCounterMode(display=False) as counter:
            model(x)
        with backends.use("reference"):
            torch.testing.assert_close(model(x), y)
        with torch.autocast("cpu", torch.bfloat16):
            model.float()(x.float())
        model.double()
        model.train()(torch.randn(2, 3, 32, 32, dtype=torch.float64))
    assert not passes
    model.eval()
    with FlopCounterMode(display=False) as recorded:
        model(x)
    assert counter.get_total_flops() == recorded.get_total_flops()


@torch.no_grad()
def test_a_subclass_with_its_own_forward_is_called():
    class Doubled(Involution2d):
        def forward(self, input):
            return 2 * super().forward(input)

    layer, norm, x = Doubled(16).eval(), norm_of(16), torch.randn(1, 16, 5, 5)
    torch.testing.assert_close(inference.apply(layer, norm, nn.Identity(), x), norm(layer(x)))
