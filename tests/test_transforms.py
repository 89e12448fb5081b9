"""What transforms operators: torch.func and forward mode, eager, compiled, exported, and on the operators themselves."""

from itertools import product

import definition
import pytest
import torch
from torch.autograd import forward_ad
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

from involution import Involution2d, correlation2d, involution2d, involution_of_span
from involution.geometry import to_window

WINDOW = to_window((3, 1), 1, "same", 1, 2)


def tensors(*sizes):
    return tuple(torch.randn(size, dtype=torch.float64) for size in sizes)


VALUE, FIELD = tensors((2, 4, 3, 2), (2, 2, 3, 1, 3, 2))
HIDDEN, WEIGHT, BIAS = tensors((2, 3, 3, 2), (6, 3, 1, 1), (6,))


@pytest.fixture(autouse=True)
def compiled_anew():
    torch.compiler.reset()


def involution(value, field):
    return involution2d(value, field)


def correlation(query, key):
    return correlation2d(query, key, (3, 1), groups=2)


def of_span(value, hidden, weight, bias):
    return involution_of_span(value, hidden, weight, bias, groups=2, kernel_size=(3, 1))


def plain_involution(value, field):
    return definition.by_indices(value, field, WINDOW)


def plain_correlation(query, key):
    """Return the correlation as the gradient of an involution, which is linear in its field."""
    return grad(lambda field: (plain_involution(key, field) * query).sum())(query.new_zeros(len(query), 2, 3, 1, 3, 2))


def plain_input_gradient(dy, field):
    return grad(lambda value: (plain_involution(value, field) * dy).sum())(torch.zeros_like(VALUE))


def plain_of_span(value, hidden, weight, bias):
    field = torch.einsum("nc,bchw->bnhw", weight[:, :, 0, 0], hidden) + bias[:, None, None]
    return plain_involution(value, field.unflatten(1, (2, 3, 1)))


FUNCTIONS = {
    "involution": (involution, plain_involution, (VALUE, FIELD)),
    "correlation": (correlation, plain_correlation, (VALUE, VALUE.flip(0) + 1)),
    "of a span": (of_span, plain_of_span, (VALUE, HIDDEN, WEIGHT, BIAS)),
}


def functions():
    return pytest.mark.parametrize(("function", "plain", "arguments"), FUNCTIONS.values(), ids=FUNCTIONS)


def tangent_of_dual(function, *arguments):
    with forward_ad.dual_level():
        output = function(*(forward_ad.make_dual(t, t.sin()) for t in arguments))
        return forward_ad.unpack_dual(output).tangent


def tangent_of_jvp(function, *arguments):
    return jvp(function, arguments, tuple(t.sin() for t in arguments))[1]


@functions()
def test_dual_tensors(function, plain, arguments):
    expected = tangent_of_dual(plain, *arguments)
    torch.testing.assert_close(tangent_of_dual(function, *arguments), expected)
    compiled = torch.compile(lambda *tensors: tangent_of_dual(function, *tensors), backend="aot_eager")
    torch.testing.assert_close(compiled(*arguments), expected)


def test_dual_tensors_are_no_part_of_a_graph():
    """PyTorch would drop the tangent without a word."""
    compiled = torch.compile(lambda *tensors: tangent_of_dual(involution, *tensors), fullgraph=True, backend="eager")
    with pytest.raises(torch._dynamo.exc.Unsupported, match="_call_outside_the_graph"):
        compiled(VALUE, FIELD)


def of_energy(transform):
    """Return what a transform makes of the squares of a function's results, for the first argument."""

    def transformed(function, first, *rest):
        return transform(lambda tensor: function(tensor, *rest).square().sum())(first)

    return transformed


TRANSFORMS = {
    "grad": of_energy(grad),
    "hessian": of_energy(hessian),
    "jvp": tangent_of_jvp,
    "vmap": lambda function, *arguments: vmap(function)(*(torch.stack([t, t + 1]) for t in arguments)),
    "vmap of some": lambda function, first, *rest: vmap(lambda t: function(t, *rest))(torch.stack([first, first + 1])),
}


@functions()
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_transforms_compile_without_a_break(function, plain, arguments, transform):
    expected = transform(plain, *arguments)
    torch.testing.assert_close(transform(function, *arguments), expected)
    compiled = torch.compile(lambda *tensors: transform(function, *tensors), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*arguments), expected)


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
@pytest.mark.parametrize("kernel_generator", ["bottleneck", "attention"])
def test_exported_programs_are_transformed_as_the_layer_is(transform, kernel_generator):
    layer = Involution2d(4, 4, 3, groups=2, kernel_generator=kernel_generator, dtype=torch.float64).eval()
    (x,) = tensors((2, 4, 5, 6))
    program = torch.export.export(layer, (x,)).module()
    torch.testing.assert_close(transform(program, x), transform(layer, x))


OPERATORS = {
    "forward": lambda value, field: torch.ops.involution.forward(value, field, *WINDOW[1:], "auto"),
    "input_gradient": lambda dy, field: torch.ops.involution.input_gradient(dy, field, [3, 2], *WINDOW[1:], "auto"),
    "kernel_gradient": lambda query, key: torch.ops.involution.kernel_gradient(query, key, 2, *WINDOW, "auto"),
    "forward_of_span": lambda *tensors: torch.ops.involution.forward_of_span(*tensors, 2, *WINDOW, "auto"),
}


@pytest.mark.parametrize("transform", [*TRANSFORMS.values(), tangent_of_dual], ids=[*TRANSFORMS, "dual tensors"])
@pytest.mark.parametrize("name", OPERATORS)
def test_the_operators_themselves_are_transformed(name, transform):
    plain, arguments = {
        "forward": (plain_involution, (VALUE, FIELD)),
        "input_gradient": (plain_input_gradient, (VALUE, FIELD)),
        "kernel_gradient": (plain_correlation, (VALUE, VALUE.flip(0) + 1)),
        "forward_of_span": (plain_of_span, (VALUE, HIDDEN, WEIGHT, BIAS)),
    }[name]
    torch.testing.assert_close(transform(OPERATORS[name], *arguments), transform(plain, *arguments))


@functions()
@pytest.mark.parametrize(
    "modes", list(product((jacfwd, jacrev), repeat=3)), ids=lambda modes: "-".join(m.__name__ for m in modes)
)
def test_third_derivatives(function, plain, arguments, modes):
    def third(function):
        # Arguments of which every tangent has a tangent itself.
        def energy(*tensors):
            return function(*(t.exp() for t in tensors)).pow(3).sum()

        for mode, argnum in zip(modes, (0, 1, len(arguments) // 2), strict=True):
            energy = mode(energy, argnums=argnum)
        return energy(*(t[:1] if t.shape[0] == 2 else t for t in arguments))

    torch.testing.assert_close(third(function), third(plain))
