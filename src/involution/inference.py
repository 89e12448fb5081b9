"""Layer, batch norm, addition and activation with fewer passes over memory (CPU).

In evaluation a batch norm is a scale and an offset per channel. The native kernels of the involution and of 1×1
convolutions apply them, a residual and a ReLU before they write their result, where no derivative is wanted; while
compiling, as operators of the graph. In training norm, residual and ReLU are one operator (`involution.batch_norm`).
Everything here computes what the modules compute one after the other, within rounding, and calls them one after the
other wherever that cannot be done: while tracing, and for modules that are watched by hooks.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.library import register_fake
from torch.nn import functional as F
from torch.nn.modules import module as nn_module
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils.flop_counter import register_flop_formula

from . import backends, batch_norm
from .backends import Request, native
from .geometry import empty_map
from .operators import contraction as library

__all__ = ["READY", "Last", "Sequential", "apply", "combines", "contiguous", "serves"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_DTYPES = (torch.float32, torch.float64)
_NO_PADDING = ("valid", (0,), (0, 0), (0, 0, 0))

# Whether the native backend was built for this machine.
READY = native.unsupported(Request(torch.device("cpu"), torch.float32, 2, 16, (7, 7), (1, 1), (1, 1))) is None


class Last(NamedTuple):
    """What happens to a result before it is written: a bias is added, a batch norm applied, negatives become zero.

    Attributes:
        bias: one value per channel, contiguous, or None.
        mean: of the norm, one value per channel, contiguous; None without a norm.
        variance: likewise, there where the mean is.
        weight: likewise, or None.
        offset: likewise, or None.
        epsilon: added to the variance.
        relu: whether negative values become zero.
    """

    bias: Tensor | None = None
    mean: Tensor | None = None
    variance: Tensor | None = None
    weight: Tensor | None = None
    offset: Tensor | None = None
    epsilon: float = 0.0
    relu: bool = False


def serves(x: Tensor) -> bool:
    """Whether a result of ``x`` may be computed in one pass: a CPU tensor, no derivative, nobody watching.

    While compiling, the passes are operators of the graph.
    """
    return not torch.is_grad_enabled() and (is_plain(x) or _compiles(x))


def combines(x: Tensor) -> bool:
    """Whether `apply` can do more with ``x`` than to call one module after the other."""
    return is_plain(x) or serves(x)


def _compiles(x: Tensor) -> bool:
    """Whether ``x`` is being compiled for the native kernels."""
    return (
        READY
        and torch.compiler.is_compiling()
        and not torch.compiler.is_exporting()
        and x.is_cpu
        and x.dtype in _DTYPES
        and not torch.is_autocast_enabled("cpu")
        and backends.preferred() in (None, "native")
    )


def is_plain(x: Tensor) -> bool:
    """Whether ``x`` is a CPU tensor that the native kernels may read without a tracer, a mode or a hook knowing."""
    return not (
        # First, for symbols of a tracer have no other answer.
        type(x) is not Tensor
        or torch.compiler.is_compiling()
        or not x.is_cpu
        or x.dtype not in _DTYPES
        or torch.is_autocast_enabled("cpu")
        or torch._C._len_torch_dispatch_stack()
        or torch.jit.is_tracing()
        or library.is_transformed()
        or nn_module._has_any_global_hook()
        or backends.preferred() not in (None, "native")
        or not READY
    )


def unwatched(*modules: nn.Module) -> bool:
    """Whether nothing watches or replaces what goes into or comes out of ``modules``."""
    for m in modules:  # noqa: SIM110 (a generator costs twice as much)
        if m._forward_hooks or m._forward_pre_hooks or "forward" in m.__dict__:
            return False
    return True


def steps(norm: Any, act: nn.Module, dtype: torch.dtype) -> Last | None:
    """Return what ``act(norm(·))`` does to each channel of a map of ``dtype``, or None if it is something else."""
    if type(act) not in (nn.ReLU, nn.Identity) or not unwatched(norm, act):
        return None
    relu = type(act) is nn.ReLU
    if type(norm) is nn.Identity:
        return Last(relu=relu)
    if type(norm) not in _NORMS or norm.training:
        return None
    vectors = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    if vectors[0] is None:
        return None
    for v in vectors:
        if v is not None and (v.dtype != dtype or not v.is_cpu or not v.is_contiguous()):
            return None
    return Last(None, *vectors, norm.eps, relu)


def apply(
    layer: Any, norm: nn.Module, act: nn.Module, x: Tensor, residual: Tensor | None = None, own: bool = False
) -> Tensor:
    """Return ``act(norm(layer(x)) + residual)``, in one pass where ``layer`` is an involution or a 1×1 convolution.

    Of a `Sequential`, the last layer is taken together with the norm. With ``own`` nobody else reads the residual: the
    result may take its place in memory.
    """
    if type(layer) is Sequential and len(layer) and combines(x) and unwatched(layer):
        x, layer = layer.all_but_last(x), layer[-1]
    if serves(x) and unwatched(layer):
        last = steps(norm, act, x.dtype)
        if last is not None:
            y = None
            if type(layer) in _CONVOLUTIONS:
                last = last._replace(bias=contiguous(layer.bias))
                y = _pointwise(layer, last, x, residual, own)
                if y is None:
                    y = _convolution(layer, last, x, residual)
            elif residual is None and hasattr(layer, "infer"):
                y = layer.infer(x, last)
            if y is not None:
                return y
    x = layer(x)
    if norm.training and type(act) in (nn.ReLU, nn.Identity) and is_plain(x) and unwatched(norm, act):
        y = batch_norm.train(norm, type(act) is nn.ReLU, x, residual)
        if y is not None:
            return y
    # Batch statistics of no pixel at all would be NaN, and would stay in the running ones.
    if x.numel():
        x = _of_running_statistics(norm, x) if _lacks_statistics(norm, x) else norm(x)
    return act(x if residual is None else x + residual)


def _lacks_statistics(norm: Any, x: Tensor) -> bool:
    """Whether a batch norm in training sees one value per channel, the coarsest map of a small image, and would raise."""
    return type(norm) in _NORMS and norm.training and x.numel() == x.shape[1] and norm.running_mean is not None


def _of_running_statistics(norm: Any, x: Tensor) -> Tensor:
    # Copies, for a larger map that shares the norm may change the statistics before the backward pass reads them.
    return F.batch_norm(x, norm.running_mean.clone(), norm.running_var.clone(), norm.weight, norm.bias, eps=norm.eps)


def _pointwise(layer: Any, last: Last, x: Tensor, residual: Tensor | None, own: bool) -> Tensor | None:
    weight, (batch, channels, *grid) = layer.weight, x.shape
    if weight.dtype != x.dtype or not weight.is_cpu or len(grid) != weight.ndim - 2:
        return None
    if layer.groups != 1 or layer.padding not in _NO_PADDING or weight.shape[1:] != (channels, *(1,) * len(grid)):
        return None
    if not x.numel():
        return None
    size = (batch, weight.shape[0], *((n - 1) // s + 1 for n, s in zip(grid, layer.stride, strict=True)))
    if residual is None:
        y, own = empty_map(x, size, True), False
    elif residual.shape != size or residual.dtype != x.dtype:
        return None
    else:
        y = residual if own else empty_map(x, size, True)
    if torch.compiler.is_compiling():
        pointwise(y, own, None if own else residual, x, weight, layer.stride, *last)
    else:
        native.pointwise(y, x, weight.contiguous(), layer.stride, last, residual)
    return y


def _convolution(layer: Any, last: Last, x: Tensor, residual: Tensor | None) -> Tensor | None:
    """Fold the norm into the weight where that is smaller than the map it spares a pass over."""
    weight = layer.weight
    # The compiler itself takes norm, addition and ReLU together.
    if torch.compiler.is_compiling() or weight.dtype != x.dtype or weight.numel() > x.numel():
        return None
    bias, mean, variance, scale, offset, epsilon, relu = last
    if mean is None or variance is None:
        return None
    y = layer._conv_forward(x, *fuse_conv_bn_weights(weight, bias, mean, variance, epsilon, scale, offset))
    if residual is not None:
        y += residual
    return y.relu_() if relu else y


def contiguous(vector: Tensor | None) -> Tensor | None:
    """Return the values of a bias one after the other in memory."""
    return None if vector is None else vector.contiguous()


# The 1×1 convolution as an operator of compiled graphs. What it writes to belongs to the graph, which uses it again.

LAST = "Tensor? last_bias, Tensor? mean, Tensor? variance, Tensor? scale, Tensor? offset, float epsilon, bool relu"
library.LIBRARY.define(
    f"pointwise(Tensor(a!) out, bool add, Tensor? residual, Tensor input, Tensor weight, SymInt[] stride, {LAST}) -> ()"
)
pointwise = torch.ops.involution.pointwise.default


def _checked_pointwise(
    out: Tensor, add: bool, residual: Tensor | None, x: Tensor, weight: Tensor, stride: Sequence[int], *last: Any
) -> None:
    """Write the convolution and its ``last`` to ``out``, after adding ``residual`` or what ``out`` holds.

    Behind the dispatcher, anybody may call it with anything.
    """
    library.check_together(out, residual, x, weight, *last[:5])
    if out.numel():
        native.pointwise(out, x, weight.contiguous(), tuple(stride), last, out if add else residual)


library.LIBRARY.impl("pointwise", _checked_pointwise, "CPU")


@register_fake("involution::pointwise", lib=library.LIBRARY)
def _(*_: Any) -> None:
    return None


@register_flop_formula(torch.ops.involution.pointwise)
def _pointwise_flops(out: Any, add: Any, residual: Any, x: Any, *_: Any, **__: Any) -> int:
    return 2 * prod(out) * x[1]


class Sequential(nn.Sequential):
    """``nn.Sequential`` whose layers take the batch norm and the ReLU that follow them along, by `apply`."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply the modules one after the other to ``input``."""
        return self._run(input, list(self)) if combines(input) else super().forward(input)

    def all_but_last(self, input: Tensor) -> Tensor:
        """Apply all modules but the last one."""
        return self._run(input, list(self)[:-1])

    @staticmethod
    def _run(input: Tensor, modules: list[Any]) -> Tensor:
        i = 0
        while i < len(modules):
            triple = modules[i : i + 3]
            if len(triple) == 3 and isinstance(triple[1], (*_NORMS, nn.Identity)) and isinstance(triple[2], nn.ReLU):
                input = apply(triple[0], triple[1], triple[2], input)
                i += 3
            else:
                input = modules[i](input)
                i += 1
        return input
