"""The operator boundary: derivatives of every order, tracing, compiling, exporting, functional transforms."""

import pytest
import torch
from cases import CASES, Case, cases, layouts
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from involution import correlation2d, involution2d
from involution.operators import contraction

SMALL = [case.with_(channels=min(case.channels, 6), groups=1 if case.channels > 6 else case.groups) for case in CASES]


def small(case: Case) -> bool:
    pixels = 1
    for n in (*case.size, *case.kernel_size):
        pixels *= n
    return case.batch > 0 and pixels < 700


@cases(*filter(small, SMALL))
def test_gradients_of_first_and_second_order(case):
    x, h, _ = case.with_(batch=1).tensors()
    x.requires_grad_()
    h.requires_grad_()
    assert torch.autograd.gradcheck(case.involution, (x, h), fast_mode=True)
    assert torch.autograd.gradgradcheck(case.involution, (x, h), fast_mode=True)


def test_full_gradcheck_and_third_order():
    case = Case((3, 4), channels=2, groups=1, batch=1, stride=2)
    x, h, _ = case.tensors()
    x.requires_grad_()
    h.requires_grad_()
    assert torch.autograd.gradcheck(case.involution, (x, h))
    assert torch.autograd.gradgradcheck(case.involution, (x, h))

    def second(x, h):
        (gx,) = torch.autograd.grad(case.involution(x, h).pow(3).sum(), x, create_graph=True)
        (gh,) = torch.autograd.grad(gx.square().sum(), h, create_graph=True)
        return gh

    assert torch.autograd.gradcheck(second, (x, h))


def test_gradients_of_the_gradient_operators():
    case = Case((4, 5), channels=4, batch=1)
    x, h, dy = case.tensors()
    for tensor in (x, h, dy):
        tensor.requires_grad_()
    arguments = (case.window, "auto")
    for function, inputs in (
        (lambda dy, h: contraction.input_gradient(dy, h, case.size, *arguments), (dy, h)),
        (lambda dy, x: contraction.kernel_gradient(dy, x, case.groups, *arguments), (dy, x)),
    ):
        assert torch.autograd.gradcheck(function, inputs, fast_mode=True)
        assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


OPCHECKED = [
    Case((6, 7)),
    Case((7, 9), kernel=5, stride=2, channels=32),
    Case((6, 7), batch=0),
    Case((9,), kernel=3, dilation=2),
    Case((3, 4, 5), kernel=(1, 3, 3), stride=(1, 2, 1)),
]


@cases(*OPCHECKED)
@layouts()
def test_opcheck(case, channels_last):
    x, h, dy = case.tensors(channels_last=channels_last)
    for tensor in (x, h, dy):
        tensor.requires_grad_()
    arguments = (*case.window[1:], "auto")
    torch.library.opcheck(torch.ops.involution.forward.default, (x, h, *arguments))
    torch.library.opcheck(torch.ops.involution.input_gradient.default, (dy, h, case.size, *arguments))
    torch.library.opcheck(
        torch.ops.involution.kernel_gradient.default, (dy, x, case.groups, case.kernel_size, *arguments)
    )


@cases()
@layouts()
def test_fakes_have_the_strides_of_the_real_tensors(case, channels_last):
    from torch._subclasses import FakeTensorMode

    x, h, dy = case.tensors(torch.float32, channels_last)
    arguments = (case.window, "auto")
    with FakeTensorMode() as mode:
        fx, fh, fdy = (mode.from_tensor(tensor) for tensor in (x, h, dy))
        fakes = (
            contraction.forward(fx, fh, *arguments),
            contraction.input_gradient(fdy, fh, case.size, *arguments),
            contraction.kernel_gradient(fdy, fx, case.groups, *arguments),
        )
    reals = (
        contraction.forward(x, h, *arguments),
        contraction.input_gradient(dy, h, case.size, *arguments),
        contraction.kernel_gradient(dy, x, case.groups, *arguments),
    )
    for fake, real in zip(fakes, reals, strict=True):
        assert (fake.shape, fake.stride(), fake.dtype) == (real.shape, real.stride(), real.dtype)


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_compile_fullgraph_forward_and_backward(dynamic):
    def loss(x, h):
        y = involution2d(torch.relu(x), h * 2, stride=2)
        return (y * y).mean()

    compiled = torch.compile(loss, fullgraph=True, dynamic=dynamic)
    for size, batch, channels_last in [((7, 9), 2, False), ((12, 5), 3, True)]:
        case = Case(size, kernel=5, stride=2, batch=batch)
        x, h, _ = case.tensors(torch.float32, channels_last)
        expected = torch.autograd.grad(loss(x.requires_grad_(), h.requires_grad_()), (x, h))
        actual = torch.autograd.grad(compiled(x, h), (x, h))
        for a, e in zip(actual, expected, strict=True):
            torch.testing.assert_close(a, e)


class Strided(torch.nn.Module):
    def forward(self, x, h):
        return involution2d(x, h, stride=2).relu()


def test_export_with_dynamic_batch_and_size(tmp_path):
    batch, height, width = (torch.export.Dim(name, min=2, max=512) for name in ("batch", "height", "width"))
    x, h, _ = Case((8, 10), stride=2).tensors(torch.float32)
    # The field's grid is tied to the map's size by the operator's own check.
    program = torch.export.export(
        Strided(),
        (x, h),
        dynamic_shapes=(
            {0: batch, 2: 2 * height, 3: 2 * width},
            {0: batch, 4: height, 5: width},
        ),
    )
    torch.export.save(program, tmp_path / "program.pt2")
    loaded = torch.export.load(tmp_path / "program.pt2").module()
    x, h, _ = Case((14, 6), stride=2, batch=3).tensors(torch.float32)
    torch.testing.assert_close(loaded(x, h), Strided()(x, h))


@pytest.mark.parametrize("in_dims", [(0, None), (None, 0), (1, 0), (0, 2)], ids=str)
def test_vmap(in_dims):
    case = Case((5, 6), channels=4)
    x, h, _ = case.tensors()
    stacked = [
        tensor if dim is None else torch.stack([tensor, tensor * 2, tensor - 1], dim)
        for tensor, dim in zip((x, h), in_dims, strict=True)
    ]
    mapped = torch.func.vmap(case.involution, in_dims=in_dims)(*stacked)
    for n in range(3):
        arguments = [t if dim is None else t.select(dim, n) for t, dim in zip(stacked, in_dims, strict=True)]
        torch.testing.assert_close(mapped[n], case.involution(*arguments))


def test_functional_transforms_compose():
    case = Case((4, 4), channels=2, groups=1, batch=1)
    x, h, _ = case.tensors()
    jacobian = torch.func.jacrev(case.involution, argnums=(0, 1))(x, h)
    expected = torch.autograd.functional.jacobian(case.involution, (x, h))
    for a, e in zip(jacobian, expected, strict=True):
        torch.testing.assert_close(a, e)
    per_sample = torch.func.vmap(torch.func.grad(lambda h, x: case.involution(x[None], h[None]).square().sum()))
    batch = torch.randn(3, 2, 4, 4, dtype=torch.float64)
    fields = torch.randn(3, *h.shape[1:], dtype=torch.float64)
    grads = per_sample(fields, batch)
    fields.requires_grad_()
    case.involution(batch, fields).square().sum().backward()
    torch.testing.assert_close(grads, fields.grad)


def test_forward_mode_and_hessian():
    case = Case((3, 4), channels=2, groups=1, batch=1, stride=2)
    x, h, _ = case.tensors()
    assert torch.autograd.gradcheck(
        case.involution, (x.requires_grad_(), h.requires_grad_()), check_forward_ad=True, fast_mode=True
    )
    x, h = x.detach(), h.detach()

    def energy(x, h):
        return case.involution(x, h).square().sum()

    hessian = torch.func.hessian(energy, argnums=(0, 1))(x, h)
    expected = torch.autograd.functional.hessian(energy, (x, h))
    for row, expected_row in zip(hessian, expected, strict=True):
        for a, e in zip(row, expected_row, strict=True):
            torch.testing.assert_close(a, e)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_autocast_casts_as_pytorch_does(dtype):
    case = Case((6, 7))
    x, h, _ = case.tensors(torch.float32)
    with torch.autocast("cpu", dtype=dtype):
        y = case.involution(x, h.to(dtype))
        logits = correlation2d(x, x.to(dtype), 3, groups=2)
        compiled = torch.compile(case.involution, fullgraph=True)(x, h.to(dtype))
        exact = case.involution(x.double(), h.double())
    assert y.dtype == logits.dtype == compiled.dtype == dtype
    assert exact.dtype == torch.float64
    torch.testing.assert_close(y, case.involution(x.to(dtype), h.to(dtype)))
    torch.testing.assert_close(compiled, y)


def test_activation_checkpointing():
    case = Case((6, 7))
    x, h, _ = case.tensors()
    x.requires_grad_()
    h.requires_grad_()
    expected = torch.autograd.grad(case.involution(x, h).square().sum(), (x, h))
    actual = torch.autograd.grad(checkpoint(case.involution, x, h, use_reentrant=False).square().sum(), (x, h))
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=0, atol=0)


def test_deterministic():
    case = Case((9, 11), kernel=5, channels=32)
    x, h, dy = case.tensors(torch.float32)
    x.requires_grad_()
    h.requires_grad_()
    torch.use_deterministic_algorithms(True)
    try:
        runs = [(y := case.involution(x, h), *torch.autograd.grad(y, (x, h), dy)) for _ in range(3)]
    finally:
        torch.use_deterministic_algorithms(False)
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(run, runs[0], strict=True))


@cases(Case((6, 7), kernel=5), Case((12, 9), stride=2, channels=32), Case((9,)), Case((3, 4, 5)))
def test_flops_are_two_per_multiply_add(case):
    taps, pixels = 1, 1
    for k in case.kernel_size:
        taps *= k
    for n in case.output_size:
        pixels *= n
    expected = 2 * case.batch * case.channels * pixels * taps
    x, h, dy = case.tensors(torch.float32)
    with FlopCounterMode(display=False) as counter:
        y = case.involution(x.requires_grad_(), h.requires_grad_())
    assert counter.get_total_flops() == expected
    with FlopCounterMode(display=False) as counter:
        y.backward(dy)
    assert counter.get_total_flops() == 2 * expected


@layouts()
@pytest.mark.parametrize("backend", ["native", "reference"])
def test_results_can_be_changed_in_place(channels_last, backend):
    case = Case((6, 7))
    x, h, _ = case.tensors(torch.float32, channels_last)
    x.requires_grad_()
    for result in (correlation2d(x, x, 3, groups=2, backend=backend), case.involution(x, h, backend)):
        before = result.detach().clone()
        torch.testing.assert_close(result.mul_(2).detach(), before * 2)


@layouts()
def test_every_element_is_written(channels_last, monkeypatch):
    """Outputs are allocated full of NaN: a backend that leaves one out shows it."""
    from involution.memory_layout import empty_field, empty_map

    def poisoned(allocate):
        return lambda *arguments: allocate(*arguments).fill_(float("nan"))

    monkeypatch.setattr(contraction, "empty_map", poisoned(empty_map))
    monkeypatch.setattr(contraction, "empty_field", poisoned(empty_field))
    for case in CASES:
        x, h, dy = case.tensors(torch.float32, channels_last)
        arguments = (case.window, "auto")
        assert not contraction.forward(x, h, *arguments).isnan().any()
        assert not contraction.input_gradient(dy, h, case.size, *arguments).isnan().any()
        assert not contraction.kernel_gradient(dy, x, case.groups, *arguments).isnan().any()


X, H = (2, 32, 9, 8), (2, 2, 3, 3, 9, 8)
WINDOW = ([1, 1], [1, 1], [1, 1], "auto")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("forward", (X, (2, 2, 3, 3, 4, 4), *WINDOW)),
        ("forward", (X, (1, 2, 3, 3, 9, 8), *WINDOW)),
        ("forward", (X, (2, 3, 3, 3, 9, 8), *WINDOW)),
        ("forward", (X, (2, 2, 3, 9, 8), *WINDOW)),
        ("forward", (X, H, [1], [1, 1], [1, 1], "auto")),
        ("forward", (X, H, [0, 1], [1, 1], [1, 1], "auto")),
        ("forward", (X, H, [1, 1], [-1, 1], [1, 1], "auto")),
        ("forward", (X, H, [1, 2**63 - 1], [1, 1], [1, 1], "auto")),
        ("forward", (X, H, [2**62, 2**62], [2**62, 2**62], [1, 1], "auto")),
        ("input_gradient", (X, H, [9, 8], [1, 1], [1, 1], [2**31, 1], "native")),
        ("kernel_gradient", (X, X, 2, [2**16, 2**16], [1, 1], [2**15, 2**15], [1, 1], "auto")),
        ("forward_of_span", (X, (2, 8, 9, 8), (18, 8, 1, 1), None, 2, [3, 3], [2**40, 1], [1, 1], [1, 1], "auto")),
        ("input_gradient", (X, H, [20, 8], *WINDOW)),
        ("input_gradient", (X, (2, 2, 3, 3, 9, 9), [9, 8], *WINDOW)),
        ("kernel_gradient", (X, (2, 32, 9, 9), 2, [3, 3], *WINDOW)),
        ("kernel_gradient", (X, X, 5, [3, 3], *WINDOW)),
        ("forward_of_span", (X, (2, 8, 4, 4), (18, 8, 1, 1), None, 2, [3, 3], *WINDOW)),
        ("forward_of_span", (X, (2, 8, 9, 8), (18, 4, 1, 1), None, 2, [3, 3], *WINDOW)),
        ("forward_of_span", (X, (2, 8, 9, 8), (18, 8, 1, 1), (17,), 2, [3, 3], *WINDOW)),
        ("gradients_of_span", ((2, 32, 9, 9), X, (2, 8, 9, 8), (18, 8, 1, 1), None, 2, [3, 3], *WINDOW)),
        ("forward_of_span", (X, (2, 8, 9, 8), (18, 8, 1, 1), None, 2, [3, 3], *WINDOW, (31,), None, False)),
        ("forward_of_span", (X, (2, 8, 9, 8), (18, 8, 1, 1), None, 2, [3, 3], *WINDOW, None, (32, 1), True)),
    ],
)
def test_nothing_that_contradicts_itself_reaches_a_kernel(name, arguments):
    tensors = [torch.randn(a) if isinstance(a, tuple) else a for a in arguments]
    # PyTorch hands on what comes from C++ as a RuntimeError.
    with pytest.raises((ValueError, RuntimeError), match=r"must|divisible"):
        getattr(torch.ops.involution, name)(*tensors)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("forward", (X, H, *WINDOW)),
        ("input_gradient", (X, H, [9, 8], *WINDOW)),
        ("kernel_gradient", (X, X, 2, [3, 3], *WINDOW)),
        ("forward_of_span", (X, (2, 8, 9, 8), (18, 8, 1, 1), (18,), 2, [3, 3], *WINDOW)),
        ("gradients_of_span", (X, X, (2, 8, 9, 8), (18, 8, 1, 1), (18,), 2, [3, 3], *WINDOW)),
    ],
)
def test_tensors_of_different_dtype_or_layout_reach_no_kernel(name, arguments):
    operator = getattr(torch.ops.involution, name)
    tensors = [torch.randn(a) if isinstance(a, tuple) else a for a in arguments]
    operator(*tensors)
    for i, tensor in enumerate(tensors):
        if isinstance(tensor, torch.Tensor):
            # PyTorch hands on what comes from C++ as a RuntimeError.
            with pytest.raises((TypeError, ValueError, RuntimeError), match="dtype"):
                operator(*tensors[:i], tensor.half(), *tensors[i + 1 :])
            if tensor.ndim > 1:
                with pytest.raises((TypeError, RuntimeError), match=r"dense tensor.*sparse_coo|same dtype|dtype"):
                    operator(*tensors[:i], tensor.to_sparse(), *tensors[i + 1 :])
