"""Graphs of a module's ``forward`` by ``torch.fx``, one for every kind of call that symbols cannot tell apart."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from ..modules import Involution1d, Involution2d, Involution3d
from . import norms

__all__ = ["INVOLUTIONS", "Trace", "Untraceable", "traces"]

INVOLUTIONS = (Involution1d, Involution2d, Involution3d)


class Trace(NamedTuple):
    """One graph, and the names of the weights and buffers that ``forward`` read behind the back of its symbols."""

    graph: fx.Graph
    read: frozenset[str]


class Untraceable(Exception):
    """A ``forward`` of which there is no graph; the message says why."""


def traces(module: nn.Module) -> list[Trace]:
    """Return the graphs of ``module``, whose ``forward`` may branch by what it is given.

    A symbol is not None and no ``torch.Tensor``, so a branch by either goes one way only, and perhaps not that of a call.
    So there are further graphs: of symbols that say they are tensors, of every argument left out or None, of all that
    have a default left out, and of all of these but one. What holds in every graph holds in every call.

    Raises:
        Untraceable: one of the calls cannot be traced, for another reason than that it cannot be made.
    """
    # Tracing runs the forward of any class with symbols for tensors and may raise whatever that raises.
    found = []
    try:
        found.append(_trace(module, {}, tensors=False))
    except Exception as error:
        raise Untraceable(_said(error)) from error
    if not any(node.op == "call_module" for node in found[0].graph.nodes):
        return found
    try:
        found.append(_trace(module, {}, tensors=True))
    except Exception as error:
        raise Untraceable(_said(error)) from error
    for given in _calls(module):
        try:
            found.append(_trace(module, given, tensors=True))
        except Exception as error:
            # A forward that refuses the call, or fails without the argument, does so with tensors as well.
            if isinstance(error, (ValueError, AssertionError)) or "NoneType" in str(error):
                continue
            raise Untraceable(f"where {_listed(given)}: {_said(error)}") from error
    return found


def _calls(module: nn.Module) -> Iterator[dict[str, Any]]:
    """Yield what else than a symbol the arguments of ``forward`` may be, by name."""
    kinds = inspect.Parameter
    _, *parameters = inspect.signature(inspect.unwrap(type(module).forward)).parameters.values()
    defaults: dict[str, Any] = {}
    for parameter in parameters:
        if parameter.kind is kinds.VAR_POSITIONAL:
            defaults[parameter.name] = ()
        elif parameter.kind is kinds.VAR_KEYWORD:
            defaults[parameter.name] = {}
        elif parameter.default is not kinds.empty:
            defaults[parameter.name] = parameter.default
    calls = [
        {p.name: defaults[p.name] if p.kind in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD) else None} for p in parameters
    ]
    calls += [{p.name: defaults[p.name]} for p in parameters if p.name in defaults]
    calls += [{name: value for name, value in defaults.items() if name != given} for given in (None, *defaults)]
    # Of one or two optional arguments most of these are the same.
    distinct: list[dict[str, Any]] = []
    for call in calls:
        if call and not any(
            call.keys() == other.keys() and all(call[n] is other[n] for n in call) for other in distinct
        ):
            distinct.append(call)
    yield from distinct


def _listed(given: dict[str, Any]) -> str:
    return " and ".join(f"{name} is {value!r}" for name, value in given.items())


def _said(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _trace(module: nn.Module, given: dict[str, Any], *, tensors: bool) -> Trace:
    tracer = _Tracer(given, tensors=tensors)
    with _Reads(module) as reads:
        graph = tracer.trace(module)
    if tracer.undecided is not None:
        raise tracer.undecided
    return Trace(graph, frozenset(reads.read))


class _Symbol(fx.Proxy):
    """A symbol that says it is a tensor."""

    # What torch.nn.Parameter asks of a tensor before it calls it one; a symbol has every attribute.
    _is_param = _is_buffer = False

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return Tensor


class _Tracer(fx.Tracer):
    def __init__(self, given: dict[str, Any], *, tensors: bool) -> None:
        super().__init__()
        self.given, self.tensors = given, tensors
        self.undecided: Exception | None = None
        self.numbers: set[fx.Node] = set()

    def is_leaf_module(self, module: nn.Module, module_qualified_name: str) -> bool:
        known = type(module) in INVOLUTIONS or norms.is_batch_norm(module)
        return known or super().is_leaf_module(module, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
        # Not the call ``forward`` but the method: nobody's hooks shall see symbols.
        return super().call_module(m, m.forward, args, kwargs)

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        function, (root, *symbols) = super().create_args_for_root(root_fn, is_module, concrete_args)
        # In the order of fx: positional ones, those by keyword, ``*args``, ``**kwargs``.
        names = inspect.unwrap(root_fn).__code__.co_varnames[1:]
        return function, [root, *(self.given.get(n, s) for n, s in zip(names, symbols, strict=False))]

    def create_arg(self, a: Any) -> Any:
        # Whether a symbol is a weight is not to be asked of one that says it is a tensor.
        return a.node if isinstance(a, fx.Proxy) else super().create_arg(a)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        # Sizes and the like: attributes, what methods say of them, and what operators make of such alone.
        inputs = node.all_input_nodes
        made = getattr(node.target, "__module__", "") == "_operator" and inputs and self.numbers.issuperset(inputs)
        if node.target is getattr or node.target in ("size", "dim", "numel", "stride") or made:
            self.numbers.add(node)
        return _Symbol(node, self) if self.tensors and node not in self.numbers else fx.Proxy(node, self)

    def to_bool(self, obj: fx.Proxy) -> bool:
        return self.decide(super().to_bool, obj)

    def iter(self, obj: fx.Proxy) -> Any:
        return self.decide(super().iter, obj)

    def decide(self, ask: Callable[[fx.Proxy], Any], obj: fx.Proxy) -> Any:
        try:
            return ask(obj)
        except Exception as error:
            # A forward that catches this goes on as no call does.
            self.undecided = error
            raise


class _Reads(TorchFunctionMode):
    """Notes which weights and buffers of ``module`` a function of torch is given as what they are, not as symbols."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        named = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
        self.names: dict[int, list[str]] = {}
        for name, tensor in named:
            self.names.setdefault(id(tensor), []).append(name)
        self.read: set[str] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        # Dtype, device and shape are those of the folded net as well.
        if getattr(func, "__name__", "") != "__get__" or isinstance(result, Tensor):
            for argument in (*args, *(kwargs or {}).values()):
                for value in argument if type(argument) in (list, tuple) else (argument,):
                    self.read.update(self.names.get(id(value), ()))
        return result
