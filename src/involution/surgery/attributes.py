"""What the modules of a model hold in ordinary attributes, where PyTorch does not know of it."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

__all__ = ["modules_beside", "tensors_with_history"]


def modules_beside(model: nn.Module) -> dict[int, list[tuple[str, str]]]:
    """Return, by ``id``, the modules in ordinary attributes, each with who holds it and the attribute, both by name.

    Looked through are lists, tuples, sets, dicts, bound methods and ``functools.partial``. Whoever puts another module into
    the registered place does not change what such an attribute holds.
    """
    beside: dict[int, list[tuple[str, str]]] = {}
    for holder, where, value in _values(model):
        if isinstance(value, nn.Module):
            beside.setdefault(id(value), []).append((holder, where))
    return beside


def tensors_with_history(model: nn.Module) -> list[Tensor]:
    """Return the tensors in attributes of ``model`` that autograd computed, which PyTorch refuses to copy."""
    return [value for _, _, value in _values(model) if isinstance(value, Tensor) and not value.is_leaf]


def _values(model: nn.Module) -> Iterator[tuple[str, str, Any]]:
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            # The registered children are what the model knows.
            if attribute != "_modules":
                where = f"{name}.{attribute}" if name else attribute
                yield from ((name, where, found) for found in _inside(value, set()))


def _inside(value: Any, seen: set[int]) -> Iterator[Any]:
    if id(value) in seen:
        return
    if isinstance(value, (nn.Module, Tensor)):
        yield value
        return
    parts: Any = ()
    if isinstance(value, dict):
        parts = value.values()
    elif isinstance(value, (list, tuple, set, frozenset)):
        parts = value
    elif isinstance(value, functools.partial):
        parts = (value.func, *value.args, *value.keywords.values())
    elif hasattr(value, "__func__"):
        parts = (value.__self__,)
    if parts:
        seen.add(id(value))
    for part in parts:
        yield from _inside(part, seen)
