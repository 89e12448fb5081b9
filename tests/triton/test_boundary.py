"""The operators with the Triton kernels behind them: opcheck, compiling, autocast, determinism."""

import pytest
import torch
from cases import Case

from involution import Involution2d

pytestmark = pytest.mark.usefixtures("one_tile")


@pytest.mark.parametrize(
    ("case", "channels_last"),
    [
        (Case((4, 5), kernel=(1, 3)), True),
        (Case((3, 5), kernel=(1, 3), stride=2, channels=6), False),
        (Case((6, 7), batch=0), True),
    ],
    ids=str,
)
def test_opcheck(case, channels_last):
    x, h, dy = (t.requires_grad_() for t in case.tensors(torch.float32, channels_last))
    window = (*case.window[1:], "triton")
    torch.library.opcheck(torch.ops.involution.forward.default, (x, h, *window))
    torch.library.opcheck(torch.ops.involution.input_gradient.default, (dy, h, case.size, *window))
    torch.library.opcheck(torch.ops.involution.kernel_gradient.default, (dy, x, case.groups, case.kernel_size, *window))


def test_compile_fullgraph_forward_and_backward():
    layer = Involution2d(16, kernel_size=3, group_channels=8, backend="triton")
    x = torch.randn(2, 16, 6, 7, requires_grad=True)
    compiled = torch.compile(layer, fullgraph=True)
    actual = torch.autograd.grad(compiled(x).square().sum(), (x, *layer.parameters()))
    layer.backend = "reference"
    expected = torch.autograd.grad(layer(x).square().sum(), (x, *layer.parameters()))
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_autocast(dtype):
    case = Case((6, 7))
    x, h, _ = case.tensors(torch.float32)
    with torch.autocast("cpu", dtype=dtype):
        y = case.involution(x, h, backend="triton")
    assert y.dtype == dtype
    torch.testing.assert_close(y, case.involution(x.to(dtype), h.to(dtype), backend="reference"))


def test_deterministic():
    case = Case((6, 7), kernel=5)
    x, h, dy = case.tensors(torch.float32)
    x.requires_grad_()
    h.requires_grad_()
    runs = []
    for _ in range(2):
        y = case.involution(x, h, backend="triton")
        runs.append((y, *torch.autograd.grad(y, (x, h), dy)))
    for a, b in zip(*runs, strict=True):
        assert torch.equal(a, b)
