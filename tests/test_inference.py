"""Layers with the norm, the addition and the activation that follow them, against the modules one after the other."""

import pytest
import timm
import torch
from folding import with_statistics
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import involution.models  # noqa: F401
from involution import Involution1d, Involution2d, backends, inference
from involution.backends import native
from involution.operators import generation as fused

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
def test_norms_and_biases_with_gaps_in_memory():
    layer, norm, x = nn.Conv2d(16, 32, 1), norm_of(32), torch.randn(2, 16, 9, 8)
    layer.bias = nn.Parameter(torch.randn(64)[::2])
    norm.running_mean = torch.randn(64)[::2]
    torch.testing.assert_close(inference.apply(layer, norm, nn.ReLU(), x), norm(layer(x)).relu(), rtol=1e-4, atol=1e-4)
    out, gaps = torch.empty(2, 32, 9, 8), torch.randn(64)[::2]
    with pytest.raises(ValueError, match="follow each other in memory"):
        torch.ops.involution.pointwise(out, False, None, x, layer.weight, [1, 1], gaps, *[None] * 4, 0.0, False)


@torch.no_grad()
def test_what_does_not_fit_is_refused():
    x = torch.randn(1, 16, 5, 5)
    for layer in (nn.Conv2d(16, 64, 1), Involution2d(16, 64).eval()):
        with pytest.raises(ValueError, match="must have 64 channels"):
            inference.apply(layer, norm_of(32), nn.ReLU(), x)
    layer = Involution2d(16).eval()
    layer.kernel_generator.span = nn.Conv2d(8, 49, 1)
    with pytest.raises(ValueError, match="make no kernel field"):
        layer(x)
    norm, x = nn.BatchNorm2d(16), x.to(memory_format=torch.channels_last)
    norm.weight = nn.Parameter(torch.ones(8))
    with torch.enable_grad(), pytest.raises(RuntimeError):
        inference.apply(nn.Conv2d(16, 16, 1), norm, nn.ReLU(), x)


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


def small_net(**arguments):
    arguments = {"layers": (3, 1, 1, 1), "channels": (32, 32, 32, 32), "num_classes": 5} | arguments
    return with_statistics(timm.create_model("rednet26", **arguments))


@torch.no_grad()
def test_compiled_graphs_take_the_same_passes(passes):
    net = small_net(layers=(2, 1, 1, 1)).double()
    model, x = nn.Sequential(net.conv1, net.layer1), torch.randn(2, 3, 35, 24, dtype=torch.float64)
    expected = model(x)
    eager = len(passes)
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    for images in (x, x.to(memory_format=torch.channels_last)):
        passes.clear()
        torch.testing.assert_close(compiled(images), expected)
        assert len(passes) == eager
    smaller = x[:1, :, :20, :18]
    torch.testing.assert_close(compiled(smaller), model(smaller))
    with backends.use("reference"):
        passes.clear()
        torch._dynamo.reset()
        torch.testing.assert_close(compiled(x), expected)
        assert not passes


def test_compiled_by_inductor_and_with_gradients(passes):
    model, x = small_net(layers=(2, 1, 1, 1), stem="small"), torch.randn(2, 3, 24, 24)
    expected = model(x)
    with torch.inference_mode():
        torch.testing.assert_close(torch.compile(model, fullgraph=True)(x), expected.detach(), rtol=1e-4, atol=1e-4)
    assert passes
    passes.clear()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")(x)
    torch.testing.assert_close(compiled, expected, rtol=1e-4, atol=1e-4)
    compiled.sum().backward()
    assert not passes
    assert all(p.grad is not None for p in model.parameters())


@torch.no_grad()
def test_the_operators_of_compiled_graphs():
    layer, norm, x = (
        Involution2d(32).eval(),
        norm_of(32),
        torch.randn(2, 32, 9, 7).to(memory_format=torch.channels_last),
    )
    last = inference.steps(norm, nn.ReLU(), torch.float32)
    span, hidden = layer.kernel_generator.span, layer.kernel_generator.hidden(x)
    y = torch.empty_like(x)
    arguments = (y, x, hidden, span.weight, span.bias, 2, (7, 7), (1, 1), (3, 3), (1, 1), *last)
    torch.library.opcheck(fused.inference, arguments)
    for add, residual in ((False, None), (False, torch.randn_like(x)), (True, None)):
        weight = torch.randn(32, 32, 1, 1)
        torch.library.opcheck(inference.pointwise, (y.normal_(), add, residual, x, weight, (1, 1), *last))
    with FlopCounterMode(display=False) as counted:
        fused.inference(*arguments)
        inference.pointwise(y, False, None, x, weight, (1, 1), *last)
    assert counted.get_total_flops() == 2 * 2 * 63 * (32 * 32 + 49 * 32 + 8 * 2 * 49)


WATCHED = [
    "layer1.0",
    "layer1.0.act3",
    "layer1.0.conv3",
    "layer1.1",
    "layer1.1.conv1",
    "layer1.0.downsample.1",
    "layer1",
]


# Not what goes into a ReLU in place, which changes it itself.
@pytest.mark.parametrize(
    ("name", "before"),
    [(name, before) for name in WATCHED for before in (False, True) if (name[-4:], before) != ("act3", True)],
)
@torch.no_grad()
def test_nothing_that_somebody_saw_is_overwritten(name, before):
    model, x = small_net(), torch.randn(1, 3, 32, 32)
    seen = []

    def keep(*values):
        seen.extend((v, v.clone()) for value in values[1:] for v in (value if isinstance(value, tuple) else (value,)))

    module = model.get_submodule(name)
    (module.register_forward_pre_hook if before else module.register_forward_hook)(keep)
    model(x)
    assert seen
    for now, then in seen:
        torch.testing.assert_close(now, then, rtol=0, atol=0)


@torch.no_grad()
def test_a_stage_leaves_its_input_and_saves_the_memory_of_its_blocks():
    model, x = small_net(), torch.randn(1, 128, 8, 8)
    then = x.clone()
    blocks = type(model.layer1)(*list(model.layer1)[1:])
    y = blocks(x)
    assert torch.equal(x, then)
    torch.testing.assert_close(y, blocks[1](blocks[0](x)))
    pointers = []
    kernel = native.pointwise
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "pointwise", lambda y, *rest: pointers.append(y.data_ptr()) or kernel(y, *rest))
        y = model.layer1(torch.randn(1, 64, 8, 8))
    assert pointers.count(y.data_ptr()) == 4, "the projection and three results in one place"
    features = timm.create_model("rednet26", features_only=True, layers=(2, 1, 1, 1)).eval()
    images = torch.randn(1, 3, 64, 64)
    maps = features(images)
    with torch.enable_grad():
        for one, other in zip(maps, features(images), strict=True):
            torch.testing.assert_close(one, other.detach(), rtol=1e-4, atol=1e-4)
