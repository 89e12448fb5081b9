"""Random calls of operators and layers: right by the definition, or refused in a sentence."""

import copy
import random
from collections.abc import Sequence

import definition
import torch
from cases import Case
from torch import Tensor, nn

from involution import Involution1d, Involution2d, Involution3d, Span, involution1d, involution2d, involution3d
from involution.kernel_generation.base import NORMS

OPERATORS = (involution1d, involution2d, involution3d)
LAYERS = (Involution1d, Involution2d, Involution3d)
# Of the largest value of the exact result.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}
# A layer's, whose norms divide by what may be small.
LAYER_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4}


def check_sentence(refused: Exception) -> None:
    assert "\n" not in str(refused) and len(str(refused)) > 20, refused


def compare(given: Sequence[Tensor], right: Sequence[Tensor], tolerance: float, what: object) -> None:
    for one, exact in zip(given, right, strict=True):
        assert one.shape == exact.shape, (what, one.shape, exact.shape)
        error = (one.detach().double() - exact.detach()).abs().max() if one.numel() else torch.zeros(())
        assert error <= tolerance * max(1.0, exact.abs().max().item() if one.numel() else 0.0), (what, error)


def call_operator(dice: random.Random) -> str:
    """Compare a call and its gradients with sums written out from the definition."""
    dims = dice.choice([1, 2, 2, 2, 3])
    groups = dice.choice([1, 2, 3])
    case = Case(
        size=tuple(dice.randint(1, {1: 12, 2: 6, 3: 3}[dims]) for _ in range(dims)),
        kernel=tuple(dice.choice([1, 2, 3, 3, 4, 5] if dice.random() < 0.3 else [1, 3]) for _ in range(dims)),
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
        return "refused"
    assert min(size) >= 1, case
    torch.manual_seed(dice.getrandbits(32))
    dtype = dice.choice(list(TOLERANCE))
    x, h, dy = case.tensors(dtype, channels_last=dims == 2 and dice.random() < 0.3)
    exact = [value.double().requires_grad_() for value in (x, h)]
    right = definition.by_indices(*exact, case.window)
    x, h = x.requires_grad_(), h.requires_grad_()
    y = OPERATORS[dims - 1](x, h, **case.parameters)
    assert y.dtype == dtype, case
    given_gradients = torch.autograd.grad(y, (x, h), dy)
    compare((y, *given_gradients), (right, *torch.autograd.grad(right, exact, dy.double())), TOLERANCE[dtype], case)
    return "taken"


def call_layer(dice: random.Random) -> str:
    """Build a layer of any arguments and, where there is one, compare it and all its gradients with the definition."""
    dims = dice.choice([1, 2, 3])

    def any_of(right: list, wrong: list) -> object:
        """Mostly what a layer may have: of what it refuses, one argument is enough."""
        return dice.choice(wrong if dice.random() < 0.04 else right)

    channels = any_of([1, 2, 6, 8, 16, 24], [0, -1])
    arguments = {
        "kernel_size": any_of([1, 3, 5, (3,) * dims], [0, -1, 2]),
        "stride": any_of([1, 1, 2, 3], [0]),
        "padding": any_of(["same", "same", 0, 1, 2, "valid"], [-1]),
        "dilation": any_of([1, 1, 2], [0]),
        "groups": any_of([None, 1, 1] + [2] * (channels % 2 == 0) + [3] * (channels % 3 == 0), [0, 5]),
        "reduction": any_of([1, 4, 100], [0]),
        "kernel_generator": dice.choice(["bottleneck", "linear", "attention"]),
        "bias": dice.random() < 0.5,
        "norm_layer": dice.choice([None, lambda width: nn.GroupNorm(1, width)]),
        "act_layer": dice.choice([nn.ReLU, nn.Identity, nn.SiLU]),
        "dtype": dice.choice(list(LAYER_TOLERANCE)),
    }
    training = dice.random() < 0.5
    if arguments["dtype"] == torch.float32:
        # A norm of few values multiplies what single precision rounds off by whatever it divides by; a ReLU's gradient
        # jumps where a value that is zero but for rounding has another sign.
        training, arguments["norm_layer"] = False, None
        if arguments["act_layer"] is nn.ReLU:
            arguments["act_layer"] = nn.SiLU
    out_channels = any_of([channels, channels, 12], [8])
    size = [dice.randint(1, {1: 12, 2: 7, 3: 4}[dims]) for _ in range(dims)]
    torch.manual_seed(dice.getrandbits(32))
    try:
        layer = LAYERS[dims - 1](channels, out_channels, **arguments).train(training)
        x = torch.randn(dice.randint(1, 2), max(1, channels), *size, dtype=arguments["dtype"], requires_grad=True)
        if dims == 2 and dice.random() < 0.3:
            x = x.detach().to(memory_format=torch.channels_last).requires_grad_()
        # What reads gradients of any strides.
        norm = NORMS[dims](max(1, channels), dtype=arguments["dtype"]) if dice.random() < 0.3 else nn.Identity()
        net = nn.Sequential(norm.train(training and x.numel() > x.shape[1]), layer)
        judge = copy.deepcopy(net).double()
        y = net(x)
    except (ValueError, TypeError) as refused:
        check_sentence(refused)
        return "refused"
    exact = x.detach().double().requires_grad_()
    value, exact_layer = judge[0](exact), judge[1]
    kernel = exact_layer.generate_kernel(value)
    field = kernel.field() if isinstance(kernel, Span) else kernel
    right = definition.by_indices(exact_layer.value(value), field, layer.window)
    if exact_layer.bias is not None:
        right = right + exact_layer.bias.view(-1, *[1] * dims)
    dy = torch.randn_like(y)
    what = (LAYERS[dims - 1].__name__, tuple(x.shape), x.stride(), norm, training, arguments)
    # Sometimes the derivatives of the gradients as well, in double precision.
    twice = arguments["dtype"] == torch.float64 and dice.random() < 0.5
    given = torch.autograd.grad(y, (x, *net.parameters()), dy, create_graph=twice)
    expected = torch.autograd.grad(right, (exact, *judge.parameters()), dy.double(), create_graph=twice)
    tolerance = LAYER_TOLERANCE[arguments["dtype"]]
    compare((y, *given), (right, *expected), tolerance, what)
    if twice:
        given = second_gradients(given, (x, *net.parameters()))
        compare(given, second_gradients(expected, (exact, *judge.parameters())), tolerance, what)
    return "taken"


def second_gradients(gradients: Sequence[Tensor], of: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return the gradients of the sum of squares of some gradients, zeros where they do not depend on something."""
    total = sum(gradient.square().sum() for gradient in gradients)
    return torch.autograd.grad(total, of, materialize_grads=True)


CALLS = {"operator": call_operator, "layer": call_layer}
