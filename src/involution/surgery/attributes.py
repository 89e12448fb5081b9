"""The modules that the modules of a model hold in ordinary attributes, where PyTorch does not know of them."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from torch import nn

__all__ = ["modules_beside"]


def modules_beside(model: nn.Module) -> dict[int, str]:
    """Return the ``id`` of every module that stands in an ordinary attribute, and the name of that attribute.

    Looked through are lists, tuples, sets, dicts, bound methods and ``functools.partial``. Whoever puts another module into
    the registered place does not change what such an attribute holds.
    """
    beside = {}
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            # The registered children are what the model knows.
            if attribute != "_modules":
                where = f"{name}.{attribute}" if name else attribute
                beside.update({id(found): where for found in _inside(value, set())})
    return beside


def _inside(value: Any, seen: set[int]) -> Iterator[nn.Module]:
    if id(value) in seen:
        return
    if isinstance(value, nn.Module):
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
