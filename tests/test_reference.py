"""The reference backend against code written from the definition."""

import definition
import pytest
import torch
from cases import Case, cases, layouts, relative_error

from involution import involution2d
from involution.memory_layout import is_channels_last, is_field_channels_last
from involution.operators import contraction


@cases()
@layouts()
def test_output_and_gradients_equal_the_definition(case, channels_last):
    x, h, dy = case.tensors(channels_last=channels_last)
    x.requires_grad_()
    h.requires_grad_()
    y = case.involution(x, h, backend="reference")
    y.backward(dy)
    torch.testing.assert_close(y.detach(), definition.forward(case, x.detach(), h.detach()))
    torch.testing.assert_close(x.grad, definition.input_gradient(case, dy, h.detach()))
    torch.testing.assert_close(h.grad, definition.kernel_gradient(case, dy, x.detach()))


@cases(*(Case((7, 9), channels=32, kernel=7), Case((13, 9), stride=2, kernel=5, channels=16)))
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@layouts()
def test_half_precision_accumulates_in_float32(case, dtype, channels_last):
    x, h, dy = case.tensors(dtype, channels_last)
    arguments = (case.window, "reference")
    exact = contraction.forward(x.double(), h.double(), *arguments)
    rounded = exact.to(dtype)
    result = contraction.forward(x, h, *arguments)
    # A float32 sum rounded once differs from the exact one rounded once only where they round apart.
    assert relative_error(result, rounded) < torch.finfo(dtype).eps / 4
    for operator, other in ((contraction.input_gradient, h), (contraction.kernel_gradient, x)):
        sizes = (case.size,) if operator is contraction.input_gradient else (case.groups,)
        exact = operator(dy.double(), other.double(), *sizes, *arguments)
        assert relative_error(operator(dy, other, *sizes, *arguments), exact.to(dtype)) < torch.finfo(dtype).eps / 4


@cases(Case((6, 7), channels=4), Case((9,), channels=4), Case((3, 4, 5), channels=4))
@layouts()
def test_layout_follows_the_input(case, channels_last):
    x, h, dy = case.tensors(channels_last=channels_last)
    arguments = (case.window, "reference")
    assert is_channels_last(contraction.forward(x, h, *arguments)) == channels_last
    assert is_channels_last(contraction.input_gradient(dy, h, case.size, *arguments)) == channels_last
    field = contraction.kernel_gradient(dy, x, case.groups, *arguments)
    assert is_field_channels_last(field) == channels_last


def test_channels_last_is_pytorchs_channels_last():
    x = torch.randn(2, 16, 5, 6).to(memory_format=torch.channels_last)
    y = involution2d(x, torch.randn(2, 1, 3, 3, 5, 6))
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_sliced_expanded_and_transposed_inputs():
    case = Case((6, 8), channels=8)
    x, h, _ = case.tensors()
    expected = case.involution(x, h)
    sliced = torch.randn(2, 16, 12, 10, dtype=torch.float64)
    sliced[:, ::2, ::2, 1:9] = x
    torch.testing.assert_close(case.involution(sliced[:, ::2, ::2, 1:9], h), expected)
    transposed = x.transpose(2, 3).contiguous().transpose(2, 3)
    torch.testing.assert_close(case.involution(transposed, h), expected)
    one = h[:, :, :, :, :1, :1]
    shared = one.expand(-1, -1, -1, -1, 6, 8)
    torch.testing.assert_close(case.involution(x, shared), case.involution(x, shared.contiguous()))
    torch.testing.assert_close(case.involution(x[:1].expand(2, -1, -1, -1), h)[0], expected[0])


def test_values_outside_the_map_contribute_nothing():
    """A kernel value that meets only padding may be anything: it is not multiplied by zero, it is not read."""
    case = Case((4, 4), channels=2, groups=1, batch=1)
    x, h, _ = case.tensors()
    h[..., 0, :, 0, :] = float("inf")
    y = case.involution(x, h)
    assert torch.isfinite(y).all()
    h[..., 1, 1, 2, 2] = float("nan")
    y = case.involution(x, h)
    assert torch.isnan(y[..., 2, 2]).all()
    assert torch.isnan(y).sum() == case.channels
