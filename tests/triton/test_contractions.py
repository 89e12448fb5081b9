"""The kernels against the reference in float64, outputs full of NaN before."""

import pytest
import torch
from cases import CASES, Case, cases, relative_error

from involution import backends
from involution.backends import reference, triton
from involution.backends.triton import launch
from involution.memory_layout import empty_field, empty_map

HALF = [
    Case((9, 8), kernel=7, channels=32),
    Case((8, 8), kernel=7, stride=2, channels=6, groups=2),
    Case((6, 7), channels=21, groups=3),
    Case((12, 13), kernel=3, dilation=2),
    Case((5, 6, 7)),
]


def contractions(case, x, h, dy, channels_last=False):
    """Yield name, output to write and operands of the three contractions."""
    yield "forward", empty_map(x, dy.shape, channels_last), x, h
    yield "input_gradient", empty_map(x, x.shape, channels_last), dy, h
    yield "kernel_gradient", empty_field(x, h.shape, channels_last), dy, x


def errors(case, x, h, dy, channels_last=False):
    """Yield each contraction's name, error and the reference's error in the same dtype, both against float64."""
    for name, out, a, b in contractions(case, x, h, dy, channels_last):
        exact, own = torch.empty_like(out, dtype=torch.float64), torch.empty_like(out)
        getattr(reference, name)(exact, a.double(), b.double(), case.window)
        getattr(reference, name)(own, a, b, case.window)
        getattr(triton, name)(out.fill_(float("nan")), a, b, case.window)
        yield name, relative_error(out, exact), relative_error(own, exact)


def check(case, x, h, dy, channels_last=False):
    for name, error, own in errors(case, x, h, dy, channels_last):
        # The interpreter cuts float32 to bfloat16 where a GPU rounds, which doubles the error.
        bound = 1e-6 if x.dtype == torch.float32 else (2 if name == "forward" and x.dtype == torch.float16 else 3) * own
        assert error <= bound, (name, error, own)


@cases(*(case for case in CASES if case.batch))
@pytest.mark.usefixtures("one_tile")
def test_every_geometry(case):
    check(case, *case.tensors(torch.float32, True), True)


@cases(*(case for case in CASES[::3] if case.batch))
@pytest.mark.usefixtures("one_tile")
def test_nchw(case):
    check(case, *case.tensors(torch.float32))


@cases(*HALF)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.usefixtures("one_tile")
def test_half_precision(case, dtype):
    check(case, *case.tensors(dtype, channels_last=True), True)


@cases(
    Case((5, 11), kernel=3, channels=32, groups=2, batch=3),
    Case((5, 5), kernel=3, stride=2, channels=80, groups=1, batch=3),
    Case((33,), kernel=3, channels=6, groups=3, batch=9),
)
def test_launch_table(case):
    """Many programs, each with its part, last tiles that hang over."""
    check(case, *case.tensors(torch.float32, True), True)


@cases(
    Case((2, 40), kernel=(1, 32), padding=(0, 15), channels=2),
    Case((70,), kernel=32, padding=30, stride=2, channels=2),
    Case((40,), kernel=19, dilation=2, channels=2),
    Case((2, 15), kernel=(1, 11), channels=2),
    Case((2, 15), kernel=(1, 9), channels=2),
)
@pytest.mark.usefixtures("one_tile")
def test_long_rows_of_taps(case):
    check(case, *case.tensors(torch.float32, True), True)


@pytest.mark.usefixtures("one_tile")
def test_any_strides():
    case = Case((6, 8), channels=8)
    x, h, dy = case.tensors(torch.float32)
    sliced = torch.randn(2, 16, 12, 10)
    sliced[:, ::2, ::2, 1:9] = x
    check(case, sliced[:, ::2, ::2, 1:9], h, dy.transpose(2, 3).contiguous().transpose(2, 3))
    # Gradients of a mean come expanded, fields of a callable may be shared between pixels, layouts may differ.
    check(case, x, h[..., :1, :1].expand_as(h), dy[:, :, :1, :1].expand_as(dy))
    _, h_last, dy_last = case.tensors(torch.float32, True)
    check(case, x, h_last, dy_last)
    check(case, x, h_last, dy_last, channels_last=True)


@pytest.mark.usefixtures("one_tile")
@pytest.mark.parametrize("stride", [1, 2])
def test_offsets_beyond_32_bits(stride):
    case = Case((4, 5), channels=2, groups=1, stride=stride)
    x, h, dy = case.tensors(torch.float16)
    # Memory that is never touched costs nothing: two maps, 2³¹ elements apart.
    far = torch.empty(2**31 + 512, dtype=torch.float16)
    views = [far.as_strided(t.shape, (2**31, *t.stride()[1:])) for t in (x, dy)]
    for view, tensor in zip(views, (x, dy), strict=True):
        view.copy_(tensor)
        check(case, *((view, h, dy) if tensor is x else (x, h, view)))
    field = far.as_strided(h.shape, (2**31, *h.stride()[1:]))
    check(case, x, field.copy_(h), dy)


def far_apart(tensor, dim, step):
    """Return ``tensor`` in memory that is never touched elsewhere, ``step`` elements between neighbours along ``dim``."""
    strides = [*tensor.contiguous().stride()]
    strides[dim] = step
    room = 1 + sum((n - 1) * s for n, s in zip(tensor.shape, strides, strict=True))
    return torch.empty(room, dtype=tensor.dtype).as_strided(tensor.shape, strides).copy_(tensor)


@pytest.mark.usefixtures("one_tile")
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("volume", [False, True])
def test_steps_beyond_32_bits(stride, volume):
    """Strides that fit into 32 bits, but not several of them; maps of single channels are used where they lie."""
    size, kernel = ((2, 2, 4), (3, 1, 3)) if volume else ((3, 5), 3)
    case = Case(size, kernel, channels=2, groups=2, batch=1, stride=stride)
    x, h, dy = case.tensors(torch.float16)
    step = 2**30 + 8
    for dim in range(2, x.ndim):
        check(case, *(far_apart(t, dim, step) for t in (x, h, dy)))
        check(case, x, far_apart(h, dim + case.dims, step), dy)


@pytest.mark.usefixtures("one_tile")
@pytest.mark.parametrize("block_channels", [1, 2])
def test_channels_beyond_32_bits(block_channels, monkeypatch):
    """Channels of a group that come in several blocks, far from each other."""
    case = Case((3, 3), channels=4, groups=1, batch=1, stride=2)
    monkeypatch.setattr(launch, "_MOST_CHANNELS", block_channels)
    x, h, dy = case.tensors(torch.float16)
    check(case, far_apart(x, 1, 2**30 + 8), h, dy)
    check(case, x, h, far_apart(dy, 1, 2**30 + 8))


@pytest.mark.usefixtures("one_tile")
def test_padding_beyond_32_bits():
    """Windows that reach further outside than the map is long, in a map of few long rows."""
    case = Case((2, 2), kernel=(5, 3), padding=(4, 1), channels=2, groups=2, batch=1)
    x, h, dy = case.tensors(torch.float16)
    check(case, far_apart(x, 2, 2**29 + 8), h, dy)
    check(case, x, h, far_apart(dy, 2, 2**27 + 8))
    check(case, x, far_apart(h, 4, 2**27 + 8), dy)


@pytest.mark.usefixtures("one_tile")
@pytest.mark.parametrize("stride", [1, 2])
def test_outside_the_map_nothing_is_multiplied(stride):
    case = Case((5, 5), channels=2, groups=1, batch=1, stride=stride)
    x, h, dy = case.tensors(torch.float32)
    h[..., 0, :, 0, :] = h[..., :, 0, :, 0] = float("inf")
    for name, error, _ in errors(case, x, h, dy):
        assert error < 1e-6, name
    dy[..., 0, 0] = float("inf")
    out = torch.empty_like(h)
    triton.kernel_gradient(out, dy, x, case.window)
    assert (out[..., 0, :, 0, 0] == 0).all() and not out.isnan().any()


@pytest.mark.usefixtures("one_tile")
@pytest.mark.parametrize("stride", [1, 2])
def test_not_a_number_stays_where_it_is(stride):
    case = Case((5, 6), channels=4, groups=2, batch=1, stride=stride)
    x, h, dy = case.tensors(torch.float32)
    x[0, 1, 2, 3] = h[0, 1, 1, 1, 1, 1] = float("nan")
    for name, out, a, b in contractions(case, x, h, dy):
        expected = torch.empty_like(out)
        getattr(reference, name)(expected, a, b, case.window)
        getattr(triton, name)(out, a, b, case.window)
        assert torch.equal(out.isnan(), expected.isnan()), name


def test_what_it_does_not_serve():
    explain = backends.explain
    assert explain("cpu")["triton"] is None
    assert explain("cpu", torch.float64)["triton"] == "it computes in float16, bfloat16 and float32, got float64"
    assert explain("cpu", kernel_size=(3, 33))["triton"] == (
        "it serves kernels of at most 32 columns, got a kernel of (3, 33)"
    )
