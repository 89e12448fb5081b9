"""The operator that makes its own field, in half precision: against float64, with every instruction set and layout."""

import itertools
import os
import subprocess
import sys

import pytest
import torch

from involution import involution2d, involution_of_span
from involution.backends import native

pytestmark = pytest.mark.skipif(not native.instruction_set(), reason="the native backend was not built")

# Hidden channels (odd, of no, one and several whole steps of a tile), window, groups, channels of a group, stride, size.
SPANS = [
    (1, (3, 3), 2, 16, 1, (9, 11)),
    (2, (1, 1), 1, 1, 1, (1, 1)),
    (6, (3, 5), 3, 3, 1, (8, 5)),
    (16, (7, 7), 4, 16, 1, (14, 9)),
    (16, (7, 7), 4, 16, 2, (15, 10)),
    (18, (5, 5), 2, 24, 1, (6, 33)),
    (34, (4, 4), 1, 8, 2, (12, 12)),
    (64, (9, 9), 2, 4, 1, (7, 7)),
    (96, (7, 7), 1, 64, 1, (28, 28)),
    (131, (3, 3), 1, 40, 1, (5, 17)),
    (130, (8, 8), 1, 16, 1, (10, 10)),
]


def span_tensors(span, dtype, value_last=True, hidden_last=True):
    hidden_channels, kernel, groups, group_channels, stride, size = span
    padding = tuple(k // 2 for k in kernel)
    out = [(n + 2 * p - k) // stride + 1 for n, p, k in zip(size, padding, kernel, strict=True)]
    layouts = [torch.channels_last if last else torch.contiguous_format for last in (value_last, hidden_last)]
    value = torch.randn(2, groups * group_channels, *size, dtype=dtype).to(memory_format=layouts[0])
    hidden = torch.randn(2, hidden_channels, *out, dtype=dtype).to(memory_format=layouts[1])
    rows = groups * kernel[0] * kernel[1]
    weight, bias = torch.randn(rows, hidden_channels, 1, 1, dtype=dtype), torch.randn(rows, dtype=dtype)
    window = {"groups": groups, "kernel_size": kernel, "stride": stride, "padding": padding}
    return value, hidden, weight, bias, window


@torch.no_grad()
def check(span, dtype, value_last, hidden_last, with_bias, relu):
    value, hidden, weight, bias, window = span_tensors(span, dtype, value_last, hidden_last)
    scale, offset = torch.randn(2, value.shape[1], dtype=dtype)
    actual = involution_of_span(
        value,
        hidden,
        weight,
        bias if with_bias else None,
        **window,
        scale=scale,
        offset=offset,
        relu=relu,
        backend="native",
    )
    assert actual.dtype == dtype
    exact, size = (
        exactly(*(f(t.double()) for t in (value, hidden, weight, bias * with_bias)), window) for f in (keep, abs)
    )
    column = (slice(None), None, None)
    exact = exact * scale.double()[column] + offset.double()[column]
    size = size * scale.double().abs()[column] + offset.double().abs()[column]
    if relu:
        exact = exact.relu()
    # Sums are float32's, of as many terms as hidden has channels; the result is rounded once.
    bound = (
        16 * torch.finfo(torch.float32).eps * size + torch.finfo(dtype).eps / 2 * exact.abs() + torch.finfo(dtype).tiny
    )
    assert ((actual.double() - exact).abs() <= bound).all(), (span, dtype)


def keep(tensor):
    return tensor


def exactly(value, hidden, weight, bias, window):
    field = torch.nn.functional.conv2d(hidden, weight, bias)
    field = field.unflatten(1, (window["groups"], *window["kernel_size"]))
    return involution2d(value, field, stride=window["stride"], padding=window["padding"], backend="reference")


def check_all():
    torch.manual_seed(0)
    for span, dtype in itertools.product(SPANS, (torch.bfloat16, torch.float16)):
        for value_last, hidden_last in itertools.product((True, False), repeat=2):
            check(span, dtype, value_last, hidden_last, with_bias=value_last, relu=hidden_last)


PROGRAM = """
import sys, torch
from involution.backends import native
sys.path.insert(0, {folder!r})
import test_half_precision
assert native.instruction_set() == {name!r}, native.instruction_set()
for threads in (1, 2):
    torch.set_num_threads(threads)
    test_half_precision.check_all()
"""


@pytest.mark.parametrize("name", ["baseline", "avx2", "avx512", "avx512_bf16", "amx"])
def test_every_instruction_set(name):
    if name not in native.instruction_sets():
        pytest.skip(f"this machine does not have {name}")
    program = PROGRAM.format(folder=os.path.dirname(__file__), name=name)
    environment = os.environ | {"INVOLUTION_NATIVE_ISA": name}
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=300
    )
    assert result.returncode == 0, result.stderr


def test_what_is_not_finite_stays_where_it_belongs():
    value, hidden, weight, bias, window = span_tensors((16, (3, 3), 2, 16, 1, (9, 20)), torch.bfloat16)
    value[0, 3, 4, 5], hidden[1, 0, 2, 2] = float("inf"), float("nan")
    y = involution_of_span(value, hidden, weight, bias, **window, backend="native")
    neighbours = torch.zeros(2, 32, 9, 20, dtype=torch.bool)
    neighbours[0, 3, 3:6, 4:7] = True
    assert (~y[0, 3, 3:6, 4:7].isfinite()).all()
    neighbours[1, :, 2, 2] = True
    assert y[1, :, 2, 2].isnan().all()
    assert y[~neighbours].isfinite().all()


def test_an_unaligned_hidden_map():
    value, hidden, weight, bias, window = span_tensors((16, (3, 3), 2, 16, 1, (9, 20)), torch.bfloat16)
    expected = involution_of_span(value, hidden, weight, bias, **window, backend="native")
    room = torch.empty(hidden.numel() + 1, dtype=torch.bfloat16)
    shifted = room[1:].as_strided(hidden.shape, hidden.stride())
    shifted.copy_(hidden)
    torch.testing.assert_close(
        involution_of_span(value, shifted, weight, bias, **window, backend="native"), expected, rtol=0, atol=0
    )
