"""The native CPU backend against the reference: every geometry, dtype, layout and instruction set."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from cases import CASES, Case, cases, layouts, relative_error
from hypothesis import given, settings
from hypothesis import strategies as st

from involution import backends, involution2d
from involution.backends import Request, Window, native, reference
from involution.geometry import to_window

REASON = native.unsupported(Request(torch.device("cpu"), torch.float32, 16, to_window(7, 1, "same", 1, 2)))
pytestmark = pytest.mark.skipif(REASON is not None, reason=f"the native backend cannot serve: {REASON}")

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
OPERATORS = ["forward", "input_gradient", "kernel_gradient"]


def call(backend, operator, case, x, h, dy):
    """Return one contraction's result in a buffer that was full of NaN."""
    out, *arguments = {"forward": (dy, x, h), "input_gradient": (x, dy, h), "kernel_gradient": (h, dy, x)}[operator]
    out = torch.full_like(out, float("nan"))
    if out.numel():
        getattr(backend, operator)(out, *arguments, case.window)
    return out


def check(case, x, h, dy):
    """Compare all three contractions with the reference in float64, half precision with the reference's own error."""
    exact_arguments = [tensor.double() for tensor in (x, h, dy)]
    for operator in OPERATORS:
        exact = call(reference, operator, case, *exact_arguments)
        error = relative_error(call(native, operator, case, x, h, dy), exact)
        if x.dtype in (torch.float32, torch.float64):
            bound = 20 * torch.finfo(x.dtype).eps
        else:
            own = relative_error(call(reference, operator, case, x, h, dy), exact)
            bound = (2 if operator == "forward" else 3) * max(own, torch.finfo(x.dtype).eps / 8)
        assert error <= bound, f"{operator}: error {error:.2e}, allowed {bound:.2e}"


@cases()
@layouts()
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_all_contractions_equal_the_reference(case, dtype, channels_last):
    check(case, *case.tensors(dtype, channels_last))


@cases(
    Case((56, 56), kernel=7, channels=64, groups=4, batch=1),
    Case((28, 28), kernel=7, channels=128, groups=8, batch=1),
    Case((14, 14), kernel=7, channels=32, groups=2),
    Case((7, 7), kernel=7, channels=32, groups=2),
    Case((29, 57), kernel=7, stride=2, channels=32, groups=2),
    Case((30, 45), kernel=3, stride=2, channels=48, groups=1),
    Case((17, 100), kernel=5, channels=31, groups=1),
    Case((9, 9), kernel=31, channels=8, groups=2),
    Case((4, 700), kernel=9, channels=24, groups=3),
)
@layouts()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_shapes_that_fill_whole_tiles(case, dtype, channels_last):
    check(case, *case.tensors(dtype, channels_last))


@cases(*CASES[3:8], CASES[-3])
def test_mixed_layouts(case):
    """Each tensor in either layout."""
    plain, last = case.tensors(torch.float32), case.tensors(torch.float32, channels_last=True)
    for choice in range(8):
        check(case, *((last if choice >> i & 1 else plain)[i] for i in range(3)))


def test_sliced_expanded_unaligned_and_transposed_tensors():
    case = Case((9, 10), kernel=5, channels=32)
    x, h, dy = case.tensors(torch.float32, channels_last=True)
    storage = torch.empty(x.numel() + 1)
    unaligned = storage[1:].view(2, 9, 10, 32).permute(0, 3, 1, 2).copy_(x)
    assert unaligned.data_ptr() % 8
    check(case, unaligned, h, dy)
    check(case, torch.randn(2, 64, 20, 12)[:, ::2, 1:19:2, 1:11], h, dy)
    check(case, torch.randn(1, 32, 9, 1).expand(2, 32, 9, 10), h, dy)
    check(case, torch.randn(10, 9, 32, 2).permute(3, 2, 1, 0), h, dy)
    expanded = torch.randn(1, 2, 5, 5, 1, 1).expand(2, 2, 5, 5, 9, 10)
    for operator in ("forward", "input_gradient"):
        actual = call(native, operator, case, x, expanded, dy)
        exact = call(reference, operator, case, x.double(), expanded.double(), dy.double())
        assert relative_error(actual, exact) < 1e-6
    flipped = h.flip(2).permute(0, 1, 3, 2, 5, 4).contiguous().permute(0, 1, 3, 2, 5, 4)
    check(case, x, flipped, dy)


@layouts()
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_what_is_not_finite_goes_where_the_reference_sends_it(value, channels_last):
    for case in (Case((9, 10), kernel=7, channels=32), Case((9, 7), kernel=5, stride=2, channels=6)):
        for position in range(3):
            tensors = list(case.tensors(torch.float32, channels_last))
            flat = torch.zeros(tensors[position].shape).flatten()
            flat[:: max(1, flat.numel() // 7)] = value
            tensors[position] += flat.view(tensors[position].shape)
            for operator in OPERATORS:
                actual, expected = (call(backend, operator, case, *tensors) for backend in (native, reference))
                assert torch.equal(actual.isnan(), expected.isnan()), operator
                assert torch.equal(actual.isposinf(), expected.isposinf()), operator
                assert torch.equal(actual.isneginf(), expected.isneginf()), operator


def test_weights_beyond_the_border_do_not_count():
    x, h = torch.ones(1, 16, 4, 5), torch.full((1, 1, 3, 3, 4, 5), float("inf"))
    h[:, :, 1, 1] = 1
    h[:, :, :, :, 1:-1, 1:-1] = 1
    h[..., 0, 2], h[..., 0, :, 0, 2] = 1, float("nan")
    assert involution2d(x, h, backend="native")[0, 0, 0, 2] == 6


LARGEST = 2**31 - 1


@cases(
    Case((6, 2), stride=(1, LARGEST), padding=1),
    Case((6, 6), kernel=7, stride=LARGEST, padding=3),
    Case((4, 5), stride=LARGEST, padding=LARGEST - 1),
    Case((4, 5), dilation=LARGEST, padding=LARGEST),
    Case((4, 5), stride=LARGEST, dilation=LARGEST, padding=LARGEST),
    Case((4, 5), kernel=2, dilation=LARGEST, padding=LARGEST // 2),
)
@layouts()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_largest_windows(case, dtype, channels_last):
    check(case, *case.tensors(dtype, channels_last))


@st.composite
def calls(draw):
    dims = draw(st.integers(1, 3))
    case = Case(
        size=tuple(draw(st.integers(1, (40, 20, 7)[dims - 1])) for _ in range(dims)),
        kernel=tuple(draw(st.integers(1, 7)) for _ in range(dims)),
        stride=tuple(draw(st.integers(1, 3)) for _ in range(dims)),
        padding=tuple(draw(st.integers(0, 4)) for _ in range(dims)),
        dilation=tuple(draw(st.integers(1, 3)) for _ in range(dims)),
        batch=draw(st.integers(1, 2)),
    )
    groups = draw(st.integers(1, 4))
    case = case.with_(groups=groups, channels=groups * draw(st.integers(1, 40)))
    return case, draw(st.sampled_from(DTYPES)), [draw(st.booleans()) for _ in range(3)]


@given(calls())
@settings(max_examples=200, deadline=None)
def test_any_geometry(drawn):
    case, dtype, choice = drawn
    try:
        case.window.output_size(case.size)
    except ValueError:
        return
    plain, last = case.tensors(dtype), case.tensors(dtype, channels_last=True)
    tensors = [(last if choice[i] else plain)[i] for i in range(3)]
    exact_arguments = [tensor.double() for tensor in tensors]
    for operator in OPERATORS:
        exact = call(reference, operator, case, *exact_arguments)
        actual = call(native, operator, case, *tensors)
        # The error of a sum is measured by the sum of what it adds up: the result may cancel.
        size = call(reference, operator, case, *(tensor.abs() for tensor in exact_arguments))
        bound = 8 * torch.finfo(torch.promote_types(dtype, torch.float32)).eps * size
        if dtype in (torch.bfloat16, torch.float16):
            bound = bound + torch.finfo(dtype).eps * exact.abs() + torch.finfo(dtype).tiny
        assert ((actual.double() - exact).abs() <= bound).all(), operator


PROGRAM = """
import sys, torch
from involution.backends import native
sys.path.insert(0, {folder!r})
import test_native
from cases import CASES
torch.set_num_threads(1)
assert native.instruction_set() == {name!r}, native.instruction_set()
torch.manual_seed(0)
for case in CASES:
    for channels_last in (False, True):
        for dtype in test_native.DTYPES:
            test_native.check(case, *case.tensors(dtype, channels_last))
"""

EXPLAIN = "import involution; print(involution.backends.explain()['native'])"


def python(program: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=os.environ | environment, timeout=300
    )


@pytest.mark.parametrize("name", ["baseline", "avx2", "avx512"])
def test_every_instruction_set(name):
    if name not in native.instruction_sets():
        pytest.skip(f"this machine does not have {name}")
    program = PROGRAM.format(folder=os.path.dirname(__file__), name=name)
    result = python(program, INVOLUTION_NATIVE_ISA=name)
    assert result.returncode == 0, result.stderr


def test_an_instruction_set_that_is_not_there_is_refused():
    result = python(EXPLAIN, INVOLUTION_NATIVE_ISA="sve")
    assert "INVOLUTION_NATIVE_ISA asks for 'sve'; this machine and build have 'baseline'" in result.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="the library of other sources is one of torch's")
def test_kernels_of_other_sources_are_refused():
    other = Path(torch.__file__).parent / "lib" / "libc10.so"
    result = python(EXPLAIN, INVOLUTION_NATIVE_LIBRARY=str(other))
    assert f"its kernels ({other}) were built from other sources than these; install a C++17" in result.stdout


def test_memory_that_was_freed_is_refused():
    """As FSDP frees the weights of a module when it has run."""
    x, kernel = torch.randn(1, 16, 6, 6), torch.randn(1, 1, 3, 3, 6, 6)
    kernel.untyped_storage().resize_(0)
    with pytest.raises(
        RuntimeError, match=r"the memory of a tensor was freed, as FSDP frees .*; shard whole involution layers"
    ):
        involution2d(x, kernel, backend="native")


def test_threads_give_the_same_bits():
    case = Case((57, 31), kernel=7, channels=64, groups=4)
    tensors = case.tensors(torch.float32, channels_last=True)
    before, results = torch.get_num_threads(), []
    try:
        for n in (1, 2, 3, 7):
            torch.set_num_threads(n)
            results.append([call(native, operator, case, *tensors) for operator in OPERATORS])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


def test_concurrent_calls():
    case = Case((31, 29), kernel=7, channels=32)
    tensors = case.tensors(torch.float32)
    expected = [call(native, operator, case, *tensors) for operator in OPERATORS]
    wrong = []

    def work():
        for _ in range(20):
            for operator, result in zip(OPERATORS, expected, strict=True):
                if not torch.equal(call(native, operator, case, *tensors), result):
                    wrong.append(operator)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")
def test_a_forked_child_computes():
    result = python(
        "import os, torch\n"
        "torch.set_num_threads(2)\n"
        "from involution import involution2d\n"
        "x, h = torch.randn(1, 64, 56, 56), torch.randn(1, 4, 7, 7, 56, 56)\n"
        "y = involution2d(x, h, backend='native').numpy().tobytes()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        # Only what involves no parallel loop of torch itself, which would wait for its parent's threads.
        "    os._exit(0 if involution2d(x, h, backend='native').numpy().tobytes() == y else 3)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_threads_are_torchs_own():
    result = python(
        "import os, torch\n"
        "torch.set_num_threads(2)\n"
        "from involution import involution2d\n"
        "a = torch.randn(2000, 2000)\n"
        "a.exp()\n"
        "count = lambda: len(os.listdir('/proc/self/task'))\n"
        "before = count()\n"
        "x, h = torch.randn(1, 64, 56, 56), torch.randn(1, 4, 7, 7, 56, 56)\n"
        "involution2d(x, h, backend='native')\n"
        "assert count() == before, (count(), before)\n"
        "print(sum('libgomp' in line and 'r-xp' in line for line in open('/proc/self/maps')))\n"
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "1"


def test_auto_takes_it_on_the_cpu_only():
    assert next(name for name, reason in backends.explain().items() if reason is None) == "native"
    assert "serves CPU tensors, got a tensor on meta" in backends.explain("meta")["native"]


@pytest.mark.skipif(
    not hasattr(os, "sysconf") or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") < 16 << 30,
    reason="needs 16 GiB of memory",
)
def test_more_than_two_to_the_31_values():
    """A field whose last values lie beyond what 32 bits count."""
    window = Window((1, 3), (1, 1), (0, 1), (1, 1))
    x = torch.zeros(1, 1, 8, 90_000_000, dtype=torch.bfloat16)
    x[0, 0, 7, -1] = 2
    out = torch.full((1, 1, 1, 3, 8, 90_000_000), 7, dtype=torch.bfloat16)
    assert out.numel() > 2**31
    native.kernel_gradient(out, x, x, window)
    assert out[0, 0, 0, :, 7, -1].tolist() == [0, 4, 0]
    assert out[0, 0, 0, 1, 3].count_nonzero() == 0
