"""Whatever PyTorch and torchvision do to a model by tracing it, they do to a model with involutions."""

import pytest
import timm
import torch
import torchvision
from torch import fx, nn
from torch.utils import _pytree as pytree

import involution.models  # noqa: F401
from involution import Involution1d, Involution2d, Involution3d, replace_convolutions
from involution.kernel_generation import KernelGenerator
from involution.models.segmentation import semantic_fpn

SIZES = (4, 3, 64, 64), (1, 3, 80, 96)


def calm(model, *size):
    """Put weights near the identity into every φ and statistics of a batch into every norm, so that depth is harmless."""
    for module in model.modules():
        if isinstance(module, KernelGenerator) and hasattr(module, "span"):
            with torch.no_grad():
                module.span.weight.mul_(0.1)
                taps = module.span.bias.view(module.span.groups, -1)
                taps[:, taps.shape[1] // 2] = 1
        elif isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        model.train()(torch.randn(size))
    return model.eval()


def replaced_resnet(**arguments):
    model = torchvision.models.resnet18(num_classes=10)
    assert "layer2.0.conv1" in replace_convolutions(model, **arguments)
    return model


def replaced_dilated_resnet():
    model = torchvision.models.resnet50(num_classes=10, replace_stride_with_dilation=[False, True, True])
    replace_convolutions(model)
    assert model.layer4[1].conv2.dilation == (4, 4) and model.layer2[0].conv2.stride == (2, 2)
    return model


NETS = {
    "resnet18": replaced_resnet,
    "resnet18, linear": lambda: replaced_resnet(kernel_generator="linear", bias=True),
    "resnet18, attention": lambda: replaced_resnet(kernel_generator="attention"),
    "dilated resnet50": replaced_dilated_resnet,
    "rednet26": lambda: timm.create_model("rednet26", num_classes=10),
    "rednet26 of stride 8": lambda: timm.create_model("rednet26", num_classes=10, output_stride=8),
    "rednet26, attention": lambda: timm.create_model("rednet26", num_classes=10, kernel_generator="attention"),
    "segmentation backbone": lambda: semantic_fpn(3, "rednet26", neck="involution").backbone,
}


@pytest.fixture(params=NETS)
def net(request):
    return calm(NETS[request.param](), *SIZES[0])


def assert_same(traced, model):
    """Compare all outputs at both sizes, each relative to its magnitude."""
    with torch.no_grad():
        for size in SIZES:
            x = torch.randn(size)
            found, expected = pytree.tree_leaves(traced(x)), pytree.tree_leaves(model(x))
            for a, b in zip(found, expected, strict=True):
                assert b.isfinite().all() and a.dtype == b.dtype
                assert (a - b).abs().max() <= 1e-4 * b.abs().max()


def own_calls(graph):
    """Return the names of this library's functions in ``graph``."""
    targets = [node.target for node in graph.nodes if node.op == "call_function"]
    return {f.__name__ for f in targets if getattr(f, "__module__", "").startswith("involution.")}


def assert_seen_through(traced):
    """Every layer is part of the graph as what it computes, not as a module."""
    called = {type(traced.get_submodule(node.target)) for node in traced.graph.nodes if node.op == "call_module"}
    assert not called & {Involution1d, Involution2d, Involution3d}
    assert nn.Conv2d in called
    assert own_calls(traced.graph) & {"involution2d", "involution_of_span"}


def test_symbolic_trace(net):
    traced = fx.symbolic_trace(net)
    assert_seen_through(traced)
    assert_same(traced, net)
