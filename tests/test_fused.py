"""Kernel generation and multiply-add in one operator, against the two of them."""

import pytest
import torch
from cases import relative_error
from torch.utils.flop_counter import FlopCounterMode

from involution import Involution1d, Involution2d, Involution3d, backends
from involution.kernel_generation import BottleneckKernelGenerator
from involution.operators import generation as fused

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


def results(module, x, fuse):
    """Return output and all gradients."""
    module.fused = fuse
    module.zero_grad()
    x = x.detach().requires_grad_()
    with FlopCounterMode(display=False) as counter:
        y = module(x)
    y.backward(torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape))
    operators = {str(op) for op in counter.get_flop_counts()["Global"]}
    assert ("involution.fused_forward" in operators) == fuse
    return [y.detach(), x.grad, *(p.grad for p in module.parameters())], counter.get_total_flops()


@geometries()
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("piece_bytes", [2 << 20, 1000], ids=["whole", "pieces"])
def test_output_and_gradients_equal_the_unfused(kind, size, arguments, dtype, piece_bytes, monkeypatch):
    monkeypatch.setattr(fused, "_PIECE_BYTES", piece_bytes)
    module = kind(32, **({"group_channels": 16} | arguments)).double().eval()
    x = torch.randn(2, 32, *size, dtype=torch.float64)
    exact, _ = results(module, x, False)
    module, x = module.to(dtype), x.to(dtype)
    if x.ndim == 4:
        x = x.to(memory_format=torch.channels_last)
    actual, flops = results(module, x, True)
    unfused, unfused_flops = results(module, x, False)
    assert flops == unfused_flops
    for fused_value, value, truth in zip(actual, unfused, exact, strict=True):
        own = relative_error(value, truth)
        assert relative_error(fused_value, truth) <= 2 * own + 16 * torch.finfo(dtype).eps


def test_gradients_of_first_and_second_order():
    x = torch.randn(2, 4, 3, 4, dtype=torch.float64, requires_grad=True)
    hidden = torch.randn(2, 3, 3, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(18, 3, 1, 1, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(18, dtype=torch.float64, requires_grad=True)

    def function(*tensors):
        return fused.forward(*tensors, 2, (3, 3), (1, 1), (1, 1), (1, 1))

    assert torch.autograd.gradcheck(function, (x, hidden, weight, bias), fast_mode=True)
    assert torch.autograd.gradgradcheck(function, (x, hidden, weight, bias), fast_mode=True)
    arguments = (x, hidden, weight, bias, 2, (3, 3), (1, 1), (1, 1), (1, 1))
    torch.library.opcheck(fused.forward, arguments)
    torch.library.opcheck(fused.forward, (*arguments[:3], None, *arguments[4:]))


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


def test_autocast_equals_the_unfused():
    module, x = Involution2d(32).eval(), torch.randn(1, 32, 9, 9)
    with torch.autocast("cpu", torch.bfloat16):
        y = module(x)
        module.fused = False
        expected = module(x)
    assert y.dtype == expected.dtype == torch.bfloat16
    assert relative_error(y, expected) < 0.01


def test_whatever_watches_or_replaces_the_field_turns_it_off():
    module, x = Involution2d(16, kernel_size=3), torch.randn(1, 16, 5, 5)
    seen = []
    handle = module.kernel_generator.register_forward_hook(lambda m, i, field: seen.append(field.shape))
    module(x)
    handle.remove()
    assert seen == [(1, 1, 3, 3, 5, 5)]

    class Softmaxed(BottleneckKernelGenerator):
        def forward(self, x):
            return super().forward(x).flatten(2, 3).softmax(2).unflatten(2, (3, 3))

    ones = torch.ones(1, 16, 5, 5)
    module = Involution2d(16, kernel_size=3, padding="valid", kernel_generator=Softmaxed(16, 3, 1))
    torch.testing.assert_close(module(ones), torch.ones(1, 16, 3, 3))
    with backends.use("reference"):
        assert not fused.serves("auto", x, x)
    assert not fused.serves("reference", x, x)


def test_a_generator_of_another_size_is_refused_with_the_operators_words():
    module = Involution2d(16, kernel_size=3, kernel_generator=BottleneckKernelGenerator(16, 3, 5))
    with pytest.raises(ValueError, match="divisible by the groups, got 16 channels and 5 groups"):
        module(torch.randn(1, 16, 5, 5))
