import copy
import io
import pickle

import pytest
import timm
import torch
import torchvision
from timm.layers import BatchNormAct2d, FrozenBatchNormAct2d
from torch import nn
from torch.nn import functional as F
from torchvision.ops import FrozenBatchNorm2d

import involution.models  # noqa: F401
from involution import Involution1d, Involution2d, Involution3d, fold_batch_norms, replace_convolutions
from involution.models.detection import mask_rcnn, retinanet
from involution.models.segmentation import semantic_fpn, upernet

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, FrozenBatchNorm2d, FrozenBatchNormAct2d)
TOLERANCE = {torch.float64: 1e-11, torch.float32: 1e-5, torch.bfloat16: 0.03, torch.float16: 0.005}


def settled(model, *size):
    """Give every norm the statistics of ``batch(*size)``, and weights that a wrong folding would show."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.3)
        elif isinstance(module, (FrozenBatchNorm2d, FrozenBatchNormAct2d)):
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2)
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(std=0.3)
    with torch.no_grad():
        model.train()(batch(*size))
    return model.eval()


def batch(*size, dtype=torch.float32):
    """Return inputs that are always the same: the products in involutions make new ones grow with depth."""
    return torch.randn(size, generator=torch.Generator().manual_seed(1)).to(dtype)


def norms(model):
    return [name for name, module in model.named_modules() if isinstance(module, BATCH_NORMS)]


def leaves(outputs):
    if isinstance(outputs, dict):
        outputs = list(outputs.values())
    return [leaf for output in outputs for leaf in leaves(output)] if isinstance(outputs, (list, tuple)) else [outputs]


def assert_same(folded, model, x):
    """Compare all outputs, each relative to its magnitude."""
    with torch.inference_mode():
        found, expected = leaves(folded(x.clone())), leaves(model(x.clone()))
    for a, b in zip(found, expected, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert b.isfinite().all()
        assert (a - b).abs().max() <= TOLERANCE[b.dtype] * b.abs().max()


def assert_no_less_exact(folded, model, x):
    """Compare a deep net in float32 with itself in float64, which rounding alone takes further than one layer."""
    exact = copy.deepcopy(model).double()
    with torch.inference_mode():
        outputs = zip(leaves(folded(x)), leaves(model(x)), leaves(exact(x.double())), strict=True)
    for a, b, c in outputs:
        assert (a - c).abs().max() <= max(2 * (b - c).abs().max(), 1e-5 * c.abs().max())


def left(report):
    return {entry.norm: entry.outcome for entry in report.left}


def folded_as_reported(model, x):
    """Fold ``model``, check the result and that the report speaks of every norm, and return both."""
    folded, report = fold_batch_norms(model)
    assert_same(folded, model, x)
    assert [entry.norm for entry in report.norms] == norms(model)
    assert [entry.norm for entry in report.left] == norms(folded)
    assert {entry.norm for entry in report.folded} == set(norms(model)) - set(norms(folded))
    return folded, report


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rednet_loses_all_its_norms(dtype):
    model = settled(timm.create_model("rednet26", num_classes=5), 4, 3, 64, 64).to(dtype)
    state = copy.deepcopy(model.state_dict())
    folded, report = fold_batch_norms(model)
    (assert_no_less_exact if dtype == torch.float32 else assert_same)(folded, model, batch(4, 3, 64, 64, dtype=dtype))
    assert norms(folded) == [] and report.left == () and report.untraced == {}
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert type(folded) is type(model)
    block = folded.layer1[0]
    assert isinstance(block.bn2, nn.Identity) and isinstance(block.act2, nn.Identity) and block.conv2.relu
    # The first and the last ReLU of a block follow a convolution and an addition.
    assert isinstance(block.act1, nn.ReLU) and isinstance(block.act3, nn.ReLU)
    assert block.conv2.kernel_generator.reduce.bias is not None
    assert folded.conv1[3].relu and isinstance(folded.conv1[5], nn.Identity)
    assert not model.layer1[0].conv2.relu and model.layer1[0].conv2.scale is None


NETS = {
    "plain stem": (lambda: timm.create_model("rednet26", stem="plain"), 0),
    "small stem": (lambda: timm.create_model("rednet26", stem="small"), 0),
    "no ReLU": (lambda: timm.create_model("rednet26", act_layer="silu"), 0),
    "attention": (lambda: timm.create_model("rednet26", kernel_generator="attention"), 0),
    "pooling and attention": (lambda: timm.create_model("rednet26", aa_layer=nn.AvgPool2d, output_stride=16), 0),
    "convolutions": (lambda: timm.create_model("rednet26", spatial_layer="convolution"), 0),
    "levels": (lambda: timm.create_model("rednet26", features_only=True), 0),
    "replaced": (lambda: replaced(torchvision.models.resnet18()), 0),
    "frozen norms": (lambda: torchvision.models.resnet18(norm_layer=FrozenBatchNorm2d), 0),
    "norms with activations": (lambda: timm.create_model("regnetx_002"), 0),
    # Its blocks begin with norm and activation.
    "norms first": (lambda: timm.create_model("densenet121"), 62),
}


def replaced(model):
    assert replace_convolutions(model)
    return model


@pytest.mark.parametrize("name", NETS)
def test_nets(name):
    make, staying = NETS[name]
    model = settled(make(), 4, 3, 64, 64).double()
    folded, report = fold_batch_norms(model)
    assert_same(folded, model, batch(4, 3, 64, 64, dtype=torch.float64))
    assert len(report.left) == staying and len(report.folded) > 10


@pytest.mark.parametrize("make", [semantic_fpn, upernet])
def test_segmentation_nets(make):
    model = settled(make(3, "rednet26"), 2, 3, 64, 64).double()
    _, report = folded_as_reported(model, batch(2, 3, 64, 64, dtype=torch.float64))
    assert report.left == ()


@pytest.mark.parametrize("make", [retinanet, mask_rcnn])
def test_detectors(make):
    model = make(3, "rednet26", neck="involution", head="involution", min_size=64, max_size=96).eval()
    settled(model.backbone, 2, 3, 64, 64)
    folded, report = fold_batch_norms(model)
    assert report.left == () and len(report.folded) >= 40
    # The net itself branches by what it finds.
    assert "" in report.untraced
    assert_no_less_exact(folded.backbone, model.backbone, batch(2, 3, 64, 64))
    image = torch.rand(3, 64, 96)
    assert sorted(folded([image])[0]) == sorted(model([image])[0])


LAYERS = {
    "1d": (Involution1d, nn.BatchNorm1d, {}, (40,)),
    "2d": (Involution2d, nn.BatchNorm2d, {}, (9, 8)),
    "3d": (Involution3d, nn.BatchNorm3d, {"kernel_size": 3}, (5, 6, 4)),
    "stride": (Involution2d, nn.BatchNorm2d, {"stride": 2}, (9, 8)),
    "dilation": (Involution2d, nn.BatchNorm2d, {"dilation": 2, "kernel_size": 3}, (9, 8)),
    "bias": (Involution2d, nn.BatchNorm2d, {"bias": True}, (9, 8)),
    "wider": (Involution2d, nn.BatchNorm2d, {"out_channels": 32}, (9, 8)),
    "linear": (Involution2d, nn.BatchNorm2d, {"kernel_generator": "linear"}, (9, 8)),
    "synchronised": (Involution2d, nn.SyncBatchNorm, {}, (9, 8)),
    "not affine": (Involution2d, lambda n: nn.BatchNorm2d(n, affine=False), {}, (9, 8)),
    "frozen": (Involution2d, FrozenBatchNorm2d, {}, (9, 8)),
    "with activation": (Involution2d, BatchNormAct2d, {}, (9, 8)),
    "frozen with activation": (Involution2d, FrozenBatchNormAct2d, {}, (9, 8)),
}


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_an_involution_takes_norm_and_relu_along(name, relu):
    make, norm, arguments, size = LAYERS[name]
    layer = make(16, **arguments)
    if layer.bias is not None:
        nn.init.normal_(layer.bias)
    rest = [nn.Identity(), nn.ReLU(inplace=True)] if relu else [nn.Sigmoid()]
    model = nn.Sequential(layer, nn.Identity(), norm(layer.out_channels), *rest)
    if norm is nn.SyncBatchNorm:
        model[2].running_mean.normal_()
        model[2].running_var.uniform_(0.5, 2)
        model.eval()
    else:
        settled(model, 4, 16, *size)
    x = torch.randn(2, 16, *size, dtype=torch.float64)
    folded, report = fold_batch_norms(model.double())
    assert_same(folded, model, x)
    has_act = norm in (BatchNormAct2d, FrozenBatchNormAct2d)
    assert report.left == () and folded[0].relu is (relu or has_act)
    assert type(folded[2]) is nn.Identity
    assert type(folded[-1]) is (nn.Sigmoid if not relu else nn.ReLU if has_act else nn.Identity)
    assert report.norms[-1].activation == ("2.act" if has_act else "4" if relu else None)
    # What is folded once more stays as it is.
    again, report = fold_batch_norms(folded)
    assert report.norms == () and torch.equal(again(x), folded(x))


def test_two_norms_after_one_layer():
    for first in (Involution2d(16), nn.Conv2d(16, 16, 3)):
        model = settled(nn.Sequential(first, nn.BatchNorm2d(16)), 4, 16, 8, 8).double()
        once, _ = fold_batch_norms(model)
        twice = settled(nn.Sequential(once[0], nn.BatchNorm2d(16)).float(), 4, 16, 8, 8).double()
        folded_as_reported(twice, torch.randn(2, 16, 8, 8, dtype=torch.float64))


CONVOLUTIONS = {
    "1d": (nn.Conv1d(8, 16, 3), nn.BatchNorm1d(16), (9,)),
    "2d": (nn.Conv2d(8, 16, 3, stride=2, groups=4, bias=False), nn.BatchNorm2d(16), (9, 8)),
    "3d": (nn.Conv3d(8, 16, 3), nn.BatchNorm3d(16, affine=False), (5, 6, 4)),
    "frozen": (nn.Conv2d(8, 16, 3, padding_mode="reflect", padding=1), FrozenBatchNorm2d(16), (9, 8)),
    "with activation": (nn.Conv2d(8, 16, 1), BatchNormAct2d(16, act_layer=nn.SiLU), (9, 8)),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name):
    conv, norm, size = CONVOLUTIONS[name]
    model = settled(nn.Sequential(conv, norm), 4, 8, *size).double()
    folded, report = fold_batch_norms(model)
    assert_same(folded, model, torch.randn(2, 8, *size, dtype=torch.float64))
    assert type(folded[1]) is (nn.SiLU if isinstance(norm, BatchNormAct2d) else nn.Identity)
    assert report.norms[0].layer == "0" and report.norms[0].activation is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    layers = [nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16), Involution2d(16), nn.BatchNorm2d(16), nn.ReLU()]
    model = settled(nn.Sequential(*layers), 4, 16, 9, 9).to(dtype)
    folded, _ = folded_as_reported(model, torch.randn(2, 16, 9, 9, dtype=dtype))
    assert {value.dtype for value in folded.state_dict().values()} == {dtype}


def test_memory_format_and_frozen_weights_stay():
    layers = [nn.Conv2d(8, 16, 3, bias=False), nn.BatchNorm2d(16), Involution2d(16), nn.BatchNorm2d(16), nn.ReLU()]
    model = settled(nn.Sequential(*layers), 4, 8, 9, 9).to(memory_format=torch.channels_last)
    model[0].requires_grad_(False)
    model[3].requires_grad_(False)
    x = torch.randn(2, 8, 9, 9).to(memory_format=torch.channels_last)
    folded, _ = folded_as_reported(model, x)
    assert folded[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert folded(x).is_contiguous(memory_format=torch.channels_last)
    flags = {name: value.requires_grad for name, value in folded.named_parameters()}
    assert not flags["0.weight"] and flags["0.bias"] and not flags["2.scale"] and not flags["2.bias"]
    assert flags["2.kernel_generator.reduce.weight"]


def test_a_folded_net_is_saved_copied_and_pickled():
    make = lambda: timm.create_model("rednet26", num_classes=5)  # noqa: E731
    model, x = settled(make(), 4, 3, 64, 64), torch.randn(1, 3, 64, 64)
    folded, _ = fold_batch_norms(model)
    file = io.BytesIO()
    torch.save(folded.state_dict(), file)
    file.seek(0)
    other, _ = fold_batch_norms(make().eval())
    other.load_state_dict(torch.load(file))
    with torch.inference_mode():
        expected = folded(x)
        for net in (other, copy.deepcopy(folded), pickle.loads(pickle.dumps(folded))):
            torch.testing.assert_close(net(x), expected, rtol=0, atol=1e-6)


def test_a_folded_net_is_compiled_and_exported():
    layers = [nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), Involution2d(16), nn.BatchNorm2d(16), nn.ReLU()]
    model, x = settled(nn.Sequential(*layers), 4, 3, 9, 9), torch.randn(2, 3, 9, 9)
    folded, _ = fold_batch_norms(model)
    assert_same(torch.compile(folded, fullgraph=True), model, x)
    with torch.no_grad():
        frozen = torch.compile(folded, options={"freezing": True})
        torch.testing.assert_close(frozen(x), model(x))
    assert_same(torch.export.export(folded, (x,)).module(), model, x)


def test_gradients_flow_through_a_folded_net():
    model = settled(nn.Sequential(Involution2d(16), nn.BatchNorm2d(16), nn.ReLU()), 4, 16, 9, 9).double()
    folded, _ = fold_batch_norms(model)
    x = torch.randn(2, 16, 9, 9, dtype=torch.float64)
    gradients = []
    for net in (model, folded):
        leaf = x.clone().requires_grad_()
        net(leaf).square().sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients)
    assert folded[0].scale.grad is not None


class Flow(nn.Module):
    """A convolution and a norm, with whatever a test does to them."""

    def __init__(self, forward, layer=None):
        super().__init__()
        self.conv, self.norm = layer or nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16)
        self.linear, self.relu, self.other = nn.Linear(9, 9), nn.ReLU(), nn.BatchNorm2d(16)
        self.flow = forward

    def forward(self, x):
        return self.flow(self, x)


FLOWS = {
    "read twice": (lambda m, x: m.norm(y := m.conv(x)) + y, "the output of conv is also read by something else"),
    "layer twice": (lambda m, x: m.norm(m.conv(m.conv(x))), "conv before it is called several times"),
    "norm twice": (lambda m, x: m.norm(m.norm(m.conv(x))), "it is called several times"),
    "weight read": (lambda m, x: m.norm(m.conv(x)) + m.conv.weight.sum(), "conv before it is called several times"),
    "after a layer": (lambda m, x: m.norm(m.linear(x)), "it follows linear, a Linear"),
    "after a function": (lambda m, x: m.norm(m.conv(x) + x), "it follows a call of add"),
    "after a method": (lambda m, x: m.norm(m.conv(x).sigmoid()), "it follows a call of sigmoid"),
    "first": (lambda m, x: m.norm(x), "it follows the input of the model"),
    "not called": (lambda m, x: m.conv(x), "no traced forward calls it"),
}


@pytest.mark.parametrize("name", FLOWS)
def test_why_a_norm_is_left(name):
    flow, reason = FLOWS[name]
    model = settled(Flow(flow), 2, 16, 9, 9)
    folded, report = folded_as_reported(model, torch.randn(2, 16, 9, 9))
    assert left(report)["norm"] == f"left: {reason}"
    assert norms(folded) == ["norm", "other"]


def straight(model, x):
    return model.relu(model.norm(model.conv(x)))


def without_statistics(model):
    model.norm = nn.BatchNorm2d(16, track_running_stats=False)


def as_subclass(model):
    model.norm = type("Louder", (nn.BatchNorm2d,), {"forward": lambda self, x: 2 * nn.BatchNorm2d.forward(self, x)})(16)


def in_training(model):
    model.norm.train()


def sharing_a_weight(model):
    model.twin = nn.Conv2d(16, 16, 1)
    model.twin.weight = model.conv.weight


def with_two_names(model):
    model.again = model.norm


def with_a_forward_of_its_own(model):
    model.conv.forward = lambda x: 2 * F.conv2d(x, torch.ones(16, 16, 1, 1))


def dropping(model):
    model.norm = BatchNormAct2d(16, drop_layer=nn.Dropout)


def with_a_layer_in_a_replaced_forward(model):
    model.forward = lambda x: model.relu(model.norm(2 * model.conv(x)))


def of_another_class(model):
    model.conv = type("Halved", (nn.Conv2d,), {"forward": lambda self, x: nn.Conv2d.forward(self, x) / 2})(16, 16, 1)


CHANGES = {
    without_statistics: "it has no running statistics and takes those of each batch",
    as_subclass: "its class Louder may do more than a batch norm",
    in_training: "it is in training mode",
    sharing_a_weight: "conv shares a weight with another module",
    with_two_names: "norm is registered under several names",
    with_a_forward_of_its_own: "the forward of conv has been replaced",
    dropping: "it drops values by a Dropout",
    with_a_layer_in_a_replaced_forward: "no traced forward calls it; what comes before it is unknown where torch.fx "
    "cannot trace",
    of_another_class: "it follows a call of truediv",
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_no_plain_convolution_and_norm_is_left(change):
    model = settled(Flow(straight), 2, 16, 9, 9)
    change(model)
    model = model if change is in_training else model.eval()
    x = torch.randn(2, 16, 9, 9)
    folded, report = fold_batch_norms(model)
    assert left(report)["norm"] == f"left: {CHANGES[change]}"
    assert_same(folded, model, x)


# The names of the four lists of hooks are PyTorch's own business: here it shows when they change.
WATCHERS = [
    lambda m: m.register_forward_hook(lambda module, inputs, output: output + 1),
    lambda m: m.register_forward_pre_hook(lambda module, inputs: (inputs[0] + 1,)),
    lambda m: m.register_full_backward_hook(lambda module, before, after: None),
    lambda m: m.register_full_backward_pre_hook(lambda module, before: None),
]


@pytest.mark.parametrize("watch", WATCHERS)
@pytest.mark.parametrize("watched", ["0", "1.0", "1"])
def test_watched_modules_are_left(watch, watched):
    model = nn.Sequential(Involution2d(16), nn.Sequential(nn.BatchNorm2d(16), nn.Sigmoid()), nn.ReLU())
    settled(model, 2, 16, 9, 9)
    watch(model.get_submodule(watched))
    x = torch.randn(2, 16, 9, 9)
    folded, report = fold_batch_norms(model)
    assert left(report) == {"1.0": f"left: {watched} is watched by a hook"}
    assert_same(folded, model, x)


def test_hooks_around_a_chain_stay_and_see_no_symbols():
    seen = []
    model = settled(nn.Sequential(nn.Sequential(Involution2d(16), nn.BatchNorm2d(16)), nn.ReLU()), 2, 16, 9, 9)
    model[0].register_forward_hook(lambda module, inputs, output: seen.append(type(output)))
    folded, report = folded_as_reported(model, torch.randn(2, 16, 9, 9))
    assert report.left == () and seen == [torch.Tensor, torch.Tensor]
    # The ReLU outside would change what the hook sees.
    assert not folded[0][0].relu and report.norms[-1].outcome.endswith("1 stays: 0 is watched by a hook")


RELUS = {
    "used twice": (lambda m, x: m.relu(m.linear(m.relu(m.norm(m.conv(x))))), "relu stays: it is called several times"),
    "a function": (lambda m, x: F.relu(m.norm(m.conv(x))), "the ReLU after it is no module and stays"),
    "a method": (lambda m, x: m.norm(m.conv(x)).relu(), "the ReLU after it is no module and stays"),
    "norm read twice": (lambda m, x: m.relu(y := m.norm(m.conv(x))) + y, ""),
    "an addition before": (lambda m, x: m.relu(m.norm(m.conv(x)) + x), ""),
}


@pytest.mark.parametrize("name", RELUS)
def test_relus_that_stay(name):
    flow, note = RELUS[name]
    model = settled(Flow(flow, Involution2d(16)), 2, 16, 9, 9)
    folded, report = folded_as_reported(model, torch.randn(2, 16, 9, 9))
    assert not folded.conv.relu and isinstance(folded.relu, nn.ReLU)
    (entry,) = (entry for entry in report.norms if entry.norm == "norm")
    assert entry.outcome == "in scale and bias of Involution2d" + (f"; {note}" if note else "")


def test_what_fx_cannot_trace_is_folded_child_by_child():
    class Untraceable(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), Involution2d(16))
            self.shared = nn.Conv2d(16, 16, 1)
            self.a, self.b = nn.BatchNorm2d(16), nn.BatchNorm2d(16)

        def forward(self, x):
            x = self.body(x)
            return self.a(self.shared(x)) + self.b(self.shared(x)) if x.sum() > -1e9 else x

    model = settled(Untraceable(), 2, 3, 8, 8)
    folded, report = folded_as_reported(model, torch.randn(2, 3, 8, 8))
    assert norms(folded) == ["a", "b"]
    reason = "no traced forward calls it; what comes before it is unknown where torch.fx cannot trace"
    assert left(report) == {"a": f"left: {reason}", "b": f"left: {reason}"}
    assert list(report.untraced) == [""] and "control flow" in report.untraced[""]


def test_the_search_leaves_no_trace_in_what_a_module_keeps():
    class Keeping(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.last = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16)), None
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            self.last = self.body(x)
            return self.last

    model = Keeping().eval()
    folded, report = fold_batch_norms(model)
    assert report.left == () and model.last is None and folded.last is None and model.calls == folded.calls == 0


def test_the_report_prints_as_a_table():
    model = nn.Sequential(nn.Conv2d(3, 16, 1), nn.BatchNorm2d(16), Involution2d(16), nn.BatchNorm2d(16), nn.ReLU())
    model.append(nn.BatchNorm2d(16))
    assert str(fold_batch_norms(model.eval())[1]).splitlines() == [
        "3 of 4 batch norms folded",
        "layer                      norm                     activation  what was done",
        "0                          1                        –           in weight and bias of Conv2d",
        "2.kernel_generator.reduce  2.kernel_generator.norm  –           in weight and bias of Conv2d",
        "2                          3                        4           in scale and bias of Involution2d, with the ReLU",
        "–                          5                        –           left: it follows 4, a ReLU",
    ]
    assert str(fold_batch_norms(nn.ReLU().eval())[1]) == "0 of 0 batch norms folded"


def test_training_mode_is_refused():
    with pytest.raises(ValueError, match=r"evaluation mode only; call model\.eval\(\) first"):
        fold_batch_norms(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))
