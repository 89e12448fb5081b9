"""Fold batch norms into the convolutions before them, those inside φ included, for inference."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from typing import Any

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..kernel_generation import BottleneckKernelGenerator, KernelGenerator
from ..modules import Involution1d, Involution2d, Involution3d

__all__ = ["fold_batch_norms"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def fold_batch_norms(model: nn.Module) -> nn.Module:
    """Return a copy of ``model`` whose batch norms are part of the convolutions before them.

    In evaluation a batch norm is a scale and an offset per channel, which the weights and the bias of a convolution
    can hold: the result computes the same function up to rounding, with fewer passes over memory. Norms that follow
    anything else (an involution, whose kernels are shared by channels) stay. The copy keeps class and attributes of
    ``model``; a folded norm is an ``nn.Identity``.

    Args:
        model: a module in evaluation mode. Parts that ``torch.fx`` cannot trace are folded child by child.

    Raises:
        ValueError: ``model`` is in training mode.

    Example:
        >>> import timm, involution.models
        >>> from involution import fold_batch_norms
        >>> net = fold_batch_norms(timm.create_model("rednet26").eval())
        >>> type(net).__name__, type(net.layer1[0].bn1).__name__, type(net.layer1[0].bn2).__name__
        ('RedNet', 'Identity', 'BatchNorm2d')
    """
    if model.training:
        raise ValueError("batch norms can be folded in evaluation mode only; call model.eval() first")
    model = copy.deepcopy(model)
    for convolution, norm in list(_pairs(model, "")):
        pair: list[Any] = [model.get_submodule(name) for name in (convolution, norm)]
        _set(model, convolution, fuse_conv_bn_eval(*pair))
        _set(model, norm, nn.Identity())
    return model


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, module_qualified_name: str) -> bool:
        own = isinstance(module, (Involution1d, Involution2d, Involution3d, KernelGenerator))
        return own or super().is_leaf_module(module, module_qualified_name)


def _pairs(module: nn.Module, prefix: str) -> Iterator[tuple[str, str]]:
    """Yield the names of every convolution whose only reader is a batch norm, and of that norm."""
    if isinstance(module, BottleneckKernelGenerator):
        if isinstance(module.reduce, _CONVOLUTIONS) and isinstance(module.norm, _NORMS):
            yield f"{prefix}reduce", f"{prefix}norm"
        return
    if any(module.children()) and not isinstance(module, (Involution1d, Involution2d, Involution3d)):
        try:
            graph = _Tracer().trace(module)
        # Tracing runs the forward of any class with symbols for tensors and may raise whatever that raises.
        except Exception:
            graph = None
        if graph is not None:
            yield from _pairs_in_graph(module, graph, prefix)
            for name, child in module.named_modules():
                if isinstance(child, KernelGenerator):
                    yield from _pairs(child, f"{prefix}{name}.")
            return
    for name, child in module.named_children():
        yield from _pairs(child, f"{prefix}{name}.")


def _pairs_in_graph(root: nn.Module, graph: fx.Graph, prefix: str) -> Iterator[tuple[str, str]]:
    calls = [node for node in graph.nodes if node.op == "call_module"]
    uses = Counter(str(node.target) for node in calls)
    for node in calls:
        source = node.args[0] if node.args else None
        if not isinstance(source, fx.Node) or source.op != "call_module" or len(source.users) > 1:
            continue
        convolution, norm = root.get_submodule(str(source.target)), root.get_submodule(str(node.target))
        # A module called twice may be followed by different things.
        once = uses[str(source.target)] == uses[str(node.target)] == 1
        if once and type(convolution) in _CONVOLUTIONS and type(norm) in _NORMS and norm.track_running_stats:
            yield f"{prefix}{source.target}", f"{prefix}{node.target}"


def _set(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module.train(False))
