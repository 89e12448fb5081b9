"""Find the batch norms of a model that directly follow a layer able to take them up, with the reasons of the others."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import fx, nn
from torch.nn import functional as F

from . import attributes, norms
from .hooks import has_hooks
from .tracing import INVOLUTIONS, Untraceable, traces

__all__ = ["CONVOLUTIONS", "INVOLUTIONS", "Chain", "Left", "find"]

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_RELU_CALLS = (F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_")


class Chain(NamedTuple):
    """A layer and the batch norm after it, by name; for an involution also the ReLU after the norm.

    ``relu`` is None where there is none to be taken along, ``note`` says why one stays.
    """

    layer: str
    norm: str
    relu: str | None = None
    note: str = ""


class Left(NamedTuple):
    """A batch norm that has to stay, by name, and why, as a clause about it."""

    norm: str
    reason: str


def find(model: nn.Module) -> tuple[list[Chain | Left], dict[str, str]]:
    """Return what can be done about every batch norm of ``model``, and which modules cannot be traced, with reasons."""
    # A forward that keeps what it sees in an attribute or counts its calls in a buffer does so to this copy.
    weights: dict[int, Any] = {id(parameter): parameter for parameter in model.parameters()}
    search = _Search(model)
    search.visit("", copy.deepcopy(model, weights))
    default = "no traced forward calls it"
    if search.untraced:
        default += "; what comes before it is unknown where torch.fx cannot trace"
    names = [name for name, module in model.named_modules() if norms.is_batch_norm(module)]
    return [search.found.get(name) or Left(name, default) for name in names], search.untraced


class _Search:
    """Walks through a traced copy; the facts about modules are those of ``model`` itself."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.found: dict[str, Chain | Left] = {}
        self.untraced: dict[str, str] = {}
        self.names = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
        self.beside = attributes.modules_beside(model)
        self.owners = Counter(id(weight) for _, weight in model.named_parameters(remove_duplicate=False))

    def visit(self, name: str, module: nn.Module) -> None:
        """Search ``module``, whose name in the model is ``name``: as a graph, or else child by child."""
        if norms.is_batch_norm(module) or not any(map(norms.is_batch_norm, module.modules())):
            return
        prefix = f"{name}." if name else ""
        if "forward" in vars(module):
            # Tracing would follow the class's.
            self.untraced[name] = "its forward has been replaced"
        elif type(module) not in INVOLUTIONS and type(module).forward is not nn.Module.forward:
            try:
                found = traces(module)
            except Untraceable as error:
                self.untraced[name] = str(error)
            else:
                self.search(prefix, found)
                nodes = [node for graph in found for node in graph.nodes if node.op == "call_module"]
                for target in dict.fromkeys(str(node.target) for node in nodes):
                    self.visit(prefix + target, module.get_submodule(target))
                return
        for child_name, child in module.named_children():
            self.visit(prefix + child_name, child)

    def search(self, prefix: str, found: list[fx.Graph]) -> None:
        """Add a finding for every batch norm that the graphs of one module call: one that holds in all of them."""
        paths = [_Path(prefix, graph, self.model) for graph in found]
        called = set()
        for path in paths:
            for node in path.graph.nodes:
                if node.op == "call_module" and norms.is_batch_norm(path.module(node)):
                    name, finding = path.name(node), self.examine(path, node)
                    self.found[name] = _agreed(self.found.get(name, finding), finding)
                    called.add(name)
        for name in called:
            finding = self.found[name]
            if isinstance(finding, Chain) and any(path.uses[finding.layer] > path.uses[name] for path in paths):
                self.found[name] = Left(name, f"{finding.layer} before it is called without it for some arguments")

    def examine(self, path: _Path, node: fx.Node) -> Chain | Left:
        """Say what can be done about the norm that ``node`` calls."""
        norm, name = path.module(node), path.name(node)
        # A norm that is given None where an argument is left out has nothing before it.
        *between, source = list(path.before(node)) or [node]
        reason = norms.obstacle(norm) or path.repeated(node)
        layer: Any = path.module(source) if source.op == "call_module" else None
        if reason is None and type(layer) not in (*CONVOLUTIONS, *INVOLUTIONS):
            reason = f"it follows {path.describe(source)}"
        if reason is not None:
            return Left(name, reason)
        layer_name = path.name(source)
        names = [layer_name, *map(path.name, between), name]
        weights = [getattr(layer, attribute, None) for attribute in ("weight", "bias", "scale")]
        if path.repeated(source):
            reason = f"{layer_name} before it is called several times"
        elif any(len(n.users) > 1 for n in (*between, source)):
            reason = f"the output of {layer_name} is also read by something else"
        elif any(self.owners[id(weight)] > 1 for weight in weights) and self.names[id(layer)] == 1:
            reason = f"{layer_name} shares a weight with another module"
        elif getattr(layer, "relu", False):
            reason = f"{layer_name} ends in a ReLU"
        elif layer.out_channels != norm.running_mean.numel():
            reason = f"{layer_name} has {layer.out_channels} channels, it has {norm.running_mean.numel()}"
        else:
            reason = self.held(names)
        if reason is not None:
            return Left(name, reason)
        if type(layer) in CONVOLUTIONS:
            return Chain(layer_name, name)
        return Chain(layer_name, name, *self.relu_after(path, node, names))

    def relu_after(self, path: _Path, node: fx.Node, names: list[str]) -> tuple[str | None, str]:
        """Return the name of the ReLU that directly follows the norm of ``node``, or None and why one stays."""
        act = getattr(path.module(node), "act", None)
        if type(act) not in (type(None), nn.Identity):
            name = f"{names[-1]}.act"
            reason = None if type(act) is nn.ReLU else "it is no ReLU"
            reason = reason or self.held([*names, name])
            return (None, f"{name} stays: {reason}") if reason else (name, "")
        after = list(path.after(node))
        if not after:
            return None, ""
        last = after[-1]
        if last.op in ("call_function", "call_method") and last.target in _RELU_CALLS:
            return None, "the ReLU after it is no module and stays"
        if last.op != "call_module" or type(path.module(last)) is not nn.ReLU:
            return None, ""
        reason = path.repeated(last) or self.held([*names, *map(path.name, after)])
        return (None, f"{path.name(last)} stays: {reason}") if reason else (path.name(last), "")

    def held(self, names: list[str]) -> str | None:
        """Say why the modules of ``names``, which follow one another, cannot become one, or return None."""
        paths = [_path(name) for name in names]
        # Containers that hold only a part of the chain show what lies in its middle.
        inner = {name for path in paths for name in path if not all(name in other for other in paths)}
        for name in sorted(inner):
            module = self.model.get_submodule(name)
            if has_hooks(module):
                return f"{name} is watched by a hook"
            if "forward" in vars(module):
                return f"the forward of {name} has been replaced"
            if name in names and self.names[id(module)] > 1:
                return f"{name} is registered under several names"
            where = self.beside.get(id(module))
            if where is not None:
                return f"{name} also stands in the attribute {where}, which would keep it"
        return None


class _Path:
    """The graph of one module, with names as they are in the whole model."""

    def __init__(self, prefix: str, graph: fx.Graph, model: nn.Module) -> None:
        self.prefix, self.graph, self.model = prefix, graph, model
        self.uses: Counter[str] = Counter()
        for node in graph.nodes:
            if node.op == "call_module":
                self.uses[self.name(node)] += 1
            elif node.op == "get_attr":
                # Whoever reads a weight uses the module that holds it.
                self.uses[self.name(node).rpartition(".")[0]] += 1

    def name(self, node: fx.Node) -> str:
        return f"{self.prefix}{node.target}"

    def module(self, node: fx.Node) -> Any:
        return self.model.get_submodule(self.name(node))

    def repeated(self, node: fx.Node) -> str | None:
        return "it is called several times" if self.uses[self.name(node)] > 1 else None

    def is_identity(self, node: fx.Node) -> bool:
        return node.op == "call_module" and type(self.module(node)) is nn.Identity

    def before(self, node: fx.Node) -> Iterator[fx.Node]:
        """Yield what comes before ``node``: identities, and last what is none."""
        while node.all_input_nodes:
            node = node.all_input_nodes[0]
            yield node
            if not self.is_identity(node):
                return

    def after(self, node: fx.Node) -> Iterator[fx.Node]:
        """Yield what comes after ``node`` as long as each has one reader: identities, and last what is none."""
        while len(node.users) == 1:
            (node,) = node.users
            yield node
            if not self.is_identity(node):
                return

    def describe(self, node: fx.Node) -> str:
        if node.op == "call_module":
            return f"{self.name(node)}, a {type(self.module(node)).__name__}"
        if node.op == "placeholder":
            return f"the input of {self.prefix[:-1] or 'the model'}"
        called = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
        return f"a call of {called}"


def _agreed(first: Chain | Left, second: Chain | Left) -> Chain | Left:
    """Return what both findings about one norm allow."""
    if isinstance(first, Left) or isinstance(second, Left):
        return first if isinstance(first, Left) else second
    if first.layer != second.layer:
        return Left(first.norm, f"it follows {first.layer} or {second.layer}, as the arguments are")
    if first.relu != second.relu:
        return first._replace(relu=None, note="the ReLU after it does not follow for all arguments and stays")
    return first


def _path(name: str) -> set[str]:
    """Return ``name`` and the names of all modules that contain it."""
    parts = name.split(".")
    return {".".join(parts[:i]) for i in range(len(parts) + 1)}
