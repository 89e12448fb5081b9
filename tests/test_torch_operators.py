"""The operators that C++ registers with PyTorch: the same as Python's, and on good terms with the other backends."""

from math import prod

import pytest
import torch
from cases import cases

from involution import backends, involution2d
from involution.backends import native, reference
from involution.backends.native import loader

pytestmark = pytest.mark.skipif(not native.instruction_set(), reason="the native backend was not built")

INPUT, KERNEL = torch.randn(2, 32, 9, 8), torch.randn(2, 2, 3, 3, 9, 8)


class Picky:
    """A backend that serves small maps, and fails at some of them."""

    name = "picky"
    calls = 0

    def unsupported(self, request):
        return None if request.group_channels == 16 else "it serves 16 channels per group"

    def forward(self, out, input, kernel, window):
        self.calls += 1
        if input.shape[0] == 3:
            raise LookupError("three images are one too many")
        reference.forward(out, input, kernel, window)


@pytest.fixture
def picky(monkeypatch):
    monkeypatch.setattr(backends, "_BACKENDS", dict(backends._BACKENDS))
    backend = Picky()
    backends.register(backend)
    yield backend
    monkeypatch.undo()
    backends._tell_native()


def test_schemas_are_those_of_python():
    handle = loader.registered().handle
    names = [handle.involution_operator_name(i).decode() for i in range(handle.involution_operator_count())]
    for i, name in enumerate(names):
        schema = f"involution::{name}{handle.involution_operator_schema(i).decode()}"
        assert str(getattr(torch.ops.involution, name).default._schema) == schema
    assert len(names) == 5


def test_the_kernels_serve_the_operators_themselves():
    for name in ("forward", "input_gradient", "kernel_gradient", "forward_of_span", "gradients_of_span"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"involution::{name}", "CPU")


@cases()
@pytest.mark.parametrize("channels_last", [False, True])
def test_results_lie_in_memory_as_traced_ones_do(case, channels_last):
    x, h, dy = case.tensors(torch.float32, channels_last)
    window = case.window
    hidden = torch.randn(x.shape[0], 5, *dy.shape[2:])
    weight = torch.randn(prod(h.shape[1 : 2 + case.dims]), 5, *[1] * case.dims)
    calls = {
        "forward": (x, h, *window[1:]),
        "input_gradient": (dy, h, list(x.shape[2:]), *window[1:]),
        "kernel_gradient": (dy, x, h.shape[1], *window),
        "forward_of_span": (x, hidden, weight, None, h.shape[1], *window),
        "gradients_of_span": (dy, x, hidden, weight, weight[:, 0].flatten(), h.shape[1], *window),
    }
    for name, arguments in calls.items():
        operator = getattr(torch.ops.involution, name).default
        on_meta = [a.to("meta") if isinstance(a, torch.Tensor) else a for a in arguments]
        real, fake = operator(*arguments, "native"), operator(*on_meta, "native")
        for a, b in zip(*((t,) if isinstance(t, torch.Tensor) else t for t in (real, fake)), strict=True):
            assert a.shape == b.shape
            assert a.stride() == b.stride()


def test_a_backend_that_is_asked_first_serves(picky):
    result = torch.ops.involution.forward(INPUT, KERNEL, [1, 1], [1, 1], [1, 1], "auto")
    assert picky.calls == 1
    torch.testing.assert_close(result, involution2d(INPUT, KERNEL, backend="native"))


def test_what_it_does_not_serve_comes_back_to_the_kernels(picky):
    kernel = torch.randn(2, 4, 3, 3, 9, 8)
    torch.testing.assert_close(involution2d(INPUT, kernel), involution2d(INPUT, kernel, backend="reference"))
    assert picky.calls == 0


def test_what_it_raises_arrives_as_its_sentence(picky):
    with pytest.raises(RuntimeError, match=r"^three images are one too many$"):
        involution2d(torch.randn(3, 32, 9, 8), torch.randn(3, 2, 3, 3, 9, 8))


def test_a_while_with_another_backend_ends():
    with backends.use("reference"):
        inside = involution2d(INPUT, KERNEL)
    torch.testing.assert_close(inside, involution2d(INPUT, KERNEL))


def test_many_calls_keep_no_memory():
    import resource

    hidden, weight, bias = torch.randn(2, 8, 9, 8), torch.randn(18, 8, 1, 1), torch.randn(18)

    def calls():
        for _ in range(3000):
            torch.ops.involution.forward(INPUT, KERNEL, [1, 1], [1, 1], [1, 1], "auto")
            torch.ops.involution.forward_of_span(
                INPUT, hidden, weight, bias, 2, [3, 3], [1, 1], [1, 1], [1, 1], "auto", torch.ones(32), None, True
            )
            with pytest.raises(RuntimeError):
                torch.ops.involution.forward(INPUT, KERNEL[:1], [1, 1], [1, 1], [1, 1], "auto")

    with torch.inference_mode():
        calls()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        calls()
        # One tensor lost per call would be 54 MiB; kilobytes here.
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 << 10
