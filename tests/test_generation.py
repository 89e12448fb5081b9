"""Kernel generation and multiply-add in one operator, against the two of them."""

import copy

import definition
import pytest
import torch
from cases import relative_error
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from involution import Involution1d, Involution2d, Involution3d, backends, involution_of_span
from involution.backends import spans

pytestmark = pytest.mark.skipif(not backends.native.instruction_set(), reason="the native backend was not built")

GEOMETRIES = [
    (Involution2d, (13, 9), {"kernel_size": 7}),
    (Involution2d, (13, 9), {"kernel_size": 7, "stride": 2}),
    (Involution2d, (5, 8), {"kernel_size": (3, 5), "dilation": 2, "padding": 3}),
    (Involution2d, (9, 9), {"kernel_size": 3, "padding": "valid", "kernel_generator": "linear"}),
    (Involution2d, (1, 1), {"kernel_size": 7, "kernel_generator": "linear"}),
    (Involution2d, (30, 30), {"kernel_size": 5, "groups": 3, "out_channels": 36}),
    (Involution1d, (40,), {"kernel_size": 5}),
    (Involution3d, (5, 6, 4), {"kernel_size": 3, "dilation": (1, 2, 1)}),
]


def geometries():
    return pytest.mark.parametrize(
        ("kind", "size", "arguments"), GEOMETRIES, ids=lambda value: str(value).replace(" ", "")
    )


def keep_field(module):
    """Let ``module`` hand the field itself, not what makes it, to its involution."""
    module.generate_kernel = lambda x: type(module).generate_kernel(module, x).field()
    return module


def results(module, x):
    """Return output and all gradients, the counted operations and the names of the operators."""
    module.zero_grad()
    x = x.detach().requires_grad_()
    with FlopCounterMode(display=False) as counter:
        y = module(x)
    y.backward(torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape))
    operators = {str(op) for op in counter.get_flop_counts()["Global"]}
    return [y.detach(), x.grad, *(p.grad for p in module.parameters())], counter.get_total_flops(), operators


@geometries()
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("piece_bytes", [2 << 20, 1000], ids=["whole", "pieces"])
def test_output_and_gradients_equal_those_of_the_field(kind, size, arguments, dtype, backend, piece_bytes, monkeypatch):
    monkeypatch.setattr(spans, "PIECE_BYTES", piece_bytes)
    module = kind(32, **({"group_channels": 16, "backend": backend} | arguments)).double().eval()
    x = torch.randn(2, 32, *size, dtype=torch.float64)
    exact, *_ = results(keep_field(copy.deepcopy(module)), x)
    module, x = module.to(dtype), x.to(dtype)
    if x.ndim == 4:
        x = x.to(memory_format=torch.channels_last)
    actual, flops, operators = results(module, x)
    assert "involution.forward_of_span" in operators
    of_field, flops_of_field, operators = results(keep_field(copy.deepcopy(module)), x)
    assert "involution.forward_of_span" not in operators
    assert flops == flops_of_field
    for one, other, truth in zip(actual, of_field, exact, strict=True):
        assert relative_error(one, truth) <= 2 * relative_error(other, truth) + 16 * torch.finfo(dtype).eps


def test_a_checkpoint_of_a_generator_by_itself():
    """One that is reentrant runs the generator without gradients first, and makes all that it returns its own."""
    layer, x = Involution2d(16), torch.randn(2, 16, 5, 4)
    layer(x.requires_grad_()).square().sum().backward()
    expected, x.grad = [x.grad, *(p.grad for p in layer.parameters())], None
    layer.zero_grad()

    class Checkpointed(nn.Module):
        def __init__(self, generator):
            super().__init__()
            self.generator = generator

        def forward(self, x):
            return checkpoint(self.generator, x, use_reentrant=True)

    layer.kernel_generator = Checkpointed(layer.kernel_generator)
    layer(x).square().sum().backward()
    for gradient, right in zip([x.grad, *(p.grad for p in layer.parameters())], expected, strict=True):
        torch.testing.assert_close(gradient, right)


@pytest.mark.parametrize("backend", ["reference", "native"])
@pytest.mark.parametrize("layer", [Involution2d, Involution3d])
def test_the_gradient_of_the_weight_lies_in_memory_as_the_weight(layer, backend):
    """DistributedDataParallel keeps it so, and warns of one that lies otherwise."""
    dims = 2 if layer is Involution2d else 3
    formats = torch.contiguous_format, torch.channels_last if dims == 2 else torch.channels_last_3d
    for memory_format in formats:
        module = layer(32, kernel_size=3, backend=backend).to(memory_format=memory_format)
        module(torch.randn(2, 32, *[4] * dims)).sum().backward()
        weight = module.kernel_generator.span.weight
        assert weight.is_contiguous(memory_format=memory_format)
        assert weight.grad.stride() == weight.stride()


def span_arguments():
    x = torch.randn(2, 4, 3, 4, dtype=torch.float64, requires_grad=True)
    hidden = torch.randn(2, 3, 3, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(18, 3, 1, 1, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(18, dtype=torch.float64, requires_grad=True)
    return x, hidden, weight, bias


def of_span(*tensors, **more):
    return involution_of_span(*tensors, groups=2, kernel_size=3, **more)


def test_gradients_of_first_and_second_order():
    tensors = span_arguments()
    assert torch.autograd.gradcheck(of_span, tensors, fast_mode=True, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(of_span, tensors, fast_mode=True)
    arguments = (*tensors, 2, (3, 3), (1, 1), (1, 1), (1, 1), "auto")
    torch.library.opcheck(torch.ops.involution.forward_of_span.default, arguments)
    torch.library.opcheck(torch.ops.involution.forward_of_span.default, (*arguments[:3], None, *arguments[4:]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("parts", ["scale", "offset", "relu", "scale offset", "scale offset relu"])
def test_epilogue(dtype, backend, parts):
    value, hidden, weight, bias = (t.detach() for t in span_arguments())
    vectors = {
        "scale": torch.randn(4, dtype=torch.float64),
        "offset": torch.randn(4, dtype=torch.float64),
        "relu": True,
    }
    epilogue = {name: vectors[name] for name in parts.split()}
    expected = of_span(value, hidden, weight, bias)
    if "scale" in epilogue:
        expected = expected * epilogue["scale"].view(-1, 1, 1)
    if "offset" in epilogue:
        expected = expected + epilogue["offset"].view(-1, 1, 1)
    if "relu" in epilogue:
        expected = expected.relu()
    tensors = [t.to(dtype) for t in (value, hidden, weight, bias)]
    epilogue = {name: v if v is True else v.to(dtype) for name, v in epilogue.items()}
    with torch.no_grad():
        at_once = of_span(*tensors, **epilogue, backend=backend)
    steps = of_span(*tensors, **epilogue, backend=backend)
    assert at_once.dtype == steps.dtype == dtype
    tolerance = 64 * torch.finfo(dtype).eps
    torch.testing.assert_close(at_once.double(), expected, rtol=tolerance, atol=tolerance * 8)
    torch.testing.assert_close(steps.double(), expected, rtol=tolerance, atol=tolerance * 8)


def test_epilogue_with_derivatives_and_transforms():
    tensors = (*span_arguments(), *(torch.randn(4, dtype=torch.float64, requires_grad=True) for _ in range(2)))

    def function(value, hidden, weight, bias, scale, offset):
        return of_span(value, hidden, weight, bias, scale=scale, offset=offset, relu=True)

    assert torch.autograd.gradcheck(function, tensors, fast_mode=True, check_forward_ad=True)
    tangents = tuple(torch.randn_like(t) for t in tensors)
    primal, tangent = torch.func.jvp(function, tensors, tangents)
    with torch.no_grad():
        at_once, tangent_at_once = torch.func.jvp(function, tensors, tangents)
    torch.testing.assert_close(at_once, primal)
    torch.testing.assert_close(tangent_at_once, tangent)


@pytest.mark.parametrize("in_dims", [(0, 0, None, None), (0, 0, 0, 0), (None, 0, None, 0), (0, None, 0, None)], ids=str)
@pytest.mark.parametrize("grad", [True, False])
def test_vmap(in_dims, grad):
    tensors = [
        torch.stack([t.detach() * n for n in (1, 2, 3)]) if dim == 0 else t.detach()
        for t, dim in zip(span_arguments(), in_dims, strict=True)
    ]

    def function(*tensors):
        return of_span(*tensors, relu=True)

    with torch.set_grad_enabled(grad):
        actual = torch.func.vmap(function, in_dims)(*tensors)
        for n in range(3):
            one = [t if dim is None else t[n] for t, dim in zip(tensors, in_dims, strict=True)]
            torch.testing.assert_close(actual[n], function(*one))


def test_training_keeps_no_field():
    module = Involution2d(64)
    x = torch.randn(2, 64, 28, 28, requires_grad=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        module(x)
    assert max(saved) < 2 * 4 * 49 * 28 * 28


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_without_a_break(dynamic):
    module = Involution2d(32, stride=2)
    compiled = torch.compile(module, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for size in (9, 12):
        x = torch.randn(2, 32, size, size)
        module.eval()
        torch.testing.assert_close(compiled(x), module(x))
        module.train()
        compiled(x).sum().backward()


def test_autocast_equals_that_of_the_field():
    module, x = Involution2d(32).eval(), torch.randn(1, 32, 9, 9)
    with torch.autocast("cpu", torch.bfloat16):
        y, expected = module(x), keep_field(copy.deepcopy(module))(x)
    assert y.dtype == expected.dtype == torch.bfloat16
    assert relative_error(y, expected) < 0.01


@pytest.mark.parametrize("bias", [False, True])
def test_double_backward_under_autocast_of_what_ran_without(bias):
    tensors = [t.detach().float().requires_grad_() for t in span_arguments()[: 4 if bias else 3]]

    def second():
        first = torch.autograd.grad(y, tensors, torch.ones_like(y), create_graph=True)
        return (*first, *torch.autograd.grad(sum(gradient.square().sum() for gradient in first), tensors))

    y = of_span(*tensors)
    expected = second()
    y = of_span(*tensors)
    with torch.autocast("cpu"):
        gradients = second()
    for gradient, right in zip(gradients, expected, strict=True):
        assert gradient.dtype == torch.float32
        # What PyTorch's own steps have for derivatives is computed in bfloat16.
        assert relative_error(gradient, right) < 0.02


@pytest.mark.parametrize("batch", [1, 2])
def test_second_derivatives_through_a_batch_norm_of_one_image(batch):
    """PyTorch's batch norm misreads gradients of some strides; without an activation they would reach it."""
    layer = Involution2d(8, 8, 3, groups=2, reduction=1, act_layer=nn.Identity, dtype=torch.float64)
    x = torch.randn(batch, 8, 5, 4, dtype=torch.float64, requires_grad=True)
    weights = (layer.kernel_generator.reduce.weight, layer.kernel_generator.norm.bias)
    dy = torch.randn(batch, 8, 5, 4, dtype=torch.float64)

    def second(y):
        gradients = torch.autograd.grad(y, (x, *layer.parameters()), dy, create_graph=True)
        return torch.autograd.grad(sum(gradient.square().sum() for gradient in gradients), (x, *weights))

    exact = definition.by_indices(x, layer.generate_kernel(x).field(), layer.window)
    for given, right in zip(second(layer(x)), second(exact), strict=True):
        torch.testing.assert_close(given, right)


@pytest.fixture
def unwritten_memory_is_nan():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("unwritten_memory_is_nan")
@pytest.mark.parametrize("backend", ["native", "reference"])
def test_windows_outside_the_map_give_their_hidden_pixels_no_gradient(backend, monkeypatch):
    monkeypatch.setattr(spans, "PIECE_BYTES", 1000)
    x, _, weight, bias = span_arguments()
    hidden = torch.randn(2, 3, 13, 14, dtype=torch.float64, requires_grad=True)
    of_span(x, hidden, weight, bias, padding=6, backend=backend).square().sum().backward()
    # Of 3 rows, continued by 6 on either side, the windows 4 to 8 see something; of 4 columns the windows 4 to 9.
    inside = hidden.grad[:, :, 4:9, 4:10]
    assert (inside != 0).all() and inside.isfinite().all()
    assert hidden.grad.count_nonzero() == inside.numel()
    assert all(t.grad.isfinite().all() for t in (x, weight, bias))


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_the_gradient_of_the_weight_is_summed_over_many_pieces_in_float32(backend, monkeypatch):
    monkeypatch.setattr(spans, "PIECE_BYTES", 1000)
    x, hidden = (torch.randn(1, channels, 200, 8, dtype=torch.bfloat16) for channels in (4, 3))
    weight = torch.randn(18, 3, 1, 1, dtype=torch.bfloat16)
    dy = torch.randn(1, 4, 200, 8, dtype=torch.bfloat16)

    def gradient(dtype):
        leaf = weight.to(dtype, copy=True).requires_grad_()
        of_span(x.to(dtype), hidden.to(dtype), leaf, backend=backend).backward(dy.to(dtype))
        return leaf.grad

    assert relative_error(gradient(torch.bfloat16), gradient(torch.float64)) < 0.006


@pytest.mark.parametrize("name", ["scale", "offset"])
def test_vmap_over_the_epilogue(name):
    tensors = [t.detach() for t in span_arguments()]
    vectors = torch.randn(3, 4, dtype=torch.float64)

    def function(vector):
        return of_span(*tensors, **{name: vector})

    with torch.no_grad():
        actual = torch.func.vmap(function)(vectors)
        torch.testing.assert_close(actual, torch.stack([function(vector) for vector in vectors]))
