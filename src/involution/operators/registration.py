"""How PyTorch knows an operator: its schema, what serves it and its derivatives; and how the library calls it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import forward_ad
from torch.library import Library

OPERATORS = Library("involution", "DEF")

# Whether a transform of torch.func is at work.
is_transformed: Callable[[], bool] = torch._C._are_functorch_transforms_active

# One for each argument of an operator.
Gradients = tuple[Tensor | None, ...]


def define(name: str, schema: str, implementation: Callable[..., Any]) -> None:
    """Define an operator and what serves it where C++ does not (csrc/operators.cpp serves the CPU).

    Under a second name, with ``_in_python`` behind it, C++ hands on calls that another backend is to serve.
    """
    for full in (name, f"{name}_in_python"):
        OPERATORS.define(f"{full}{schema}")
        OPERATORS.impl(full, implementation, "CompositeExplicitAutograd")


def call(operator: Callable[..., Tensor], fake: Callable[..., Tensor], *arguments: Any) -> Tensor:
    """Call an operator.

    C++ finds that arguments do not fit, Python says why: then ``fake``, which checks them too, raises the sentence.
    """
    if torch.compiler.is_compiling() and is_dual_level() and not is_transformed():
        output: Tensor = _call_outside_the_graph(operator, *arguments)
        return output
    try:
        return operator(*arguments)
    except RuntimeError:
        fake(*arguments)
        raise


# Unlike torch.compiler.disable, it imports the compiler at the first call, not with the library.
@torch._disable_dynamo
def _call_outside_the_graph(operator: Callable[..., Tensor], *arguments: Any) -> Tensor:
    """Call an operator on dual tensors: in a compiled graph nothing says that there are any (see `is_dual_level`)."""
    return operator(*arguments)


def is_dual_level() -> bool:
    """Whether forward mode is at work, of torch.func or within `torch.autograd.forward_ad.dual_level`.

    A compiled graph enters the latter behind the back of this variable.
    """
    return forward_ad._current_level >= 0


def differentiate(
    name: str,
    save: Callable[..., None],
    backward_rule: Callable[..., Gradients],
    jvp_rule: Callable[..., Tensor],
) -> None:
    """Give an operator its derivatives, in backward and in forward mode, of every order and under torch.func.

    They are registered with the dispatcher, as those of PyTorch's own operators are, so that they hold for every call:
    of the library, of an exported program or of ``torch.ops`` itself. ``torch.library.register_autograd`` does the same
    for the backward pass alone, and not under torch.func.

    Args:
        name: of the operator; it has one result.
        save: called with a context and the operator's arguments; saves on the context what the rules need.
        backward_rule: from the context and the gradient of the result to those of the arguments.
        jvp_rule: from the context and the tangents of the arguments, None where there is none, to that of the result.
            It finds what it needs in `saved_primals`.
    """
    operator = getattr(torch.ops.involution, name).default

    def below(keys: torch._C.DispatchKeySet, arguments: Sequence[Any]) -> Tensor:
        """Go on to what comes after the derivatives: the next transform, tracing, or the backend."""
        with torch._C._AutoDispatchBelowAutograd():
            output: Tensor = operator.redispatch(keys & torch._C._after_autograd_keyset, *arguments)
            return output

    class Function(torch.autograd.function._SingleLevelFunction):
        @staticmethod
        def forward(*arguments: Any) -> Tensor:
            *arguments_of_operator, keys = arguments
            if not is_transformed():
                return below(keys, arguments_of_operator)
            # PyTorch calls this without derivatives of any level; the transforms around this one are to have theirs.
            with torch.enable_grad(), forward_mode():
                return below(keys, arguments_of_operator)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
            save(ctx, *inputs[:-1])

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Gradients:
            return *backward_rule(ctx, gradient), None

        @staticmethod
        def jvp(ctx: Any, *tangents: Any) -> Tensor:
            with forward_mode():
                return jvp_rule(ctx, *tangents[:-1])

    Function.__name__ = Function.__qualname__ = f"involution_{name}"
    # Compiled autograd asks for it, which PyTorch's public class has and this one's base has not.
    if hasattr(torch.autograd.Function, "_compiled_autograd_key"):
        Function._compiled_autograd_key = torch.autograd.Function._compiled_autograd_key  # type: ignore[attr-defined]

    def differentiable(keys: torch._C.DispatchKeySet, *arguments: Any) -> Tensor:
        output: Tensor
        if is_transformed():
            # The dispatcher calls this once for each transform, which PyTorch cannot know of an autograd function.
            with enable_single_level_autograd_function():
                output = Function.apply(*arguments, keys)  # type: ignore[attr-defined]
        elif is_dual_level() or (torch.is_grad_enabled() and torch._C._any_requires_grad(*arguments)):
            output = Function.apply(*arguments, keys)  # type: ignore[attr-defined]
        else:
            output = below(keys, arguments)
        return output

    OPERATORS.impl(name, differentiable, "Autograd", with_keyset=True)


def forward_mode() -> AbstractContextManager[None]:
    """Let results have tangents, for the rules of forward mode, which PyTorch calls without.

    A tangent has tangents itself, those of the transforms around; without them derivatives of third order are wrong.
    """
    enabled: AbstractContextManager[None] = forward_ad._set_fwd_grad_enabled(True)
    return enabled


def saved_primals(ctx: Any) -> tuple[Any, ...]:
    """Return the saved tensors without their tangents of this level, which the rules for forward mode have in hand."""
    return tuple(None if t is None else torch.ops.aten._fw_primal.default(t, 0) for t in ctx.saved_tensors)
