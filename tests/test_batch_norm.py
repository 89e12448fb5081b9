"""Batch norm, residual and ReLU as one operator, against PyTorch's modules."""

import pytest
import timm
import torch
from torch import nn

import involution.models  # noqa: F401
from involution import inference
from involution.backends import native

pytestmark = pytest.mark.skipif(native.instruction_set() is None, reason="the native kernels were not built")


def modules(channels, dtype, relu):
    norm = nn.BatchNorm2d(channels, dtype=dtype)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm, nn.ReLU() if relu else nn.Identity()


def one_after_the_other(norm, act, x, residual):
    x = norm(x)
    return act(x if residual is None else x + residual)


def together(norm, act, x, residual):
    return inference.apply(nn.Identity(), norm, act, x, residual)


def images(*shape, dtype):
    return (3 * torch.randn(shape, dtype=dtype) + 5).to(memory_format=torch.channels_last)


def results(function, norm, act, x, residual, dy):
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    residual = None if residual is None else residual.clone(memory_format=torch.preserve_format).requires_grad_()
    y = function(norm, act, x, residual)
    y.backward(dy)
    found = {"y": y.detach(), "x": x.grad, "weight": norm.weight.grad, "bias": norm.bias.grad, **norm.state_dict()}
    if residual is not None:
        found["residual"] = residual.grad
    return found, y


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("shape", [(4, 64, 9, 7), (3, 20, 5, 5), (2, 3, 4, 4), (2, 160, 3, 3), (1, 16, 40, 41)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-4)])
def test_equals_the_modules(shape, dtype, tolerance, relu, residual):
    torch.manual_seed(0)
    norm, act = modules(shape[1], dtype, relu)
    control = nn.BatchNorm2d(shape[1], dtype=dtype)
    control.load_state_dict(norm.state_dict())
    x, dy = images(*shape, dtype=dtype), torch.randn(shape, dtype=dtype)
    shortcut = images(*shape, dtype=dtype) if residual else None
    expected, _ = results(one_after_the_other, control, act, x, shortcut, dy)
    found, y = results(together, norm, act, x, shortcut, dy)
    assert "NormReLU" in type(y.grad_fn).__name__
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def test_statistics_of_values_far_from_zero():
    # A sum of squares would lose the variance of these.
    x = (torch.randn(4, 32, 16, 16) + 3e4).to(memory_format=torch.channels_last)
    y = together(nn.BatchNorm2d(32), nn.Identity(), x, None)
    exact = nn.functional.batch_norm(x.double(), None, None, training=True)
    torch.testing.assert_close(y.double(), exact, rtol=0, atol=2e-2)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("relu", [False, True])
def test_derivatives_of_second_order(relu, residual):
    torch.manual_seed(0)
    norm, act = modules(3, torch.float64, relu)
    tensors = [images(2, 3, 3, 2, dtype=torch.float64).requires_grad_() for _ in range(1 + residual)]

    def function(x, shortcut=None):
        return together(norm, act, x, shortcut)

    assert torch.autograd.gradcheck(function, tensors)
    assert torch.autograd.gradgradcheck(function, tensors)


def test_nan_and_infinity():
    norm, act = modules(8, torch.float32, True)
    x = images(2, 8, 4, 4, dtype=torch.float32)
    x[0, 0, 0, 0], x[1, 1, 2, 2] = torch.nan, torch.inf
    expected, _ = results(one_after_the_other, norm, act, x, None, torch.ones_like(x))
    norm.reset_running_stats()
    norm.zero_grad()
    found, _ = results(together, norm, act, x, None, torch.ones_like(x))
    for name in ("y", "x"):
        assert torch.equal(found[name].isnan(), expected[name].isnan())


@pytest.mark.parametrize(
    "change",
    [
        lambda norm, x: (nn.SyncBatchNorm(8), x),
        lambda norm, x: (nn.BatchNorm2d(8, momentum=None), x),
        lambda norm, x: (nn.BatchNorm2d(8, affine=False), x),
        lambda norm, x: (norm, x.contiguous()),
        lambda norm, x: (norm.register_forward_hook(lambda *_: None) and norm, x),
    ],
    ids=["synchronised", "cumulative", "without weights", "NCHW", "watched"],
)
def test_what_is_left_to_the_modules(change):
    norm, x = change(nn.BatchNorm2d(8), images(2, 8, 4, 4, dtype=torch.float32).requires_grad_())
    y = together(norm, nn.ReLU(), x, None)
    assert "NormReLU" not in type(y.grad_fn).__name__
    torch.testing.assert_close(y, nn.functional.batch_norm(x, None, None, training=True).relu(), rtol=1e-5, atol=1e-5)


def test_one_value_per_channel_takes_the_running_statistics():
    # The coarsest map of a small image: PyTorch's module alone would raise.
    norm, x = nn.BatchNorm2d(8), images(1, 8, 1, 1, dtype=torch.float32)
    norm.running_mean.uniform_()
    before = norm.running_mean.clone()
    y = together(norm, nn.ReLU(), x, None)
    assert torch.equal(norm.running_mean, before)
    torch.testing.assert_close(y, norm.eval()(x).relu())


def test_a_net_trains_as_with_its_modules():
    torch.manual_seed(0)
    net = timm.create_model("rednet26", channels=(16, 32, 64, 128), num_classes=5).double().train()
    x = images(4, 3, 64, 64, dtype=torch.float64)
    gradients = []
    for layout in (torch.channels_last, torch.contiguous_format):
        net.zero_grad()
        net.to(memory_format=layout)
        net(x.contiguous(memory_format=layout)).square().sum().backward()
        gradients.append([p.grad.clone() for p in net.parameters()])
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-8)
