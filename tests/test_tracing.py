"""Whatever PyTorch and torchvision do to a model by tracing it, they do to a model with involutions."""

import copy
import warnings

import pytest
import timm
import torch
import torchvision
from torch import fx, nn
from torch.masked import masked_tensor
from torch.utils import _pytree as pytree
from torchvision import tv_tensors
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

import involution.models  # noqa: F401
from involution import (
    Involution1d,
    Involution2d,
    Involution3d,
    correlation2d,
    involution2d,
    involution_of_span,
    replace_convolutions,
)
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
    assert "layer2.0.conv1" in replace_convolutions(model, **arguments).replaced
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


def assert_same(traced, model, tolerance=1e-4):
    """Compare all outputs at both sizes, each relative to its magnitude."""
    with torch.no_grad():
        for size in SIZES:
            x = torch.randn(size)
            found, expected = pytree.tree_leaves(traced(x)), pytree.tree_leaves(model(x))
            for a, b in zip(found, expected, strict=True):
                assert b.isfinite().all() and a.dtype == b.dtype
                assert (a - b).abs().max() <= tolerance * b.abs().max()


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


def test_feature_extractor(net):
    names, evaluation_names = get_graph_node_names(net)
    assert len(names) == len(evaluation_names) > 20
    prefix = "net." if hasattr(net, "net") else ""
    nodes = [f"{prefix}{name}" for name in ("layer2.0.conv1", "layer3", "layer4.0.conv1")]
    extractor = create_feature_extractor(net, nodes)
    seen = {}
    hooks = [
        net.get_submodule(node).register_forward_hook(
            lambda module, inputs, output, node=node: seen.update({node: output})
        )
        for node in nodes
    ]

    def watched(x):
        net(x)
        return {node: seen[node] for node in nodes}

    assert_same(extractor, watched)
    for hook in hooks:
        hook.remove()


def test_a_feature_extractor_trains():
    model = calm(replaced_resnet(), *SIZES[0])
    extractor = create_feature_extractor(model, ["layer4"]).train()
    extractor(torch.randn(SIZES[0]))["layer4"].sum().backward()
    gradients = [p.grad for name, p in extractor.named_parameters() if "span.weight" in name]
    assert len(gradients) > 10 and all(g is not None and g.abs().sum() > 0 for g in gradients)


def test_features_only_by_tracing():
    model = timm.create_model("rednet26", features_only=True, feature_cls="fx", out_indices=(0, 2, 4))
    reference = timm.create_model("rednet26", features_only=True, out_indices=(0, 2, 4))
    calm(reference, *SIZES[0])
    model.load_state_dict({f"graph_module.{name}": value for name, value in reference.state_dict().items()})
    assert_seen_through(model.eval().graph_module)
    assert_same(model, reference)


def test_jit_trace(net):
    x = torch.randn(SIZES[0])
    with warnings.catch_warnings():
        # Of comparisons of sizes, which tracing takes as fixed.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        traced = torch.jit.trace(net, x)
    assert_same(traced, net)


@pytest.mark.parametrize("kind", ["local_relation", "san_pairwise", "san_patchwise", "sasa", "outlook"])
def test_jit_trace_of_the_relatives(kind):
    layer = Involution2d(32, 64, 5, kernel_generator=kind).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        traced = torch.jit.trace(layer, torch.randn(2, 32, 9, 9))
    x = torch.randn(1, 32, 12, 7)
    assert torch.equal(traced(x), layer(x))


quantize_fx = pytest.importorskip("torch.ao.quantization.quantize_fx", reason="this PyTorch has no quantize_fx")


def prepared(model, batches):
    mapping = torch.ao.quantization.get_default_qconfig_mapping(torch.backends.quantized.engine)
    return quantize_fx.prepare_fx(copy.deepcopy(model), mapping, (batches[0],))


@pytest.mark.filterwarnings("ignore")
def test_preparing_for_quantization(net):
    observed = prepared(net, [torch.randn(size) for size in SIZES])
    assert own_calls(observed.graph) & {"involution2d", "involution_of_span"}
    # Preparing folds the norms, which rounds otherwise.
    assert_same(observed, net, 1e-3)


@pytest.mark.parametrize("name", ["resnet18", "rednet26", "segmentation backbone"])
@pytest.mark.filterwarnings("ignore")
def test_quantization(name):
    model = calm(NETS[name](), *SIZES[0])
    batches = [torch.randn(size) for size in SIZES]
    with torch.no_grad():
        observed = prepared(model, batches)
        for x in batches:
            observed(x)
        converted = quantize_fx.convert_fx(observed)
        assert len([module for module in converted.modules() if "quantized" in type(module).__module__]) > 20
        for x in batches:
            for a, b in zip(pytree.tree_leaves(converted(x)), pytree.tree_leaves(model(x)), strict=True):
                # Eight bits in every layer.
                assert (a.dequantize() - b).norm() < 0.4 * b.norm()


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("padding", ["same", "valid", 1])
@pytest.mark.parametrize("generator", ["bottleneck", "linear", "attention"])
@pytest.mark.parametrize("make", [Involution1d, Involution2d, Involution3d])
def test_every_layer(make, generator, padding, dilation, stride):
    layer = make(16, 32, 3, stride, padding, dilation, kernel_generator=generator, bias=True).eval().double()
    traced = fx.symbolic_trace(layer)
    dims = {Involution1d: 1, Involution2d: 2, Involution3d: 3}[make]
    for size in ((9, 8, 7), (6, 11, 8)):
        x = torch.randn(2, 16, *size[:dims], dtype=torch.float64)
        torch.testing.assert_close(traced(x), layer(x))


def test_the_functions_are_nodes_of_a_graph():
    def both(x, kernel):
        field = correlation2d(x, x, 3, groups=2)
        return involution2d(x, kernel, dilation=2) + involution2d(x, kernel=field, padding=1)

    traced = fx.symbolic_trace(both)
    assert own_calls(traced.graph) == {"correlation2d", "involution2d"}
    x, kernel = torch.randn(2, 8, 6, 7), torch.randn(2, 2, 3, 3, 6, 7)
    torch.testing.assert_close(traced(x, kernel), both(x, kernel))
    assert "involution2d" in traced.code


def test_what_was_wrong_is_refused_when_the_graph_runs():
    traced = fx.symbolic_trace(lambda x, kernel: involution2d(x, kernel))
    with pytest.raises(ValueError, match="the channels must be divisible by the groups"):
        traced(torch.randn(2, 9, 6, 7), torch.randn(2, 2, 3, 3, 6, 7))


class Tagged(torch.Tensor):
    """A subclass that PyTorch's own rules carry through every function."""


class Counting(torch.Tensor):
    """A subclass that sees every function it passes."""

    functions: list[str] = []

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        cls.functions.append(getattr(func, "__name__", str(func)))
        return super().__torch_function__(func, types, args, kwargs or {})


@pytest.mark.parametrize("kind", [Tagged, Counting])
@pytest.mark.parametrize("generator", ["bottleneck", "linear", "attention"])
def test_a_subclass_passes_as_it_passes_a_convolution(kind, generator):
    layer = Involution2d(16, 32, 5, stride=2, kernel_generator=generator, bias=True).eval()
    x = torch.randn(2, 16, 9, 8)
    Counting.functions.clear()
    leaf = x.clone().requires_grad_()
    y = layer(leaf.as_subclass(kind))
    assert type(y) is kind
    torch.testing.assert_close(y.as_subclass(torch.Tensor), layer(x))
    y.sum().backward()
    assert leaf.grad.abs().sum() > 0
    if kind is Counting:
        assert {"involution2d", "involution_of_span"} & set(Counting.functions)
    assert type(involution2d(x.as_subclass(kind), torch.randn(2, 2, 3, 3, 9, 8))) is kind
    assert type(correlation2d(x, x.as_subclass(kind), 3)) is kind


def test_torchvisions_images_become_tensors_as_in_a_convolution():
    x = torch.rand(1, 16, 9, 8)
    image, layer = tv_tensors.Image(x), Involution2d(16).eval()
    y = layer(image)
    assert type(y) is type(nn.Conv2d(16, 16, 1)(image)) is torch.Tensor
    torch.testing.assert_close(y, layer(x))


@pytest.mark.filterwarnings("ignore")
def test_masked_tensors_are_refused_as_by_a_convolution():
    x = torch.randn(1, 16, 9, 8)
    masked = masked_tensor(x, x > 0)
    for layer in (nn.Conv2d(16, 16, 1), Involution2d(16), Involution2d(16, kernel_generator="linear")):
        with pytest.raises(TypeError, match="MaskedTensor"):
            layer(masked)


def test_a_subclass_that_replaces_the_function_is_asked():
    class Zero(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            if func is involution2d:
                assert kwargs["dilation"] == 2 and args[0].shape == (2, 8, 6, 7)
                return "asked"
            return super().__torch_function__(func, types, args, kwargs or {})

    assert involution2d(torch.randn(2, 8, 6, 7).as_subclass(Zero), torch.randn(2, 2, 3, 3, 6, 7), dilation=2) == "asked"


@pytest.mark.parametrize("parts", ["scale", "offset", "relu", "scale offset relu"])
def test_a_subclass_takes_the_epilogue_with_it(parts):
    x, hidden, weight = torch.randn(2, 4, 6, 5), torch.randn(2, 3, 6, 5), torch.randn(18, 3, 1, 1)
    vectors = {"scale": torch.randn(4), "offset": torch.randn(4), "relu": True}
    more = {"groups": 2, "kernel_size": 3, **{name: vectors[name] for name in parts.split()}}
    y = involution_of_span(x.as_subclass(Tagged), hidden, weight, **more)
    assert type(y) is Tagged and (y.min() >= 0) == ("relu" in parts)
    torch.testing.assert_close(y.as_subclass(torch.Tensor), involution_of_span(x, hidden, weight, **more))
