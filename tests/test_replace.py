import pytest
import timm
import torch
from torch import nn

from involution import Involution1d, Involution2d, replace_convolutions
from involution.kernel_generation import LinearKernelGenerator


def test_a_resnet_becomes_its_involution_net():
    model = timm.create_model("resnet50", num_classes=4).eval()
    shapes = {}
    for name, module in model.named_modules():
        module.register_forward_hook(lambda m, i, o, name=name: shapes.update({name: o.shape}))
    x = torch.randn(1, 3, 65, 64)
    with torch.inference_mode():
        model(x)
    before = dict(shapes)
    shapes.clear()
    names = replace_convolutions(model, kernel_size=7, reduction=8)
    assert len(names) == 16
    assert names[0] == "layer1.0.conv2"
    with torch.inference_mode():
        model(x)
    assert all(shape == before[name] for name, shape in shapes.items())
    assert shapes.keys() >= before.keys() - set(names)
    assert isinstance(model.layer1[0].conv2, Involution2d)
    assert model.layer1[0].conv2.kernel_generator.reduce.out_channels == 8
    assert not model.layer1[0].conv2.training


def test_bias_device_dtype_and_other_dimensions_are_kept():
    model = nn.Sequential(nn.Conv1d(16, 32, 5, 2, "valid", dilation=2, bias=True, dtype=torch.float64, device="meta"))
    replace_convolutions(model, kernel_generator="linear")
    layer = model[0]
    assert isinstance(layer, Involution1d)
    assert isinstance(layer.kernel_generator, LinearKernelGenerator)
    assert layer.bias is not None
    assert (layer.kernel_size, layer.stride, layer.padding, layer.dilation) == ((5,), (2,), (0,), (2,))
    assert {p.device.type for p in layer.parameters()} == {"meta"}
    assert {p.dtype for p in layer.parameters()} == {torch.float64}


def test_where_chooses():
    model = nn.ModuleDict({"neck": nn.Conv2d(16, 16, 3, padding=1), "head": nn.Conv2d(16, 16, 3, padding=1)})
    assert replace_convolutions(model, lambda name, module: name == "neck") == ["neck"]
    assert isinstance(model["head"], nn.Conv2d)


@pytest.mark.parametrize(
    ("kernel_size", "where", "words"),
    [
        (4, None, r"1 has a kernel of \(3, 3\) and padding \(1, 1\); a kernel of \(4, 4\) cannot keep its output size"),
        (None, lambda name, module: name == "0", "0 is no convolution but a ReLU"),
        (
            7,
            lambda name, module: name == "2",
            r"2 cannot be replaced: out_channels must be divisible by group_channels",
        ),
    ],
)
def test_refusals_leave_the_model_as_it_was(kernel_size, where, words):
    model = nn.Sequential(nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 24, 3, padding=1))
    with pytest.raises(ValueError, match=words):
        replace_convolutions(model, where, kernel_size=kernel_size)
    assert [type(m) for m in model] == [nn.ReLU, nn.Conv2d, nn.Conv2d]
    with pytest.raises(TypeError, match="itself a convolution"):
        replace_convolutions(nn.Conv2d(16, 16, 3))
