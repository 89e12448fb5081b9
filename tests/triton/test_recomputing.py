"""The layer that keeps no kernel field, with the Triton kernels behind it."""

import copy

import pytest
import torch
from cases import relative_error

from involution import Involution1d, Involution2d
from involution.backends import spans, triton

pytestmark = pytest.mark.usefixtures("one_tile")


def results(layer, x, keep_field):
    layer = copy.deepcopy(layer)
    if keep_field:
        layer.generate_kernel = lambda x: type(layer).generate_kernel(layer, x).field()
    layer.zero_grad()
    x = x.detach().requires_grad_()
    y = layer(x)
    y.backward(torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape))
    return [y.detach(), x.grad, *(p.grad for p in layer.parameters())]


@pytest.mark.parametrize("pieces", [False, True])
@pytest.mark.parametrize(
    ("kind", "size", "arguments"),
    [(Involution2d, (6, 7), {}), (Involution2d, (6, 7), {"stride": 2}), (Involution1d, (9,), {"dilation": 2})],
    ids=str,
)
def test_equals_the_layer_that_keeps_it(kind, size, arguments, pieces, monkeypatch):
    if pieces:
        monkeypatch.setattr(spans, "PIECE_BYTES", 1000)
    layer = kind(16, kernel_size=3, group_channels=8, backend="triton", **arguments).eval()
    x = torch.randn(2, 16, *size)
    for actual, expected in zip(results(layer, x, False), results(layer, x, True), strict=True):
        assert relative_error(actual, expected) < 1e-5


def test_fused_forward_serves_where_it_is_asked_for(monkeypatch):
    layer = Involution2d(32, kernel_size=5, backend="triton").half().eval()
    x = torch.randn(1, 32, 5, 6).half()
    calls = []
    span_and_contract = triton.span_and_contract
    monkeypatch.setattr(triton, "span_and_contract", lambda *a: calls.append(span_and_contract(*a)) or calls[-1])
    with torch.no_grad():
        before = layer(x)
        monkeypatch.setenv("INVOLUTION_TRITON_FUSED", "1")
        asked = layer(x)
        layer.float()(x.float())
    assert calls == [False, True, False]
    assert relative_error(asked, before) < 2e-3


def test_compile_fullgraph():
    layer = Involution2d(16, kernel_size=3, backend="triton").eval()
    x = torch.randn(1, 16, 5, 6).to(memory_format=torch.channels_last).requires_grad_()
    expected = torch.autograd.grad(layer(x).square().sum(), (x, *layer.parameters()))
    actual = torch.autograd.grad(torch.compile(layer, fullgraph=True)(x).square().sum(), (x, *layer.parameters()))
    for a, e in zip(actual, expected, strict=True):
        assert relative_error(a, e) < 1e-4


def test_opcheck():
    x, hidden = torch.randn(2, 8, 4, 5, requires_grad=True), torch.randn(2, 3, 4, 5, requires_grad=True)
    weight, bias = torch.randn(18, 3, 1, 1, requires_grad=True), torch.randn(18, requires_grad=True)
    operator = torch.ops.involution.forward_of_span.default
    torch.library.opcheck(operator, (x, hidden, weight, bias, 2, (3, 3), (1, 1), (1, 1), (1, 1), "triton"))
