"""What a ``forward`` that cannot be traced does with the children of its module, as its source says."""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Iterator
from types import FunctionType, MethodType
from typing import Any

from torch import nn

__all__ = ["Reach"]

_BLANK = nn.Module()
# What an object of torch's own class has: the tables of children, weights and hooks.
_TABLES = vars(_BLANK).keys() - {"training"}
# Of these modules of torch, classes call the one module they wrap as a whole.
_WRAPPERS = ("torch.nn.parallel.", "torch._dynamo.")
# Functions that call what they are given first, or its elements one after another, as its own forward does.
_CALLERS = {
    ("torch.utils.checkpoint", "checkpoint"),
    ("torch.utils.checkpoint", "checkpoint_sequential"),
    ("timm.models._manipulate", "checkpoint"),
    ("timm.models._manipulate", "checkpoint_seq"),
}


class Reach:
    """Which children of ``module`` are used otherwise than by calling them whole, found by reading source.

    What is not understood counts as use: a child that is handed to a function, one whose attribute is a part of it, and
    all of them where ``self`` is handed on, torch's own lists of modules are asked for, or there is no source.

    Args:
        module: a module with a ``forward`` of its own.
        start: the method that is called.
        calls: whether a child may be called.
    """

    def __init__(self, module: nn.Module, start: str = "forward", *, calls: bool = True) -> None:
        self.module, self.calls = module, calls
        named = module.named_modules(remove_duplicate=False)
        self.children = {name: child for name, child in named if name and "." not in name}
        self.everything = False
        self.used: set[nn.Module] = set()
        if type(module).__module__.startswith(_WRAPPERS):
            return
        if start in vars(module):
            self.everything = True
            return
        names = [start]
        # Grows while it is walked: methods call methods.
        for name in names:
            for function in _definitions(type(module), name):
                tree = _tree(function)
                if tree is None:
                    self.everything = True
                    break
                names += [n for n in self.read(tree, function.__globals__) if n not in names]
                if not any(isinstance(node, ast.Name) and node.id == "super" for node in ast.walk(tree)):
                    break

    def into(self, child: nn.Module) -> bool:
        """Whether a part of ``child`` may be used."""
        return self.everything or child in self.used

    def read(self, tree: ast.FunctionDef, known: dict[str, Any]) -> Iterator[str]:
        """Note the uses in one function, and yield the names of the methods and properties that it reads of ``self``."""
        parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
        arguments = [*tree.args.posonlyargs, *tree.args.args]
        if not arguments:
            # Somebody else's wrapper of a method, which takes ``self`` among ``*args``.
            self.everything = True
            return
        me = arguments[0].arg
        for node in ast.walk(tree):
            if not isinstance(node, ast.Name) or node.id != me:
                continue
            parent = parents[node]
            if isinstance(parent, ast.Call) and isinstance(parent.func, ast.Name) and parent.func.id == "super":
                continue
            if not isinstance(parent, ast.Attribute):
                self.everything = True
            elif parent.attr in self.children:
                child = self.children[parent.attr]
                if not _Uses(tree, parents, known, calls=self.calls).whole(parent, child):
                    self.used.update(child.modules())
            elif parent.attr in _TABLES or parent.attr.startswith("__") or hasattr(_BLANK, parent.attr):
                self.everything |= parent.attr != "training"
            elif parent.attr in vars(self.module):
                self.everything |= _knows_more(vars(self.module)[parent.attr])
            elif hasattr(type(self.module), parent.attr):
                yield parent.attr


class _Uses:
    """What one function does with an expression that is a module."""

    def __init__(
        self, tree: ast.FunctionDef, parents: dict[ast.AST, ast.AST], known: dict[str, Any], *, calls: bool
    ) -> None:
        self.tree, self.parents, self.known, self.calls = tree, parents, known, calls

    def whole(self, node: ast.AST, module: nn.Module) -> bool:
        """Whether ``node``, which is ``module``, is nothing but called and asked for what is no part of it."""
        parent = self.parents[node]
        if isinstance(parent, ast.Call) and (parent.func is node or self.is_caller(parent, node)):
            return self.calls
        if isinstance(parent, ast.Compare):
            return all(isinstance(operator, (ast.Is, ast.IsNot)) for operator in parent.ops)
        if isinstance(parent, ast.Assign) and parent.value is node:
            return all(self.target_whole(target, [module]) for target in parent.targets)
        if type(module).forward is nn.Module.forward:
            return self.elements_whole(node, [*module.children()])
        if isinstance(parent, ast.Attribute):
            return (parent.attr == "forward" and self.whole(parent, module)) or _is_no_part(module, parent.attr)
        return False

    def is_caller(self, call: ast.Call, node: ast.AST) -> bool:
        """Whether ``call`` is that of a function known to call its first argument, which is ``node``."""
        function = self.known.get(call.func.id) if isinstance(call.func, ast.Name) else None
        name = getattr(function, "__module__", ""), getattr(function, "__name__", "")
        return name in _CALLERS and call.args[:1] == [node]

    def elements_whole(self, node: ast.AST, modules: list[nn.Module]) -> bool:
        """Whether ``node``, a container of ``modules``, is used for elements that are nothing but called."""
        parent = self.parents[node]
        if isinstance(parent, ast.Subscript) and parent.value is node:
            return not isinstance(parent.slice, ast.Slice) and all(self.whole(parent, m) for m in modules)
        if isinstance(parent, (ast.For, ast.comprehension)) and parent.iter is node:
            return self.target_whole(parent.target, modules)
        if isinstance(parent, ast.Attribute) and parent.attr in ("values", "items"):
            call = self.parents[parent]
            return self.iterated(call, 1 if parent.attr == "items" else None, modules)
        if isinstance(parent, ast.Call) and isinstance(parent.func, ast.Name) and node in parent.args:
            if parent.func.id == "len":
                return True
            if parent.func.id in ("enumerate", "zip"):
                return self.iterated(parent, 1 if parent.func.id == "enumerate" else parent.args.index(node), modules)
        return False

    def iterated(self, node: ast.AST, place: int | None, modules: list[nn.Module]) -> bool:
        """Whether a loop over ``node`` calls the modules at ``place`` of what it yields, and does nothing else with them."""
        loop = self.parents[node]
        if not isinstance(loop, (ast.For, ast.comprehension)) or loop.iter is not node:
            return False
        target: Any = loop.target
        if place is not None:
            if not isinstance(target, ast.Tuple):
                return False
            target = target.elts[place]
        return self.target_whole(target, modules)

    def target_whole(self, target: ast.AST, modules: list[nn.Module]) -> bool:
        """Whether the variable ``target``, which may be any of ``modules``, is nothing but called wherever it is read."""
        if not isinstance(target, ast.Name):
            return False
        reads = [n for n in ast.walk(self.tree) if isinstance(n, ast.Name) and n.id == target.id and n is not target]
        # Another variable of the same name is one more use, and has to be harmless as well.
        reads = [n for n in reads if not isinstance(n.ctx, ast.Store)]
        return all(self.whole(read, module) for read in reads for module in modules)


def _is_no_part(module: nn.Module, name: str) -> bool:
    """Whether the attribute ``name`` of ``module`` is no module or weight in it, nor a method that uses one."""
    if name == "training":
        return True
    if name in _TABLES or name.startswith("__") or hasattr(_BLANK, name):
        return False
    if hasattr(type(module), name):
        method = Reach(module, name, calls=False)
        return not method.everything and not method.used
    return name in vars(module) and not _knows_more(vars(module)[name])


def _knows_more(value: Any) -> bool:
    """Whether ``value`` is code that holds other things than its arguments, modules perhaps."""
    if isinstance(value, FunctionType):
        return value.__closure__ is not None
    return isinstance(value, (MethodType, functools.partial))


def _definitions(cls: type, name: str) -> Iterator[Any]:
    """Yield what the classes of a module have under ``name``, each of which may call the next by ``super``."""
    for base in cls.__mro__:
        if base is nn.Module:
            return
        value = vars(base).get(name)
        if isinstance(value, property):
            value = value.fget
        elif isinstance(value, (staticmethod, classmethod)):
            value = value.__func__
        # Other values of a class are no code.
        if callable(value):
            yield inspect.unwrap(value)


def _tree(function: Any) -> ast.FunctionDef | None:
    """Return the source of a method as a tree, or None where there is none."""
    if not isinstance(function, FunctionType):
        return None
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    except (OSError, TypeError, SyntaxError):
        return None
    return tree if isinstance(tree, ast.FunctionDef) and tree.name == function.__name__ else None
