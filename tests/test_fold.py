import copy
import io
import pickle

import pytest
import timm
import torch
import torchvision
from folding import (
    assert_no_less_exact,
    assert_same,
    assert_same_within_rounding,
    batch,
    folded_as_reported,
    norms,
    settled,
)
from timm.layers import BatchNormAct2d, FrozenBatchNormAct2d
from torch import nn
from torch._inductor.utils import run_and_get_code
from torchvision.ops import FrozenBatchNorm2d

import involution.models  # noqa: F401
from involution import Involution1d, Involution2d, Involution3d, fold_batch_norms, replace_convolutions
from involution.models.detection import mask_rcnn, retinanet
from involution.models.segmentation import semantic_fpn, upernet


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
    assert replace_convolutions(model).replaced
    return model


@pytest.mark.parametrize("name", NETS)
def test_nets(name):
    make, staying = NETS[name]
    model = settled(make(), 4, 3, 64, 64).double()
    folded, report = fold_batch_norms(model)
    assert_same_within_rounding(folded, model, batch(4, 3, 64, 64, dtype=torch.float64))
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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_once(dtype):
    layers = [nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16), Involution2d(16), nn.BatchNorm2d(16), nn.ReLU()]
    torch.manual_seed(0)
    model = settled(nn.Sequential(*layers), 4, 16, 9, 9).to(dtype)
    folded, _ = fold_batch_norms(model)
    exact, _ = fold_batch_norms(copy.deepcopy(model).double())
    for layer, name in ((0, "weight"), (0, "bias"), (2, "scale"), (2, "bias")):
        assert torch.equal(getattr(folded[layer], name), getattr(exact[layer], name).to(dtype)), (layer, name)


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
    with torch.no_grad(), torch._inductor.config.patch(freezing=True):
        y, (code,) = run_and_get_code(torch.compile(folded), x)
        torch.testing.assert_close(y, model(x))
    assert "frozen_param" in code
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
