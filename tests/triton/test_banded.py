"""Generation and multiply-add in one kernel against the field made by a matrix product and the reference, in float64."""

import pytest
import torch
from cases import relative_error

from involution.backends import Request, reference
from involution.backends.triton import banded_launch
from involution.geometry import to_window
from involution.memory_layout import empty_map


def exact(x, hidden, weight, bias):
    dims, groups, taps = x.ndim - 2, weight.shape[0], weight.shape[1:-1]
    matrix = weight.double().flatten(0, -2)
    field = torch.einsum("nc,bc...->bn...", matrix, hidden.double())
    if bias is not None:
        field += bias.double().view(-1, *[1] * dims)
    out = torch.empty_like(x, dtype=torch.float64)
    window = to_window(taps, 1, "same", 1, dims)
    reference.forward(out, x.double(), field.unflatten(1, (groups, *taps)), window)
    return out


def tensors(size, groups, hidden, taps, dtype, channels_last, bias=True, batch=2):
    def image(channels):
        values = torch.randn(batch, channels, *size).to(dtype)
        return empty_map(values, values.shape, channels_last).copy_(values)

    weight = (torch.randn(groups, *taps, hidden) / hidden**0.5).to(dtype)
    return image(16 * groups), image(hidden), weight, torch.randn(weight[..., 0].numel()).to(dtype) if bias else None


@pytest.mark.parametrize(
    ("size", "groups", "hidden", "taps", "channels_last", "bias"),
    [
        ((9, 7), 2, 16, (7, 7), True, True),
        ((6, 11), 1, 8, (3, 5), False, True),
        ((3, 3), 3, 24, (7, 7), True, False),
        ((1, 1), 1, 128, (5, 3), True, True),
        ((2, 40), 2, 4, (1, 7), True, True),
        ((37,), 2, 16, (7,), True, True),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_equals_generation_and_multiply_add(size, groups, hidden, taps, channels_last, bias, dtype):
    x, h, weight, offset = tensors(size, groups, hidden, taps, dtype, channels_last, bias)
    out = torch.full_like(x, float("nan"))
    banded_launch.span_and_contract(out, x, h, weight, offset)
    # The field is rounded once and the result once; the interpreter cuts bfloat16 instead of rounding.
    bound = torch.finfo(dtype).eps * (1.5 if dtype == torch.bfloat16 else 0.7)
    assert relative_error(out, exact(x, h, weight, offset)) < bound


def test_offsets_of_64_bits(monkeypatch):
    x, h, weight, bias = tensors((9, 7), 2, 16, (7, 7), torch.float16, True)
    outs = [torch.full_like(x, float("nan")) for _ in range(2)]
    for out, narrow in zip(outs, (banded_launch.NARROW, 0), strict=True):
        monkeypatch.setattr(banded_launch, "NARROW", narrow)
        banded_launch.span_and_contract(out, x, h, weight, bias)
    assert torch.equal(*outs)
    assert banded_launch.plan(1, (9, 7), 2, 16, 16, (7, 7)).arguments[-1]
    monkeypatch.undo()
    assert [banded_launch.plan(1, (side, side), 32, 16, 128, (7, 7)).arguments[-1] for side in (1024, 2048)] == [
        False,
        True,
    ]


def test_not_a_number_stays_in_its_image_and_group():
    x, h, weight, bias = tensors((5, 6), 2, 8, (3, 3), torch.float16, True)
    x[0, 20, 2, 3] = float("nan")
    out = torch.empty_like(x)
    banded_launch.span_and_contract(out, x, h, weight, bias)
    where = out.isnan()
    assert where[0, 20, 1:4, 2:5].all()
    assert not where[1].any() and not where[0, :20].any() and not where[0, 21:].any()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, None),
        ({"dtype": torch.float32}, "it computes in float16 and bfloat16, got float32"),
        ({"window": to_window(7, 1, "same", 1, 3)}, "it serves one and two dimensions, got 3"),
        (
            {"window": to_window(7, (2, 1), "same", 1, 2)},
            r"it serves stride 1 and dilation 1, got stride (2, 1) and dilation (1, 1)",
        ),
        (
            {"window": to_window((7, 9), 1, 3, 1, 2)},
            "it serves odd kernels up to 7 with padding 'same', got (7, 9) and padding (3, 3)",
        ),
        (
            {"window": to_window((5, 7), 1, 3, 1, 2)},
            "it serves odd kernels up to 7 with padding 'same', got (5, 7) and padding (3, 3)",
        ),
        ({"group_channels": 8}, "it serves 16 channels per group, got 8"),
        ({"hidden": 256}, "it serves at most 128 hidden channels, got 256"),
    ],
    ids=str,
)
def test_says_what_it_does_not_serve(changes, words):
    hidden = changes.pop("hidden", 16)
    request = Request(torch.device("cpu"), torch.float16, 16, to_window(7, 1, "same", 1, 2))._replace(**changes)
    assert banded_launch.unsupported(request, hidden) == words
