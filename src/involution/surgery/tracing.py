"""Graphs of a module's ``forward`` by ``torch.fx``: of a call with all its arguments, and of one without the optional ones."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import fx, nn

from ..modules import Involution1d, Involution2d, Involution3d
from . import norms

__all__ = ["INVOLUTIONS", "Untraceable", "traces"]

INVOLUTIONS = (Involution1d, Involution2d, Involution3d)


class Untraceable(Exception):
    """A ``forward`` of which there is no graph; the message says why."""


def traces(module: nn.Module) -> list[fx.Graph]:
    """Return the graphs of ``module``: with a symbol for every argument, and with the optional ones left out.

    A symbol is never None: what a ``forward`` does where an argument is left out shows in the second graph alone.

    Raises:
        Untraceable: one of them cannot be made.
    """
    parameters = inspect.signature(module.forward).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    # Tracing runs the forward of any class with symbols for tensors and may raise whatever that raises.
    try:
        return [_Tracer().trace(module, given) for given in ([{}, defaults] if defaults else [{}])]
    except Exception as error:
        lines = str(error).strip().splitlines()
        raise Untraceable(f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__) from error


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, module_qualified_name: str) -> bool:
        known = type(module) in INVOLUTIONS or norms.is_batch_norm(module)
        return known or super().is_leaf_module(module, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
        # Not the call ``forward`` but the method: nobody's hooks shall see symbols.
        return super().call_module(m, m.forward, args, kwargs)
