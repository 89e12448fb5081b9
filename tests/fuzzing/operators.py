"""Random calls of operators and layers: right by the definition, or refused in a sentence."""

import random

import definition
import torch
from cases import Case
from torch import nn

from involution import Involution1d, Involution2d, Involution3d, involution1d, involution2d, involution3d

OPERATORS = (involution1d, involution2d, involution3d)
LAYERS = (Involution1d, Involution2d, Involution3d)
# Of the largest value of the exact result.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}


def check_sentence(refused: Exception) -> None:
    assert "\n" not in str(refused) and len(str(refused)) > 20, refused


def call_operator(dice: random.Random) -> None:
    """Compare a call and its gradients with sums written out from the definition."""
    dims = dice.choice([1, 2, 2, 2, 3])
    groups = dice.choice([1, 2, 3])
    case = Case(
        size=tuple(dice.randint(1, {1: 12, 2: 6, 3: 3}[dims]) for _ in range(dims)),
        kernel=tuple(dice.randint(1, 4) for _ in range(dims)),
        stride=tuple(dice.randint(1, 3) for _ in range(dims)),
        padding=dice.choice(["same", "valid", tuple(dice.randint(0, 3) for _ in range(dims))]),
        dilation=tuple(dice.randint(1, 2) for _ in range(dims)),
        channels=groups * dice.randint(1, 4),
        groups=groups,
        batch=dice.randint(1, 2),
    )
    try:
        size = case.output_size
    except ValueError as refused:
        check_sentence(refused)
        return
    assert min(size) >= 1, case
    torch.manual_seed(dice.getrandbits(32))
    dtype = dice.choice(list(TOLERANCE))
    x, h, dy = case.tensors(dtype, channels_last=dims == 2 and dice.random() < 0.3)
    x, h = x.requires_grad_(), h.requires_grad_()
    y = OPERATORS[dims - 1](x, h, **case.parameters)
    y.backward(dy)
    exact = definition.forward(case, x.detach(), h.detach())
    for given, right in (
        (y, exact),
        (x.grad, definition.input_gradient(case, dy, h.detach())),
        (h.grad, definition.kernel_gradient(case, dy, x.detach())),
    ):
        assert given.shape == right.shape and given.dtype == dtype, case
        error = (given.detach().double() - right).abs().max()
        assert error <= TOLERANCE[dtype] * max(1.0, right.abs().max().item()), (case, dtype, error)


def call_layer(dice: random.Random) -> None:
    """Build a layer of any arguments and, where there is one, apply it to an input of any size, forward and backward."""
    dims = dice.choice([1, 2, 3])
    channels = dice.choice([1, 2, 6, 8, 16, 24, 0, -1])
    arguments = {
        "kernel_size": dice.choice([1, 2, 3, 5, 0, -1, (3,) * dims]),
        "stride": dice.choice([1, 2, 3, 0]),
        "padding": dice.choice(["same", "valid", 0, 1, 2, -1]),
        "dilation": dice.choice([1, 2, 0]),
        "groups": dice.choice([None, None, 1, 2, 3, 0]),
        "reduction": dice.choice([1, 4, 100, 0]),
        "kernel_generator": dice.choice(["bottleneck", "linear", "attention"]),
        "bias": dice.random() < 0.5,
        "norm_layer": dice.choice([None, lambda width: nn.GroupNorm(1, width)]),
    }
    size = [dice.randint(1, 7) for _ in range(dims)]
    try:
        layer = LAYERS[dims - 1](channels, dice.choice([channels, 8, 12]), **arguments).eval()
        x = torch.randn(dice.randint(1, 2), max(1, channels), *size, requires_grad=True)
        y = layer(x)
    except (ValueError, TypeError) as refused:
        check_sentence(refused)
        return
    y.square().sum().backward()
    assert y.isfinite().all() and x.grad.isfinite().all(), arguments


CALLS = {"operator": call_operator, "layer": call_layer}
