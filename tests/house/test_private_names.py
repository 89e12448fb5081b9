"""Private names of other libraries: none but those of one table, and those are still there."""

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from functools import cache
from itertools import chain

import pytest
from house.sources import REPOSITORY, Module, modules

# What is reached, by its full name, and why no public name serves. A library may remove such a name in any release.
PRIVATE = {
    "atexit._run_exitfuncs": "what multiprocessing's own processes end with; no function can be registered to run after the others",
    "lightning.pytorch.strategies.model_parallel.ModelParallelStrategy._data_parallel_size": (
        "how many processes there are is known only when the strategy sets up, after its constructor"
    ),
    "os._exit": "documented; the end of a process inside the handler of a signal, which nothing can catch",
    "torch._C._AutoDispatchBelowAutograd": "what PyTorch's own register_autograd calls an operator without derivatives by",
    "torch._C._after_autograd_keyset": "what PyTorch's own register_autograd calls an operator without derivatives by",
    "torch._C._any_requires_grad": "what PyTorch's own register_autograd asks, in a fifth of the time of a loop",
    "torch._C._are_functorch_transforms_active": "derivatives under torch.func, of which register_autograd has none",
    "torch._functorch.utils.enable_single_level_autograd_function": "derivatives under torch.func, of which register_autograd has none",
    "torch._inductor": "the door of AOTInductor and of its settings, which PyTorch's documentation names",
    "torch._disable_dynamo": "dual tensors run outside a compiled graph; torch.compiler.disable imports the compiler with the library",
    "torch.autograd.forward_ad._current_level": "derivatives in forward mode, of which register_autograd has none",
    "torch.autograd.forward_ad._set_fwd_grad_enabled": "derivatives of third order in forward mode, which autograd functions get wrong without",
    "torch.autograd.Function._compiled_autograd_key": "what compiled autograd asks of a function, which that base class lacks",
    "torch.autograd.function._SingleLevelFunction": "derivatives under torch.func, of which register_autograd has none",
    "torch.nn.Module._backward_hooks": "surgery leaves what a hook watches as it is; hooks have no public list",
    "torch.nn.Module._backward_pre_hooks": "surgery leaves what a hook watches as it is; hooks have no public list",
    "torch.nn.Module._forward_hooks": "surgery leaves what a hook watches as it is; hooks have no public list",
    "torch.nn.Module._forward_pre_hooks": "surgery leaves what a hook watches as it is; hooks have no public list",
    "torch.ops.aten._adaptive_avg_pool2d": "the operator behind nn.AdaptiveAvgPool2d, to be counted",
    "torch.ops.aten._adaptive_avg_pool3d": "the operator behind nn.AdaptiveAvgPool3d, to be counted",
    "torch.ops.aten._batch_norm_no_update": "one of the operators behind nn.BatchNorm2d, to be counted",
    "torch.ops.aten._batch_norm_with_update": "one of the operators behind nn.BatchNorm2d, to be counted",
    "torch.ops.aten._convolution": "one of the operators behind nn.Conv2d, to be counted",
    "torch.ops.aten._cudnn_rnn": "an operator without a formula, to be named as uncounted",
    "torch.ops.aten._fw_primal": "a dual tensor without its tangent, also in a compiled graph, where forward_ad.unpack_dual gives it back whole",
    "torch.ops.aten._native_batch_norm_legit": "one of the operators behind nn.BatchNorm2d, to be counted",
    "torch.ops.aten._native_batch_norm_legit_no_training": "one of the operators behind nn.BatchNorm2d, to be counted",
    "torch.ops.aten._prelu_kernel": "the operator behind nn.PReLU, to be counted",
    "torch.ops.aten._trilinear": "the operator behind nn.Bilinear, without a formula, to be named as uncounted",
    "torchvision.models._api.register_model": "torchvision's scripts find models in its registry, which has no public door",
    "torch.utils._python_dispatch.TorchDispatchMode": "sees every operator that a net calls; there is no public path",
}

# The documented methods of named tuples, whose underscore keeps them apart from fields.
NAMED_TUPLE = {"_asdict", "_fields", "_make", "_replace"}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def names_defined() -> set[str]:
    """Return every name that the library itself gives to a function, a class, a variable or an attribute."""
    found = set()
    for module in modules().values():
        for node in ast.walk(module.tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                found.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                found.add(node.attr)
    return found


def private_names(module: Module, defined: set[str]) -> Iterator[tuple[int, str]]:
    """Yield line and name of each private name of another library.

    It is the full name where it is reached through an import, and ``.name`` where it is an attribute of some object:
    there a name is another library's if the library itself defines nothing of that name.
    """
    aliases: dict[str, str] = {}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                aliases[alias.asname or top] = alias.name if alias.asname else top
                if any(map(is_private, alias.name.split("."))):
                    yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                aliases[alias.asname or alias.name] = full
                if any(map(is_private, full.split("."))):
                    yield node.lineno, full
    aliases = {name: full for name, full in aliases.items() if full.partition(".")[0] != "involution"}
    for node in module.tree.body:
        # An abbreviation, such as _aten = torch.ops.aten.
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and dotted(node.value, aliases):
            aliases[node.targets[0].id] = dotted(node.value, aliases)
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            full = dotted(node, aliases)
            if full:
                yield node.lineno, full
            elif node.attr not in defined | NAMED_TUPLE:
                yield node.lineno, f".{node.attr}"
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr", "setattr", "delattr"):
            name = node.args[1].value if isinstance(node.args[1], ast.Constant) else ""
            if is_private(name) and name not in defined:
                yield node.lineno, f".{name}"


def dotted(node: ast.expr, aliases: dict[str, str]) -> str:
    """Return the full name of ``a.b.c`` where ``a`` was imported from another library, else nothing."""
    if isinstance(node, ast.Name):
        return aliases.get(node.id, "")
    if isinstance(node, ast.Attribute):
        base = dotted(node.value, aliases)
        return f"{base}.{node.attr}" if base else ""
    return ""


def canonical(name: str) -> str | None:
    """Return the entry of `PRIVATE` that covers a name."""
    if name in PRIVATE:
        return name
    # Modules on the way to a private name have one of their own: torch._C in torch._C._len_torch_dispatch_stack.
    if any(entry.startswith(f"{name}.") for entry in PRIVATE):
        return name
    if not name.startswith("."):
        return None
    return next((entry for entry in PRIVATE if entry.endswith(name)), None)


@cache
def private_attributes(base: type) -> set[str]:
    """Return the private attributes that a class of another library defines, in its body or for every instance."""
    try:
        assigned = re.findall(r"\bself\.(_\w+)", inspect.getsource(base))
    except (OSError, TypeError):
        assigned = []
    return {name for name in (*vars(base), *assigned) if is_private(name)}


def overridden(module: Module) -> Iterator[tuple[int, str]]:
    """Yield line and full name of each private attribute of another library's class that a subclass here sets."""
    for node in module.tree.body:
        if not isinstance(node, ast.ClassDef) or not node.bases:
            continue
        own = {n.name: n.lineno for n in node.body if isinstance(n, ast.FunctionDef)}
        fields = [n for n in node.body if isinstance(n, (ast.Assign, ast.AnnAssign))]
        own |= {n.id: n.lineno for field in fields for n in ast.walk(field) if isinstance(n, ast.Name) and is_stored(n)}
        own |= {n.attr: n.lineno for n in ast.walk(node) if is_stored(n) and ast.unparse(n).startswith("self.")}
        own = {name: line for name, line in own.items() if is_private(name)}
        # Most classes set none, and reading the sources of their bases takes long.
        bases = getattr(importlib.import_module(module.name), node.name).__mro__ if own else ()
        for base in bases:
            if base.__module__.partition(".")[0] not in ("involution", "builtins"):
                for name in sorted(private_attributes(base) & own.keys()):
                    yield own[name], f"{base.__module__}.{base.__qualname__}.{name}"


def is_stored(node: ast.AST) -> bool:
    return isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Store)


@cache
def used() -> dict[str, list[str]]:
    """Return the places of every private name in the library."""
    defined = names_defined()
    found: dict[str, list[str]] = {}
    for module in modules().values():
        for line, name in chain(private_names(module, defined), overridden(module)):
            found.setdefault(name, []).append(f"{module.path.relative_to(REPOSITORY)}:{line}")
    return found


def test_no_private_name_outside_the_table():
    unknown = {name: places for name, places in used().items() if canonical(name) is None}
    assert not unknown, "\n".join(
        f"{places[0]}: {name} is private; use public names, or enter it in PRIVATE with the reason"
        for name, places in unknown.items()
    )


def test_the_table_names_nothing_that_is_not_used():
    unused = PRIVATE.keys() - {canonical(name) for name in used()}
    assert not unused, "gone: remove these lines from PRIVATE"


@pytest.mark.parametrize("name", PRIVATE)
def test_private_names_are_still_there(name):
    owner, _, attribute = name.rpartition(".")
    parts = owner.split(".")
    pytest.importorskip(parts[0])
    found, rest = importlib.import_module(parts[0]), parts[1:]
    for part in rest:
        if inspect.ismodule(found) and not hasattr(found, part):
            importlib.import_module(f"{found.__name__}.{part}")
        found = getattr(found, part)
    there = hasattr(found, attribute)
    if not there and inspect.isclass(found):
        # Set for every instance.
        there = f"self.{attribute}" in inspect.getsource(found)
    assert there, f"{name} is gone from the installed {parts[0]}; replace what uses it: {PRIVATE[name]}"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from torch._ops import OpOverload", ["torch._ops.OpOverload"]),
        ("from timm.models import _registry", ["timm.models._registry"]),
        ("import torch._dynamo", ["torch._dynamo"]),
        ("import torch\ntorch.autograd._profiler_enabled()", ["torch.autograd._profiler_enabled"]),
        ("from torch import nn\ndef f():\n    return nn.modules.conv._ConvNd", ["torch.nn.modules.conv._ConvNd"]),
        ("import torch\n_aten = torch.ops.aten\nx = _aten._convolution", ["torch.ops.aten._convolution"]),
        ("def f(m):\n    return m._forward_hooks", ["._forward_hooks"]),
        ("def f(m):\n    return getattr(m, '_forward_hooks', None)", ["._forward_hooks"]),
        ("def f(m, n):\n    return m._ours, n._replace(x=1), m.__class__", []),
    ],
)
def test_private_names_are_found_wherever_they_stand(source, expected):
    module = Module("involution.a", REPOSITORY / "a.py", ast.parse(source))
    assert [name for _, name in private_names(module, {"_ours"})] == expected
