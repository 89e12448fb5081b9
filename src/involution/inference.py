"""Layer, batch norm, addition and activation with fewer passes over memory (CPU).

In evaluation a batch norm is a scale and an offset per channel. The native kernels of the involution and of 1×1
convolutions apply them, a residual and a ReLU before they write their result, where no derivative is wanted. In
training norm, residual and ReLU are one operator (`involution.batch_norm`). Everything here computes what the modules
compute one after the other, within rounding, and calls them one after the other wherever that cannot be done: while
tracing or compiling, and for modules that are watched by hooks.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules import module as nn_module

from . import backends, batch_norm, library
from .backends import Request, native
from .geometry import empty_map

__all__ = ["Affine", "Sequential", "apply", "serves"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_DTYPES = (torch.float32, torch.float64)


class Affine(NamedTuple):
    """What happens to a result before it is written: ``result · scale + offset``, then ReLU.

    Attributes:
        scale: one value per channel, contiguous, or None.
        offset: likewise.
        relu: whether negative values become zero.
    """

    scale: Tensor | None = None
    offset: Tensor | None = None
    relu: bool = False

    def after(self, bias: Tensor) -> Affine:
        """Return the same steps for a result that ``bias`` has not been added to yet."""
        offset = bias if self.scale is None else bias * self.scale
        return self._replace(offset=(offset if self.offset is None else offset + self.offset).contiguous())


def serves(x: Tensor) -> bool:
    """Whether a result of ``x`` may be computed in one pass: a plain CPU tensor, no derivative, nobody watching."""
    return not torch.is_grad_enabled() and is_plain(x)


def is_plain(x: Tensor) -> bool:
    """Whether ``x`` is a CPU tensor that the native kernels may read without a tracer, a mode or a hook knowing."""
    return not (
        # First, for symbols of a tracer have no other answer.
        type(x) is not Tensor
        or torch.compiler.is_compiling()
        or x.device.type != "cpu"
        or x.dtype not in _DTYPES
        or torch.is_autocast_enabled("cpu")
        or torch._C._len_torch_dispatch_stack()
        or torch.jit.is_tracing()
        or library.is_transformed()
        or nn_module._has_any_global_hook()
        or backends.preferred() not in (None, "native")
        or native.unsupported(Request(x.device, x.dtype, 2, 1, (1, 1), (1, 1), (1, 1)))
    )


def unwatched(*modules: nn.Module) -> bool:
    """Whether nothing watches or replaces what goes into or comes out of ``modules``."""
    return not any(m._forward_hooks or m._forward_pre_hooks or "forward" in m.__dict__ for m in modules)


def affine(norm: Any, act: nn.Module, dtype: torch.dtype) -> Affine | None:
    """Return what ``act(norm(·))`` does to each channel of a map of ``dtype``, or None if it is something else."""
    if type(act) not in (nn.ReLU, nn.Identity) or not unwatched(norm, act):
        return None
    relu = type(act) is nn.ReLU
    if type(norm) is nn.Identity:
        return Affine(relu=relu)
    if type(norm) not in _NORMS or norm.training or norm.running_mean is None:
        return None
    vectors = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    if any(v is not None and (v.dtype != dtype or v.device.type != "cpu" or not v.is_contiguous()) for v in vectors):
        return None
    return Affine(*native.affine_of_norm(*vectors, norm.eps), relu)


def apply(layer: Any, norm: nn.Module, act: nn.Module, x: Tensor, residual: Tensor | None = None) -> Tensor:
    """Return ``act(norm(layer(x)) + residual)``, in one pass where ``layer`` is an involution or a 1×1 convolution.

    Of a `Sequential`, the last layer is taken together with the norm.
    """
    if type(layer) is Sequential and len(layer) and is_plain(x) and unwatched(layer):
        x, layer = layer.all_but_last(x), layer[-1]
    if serves(x) and unwatched(layer):
        last = affine(norm, act, x.dtype)
        if last is not None:
            y = None
            if type(layer) in _CONVOLUTIONS:
                y = _pointwise(layer, last, x, residual)
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


def _pointwise(layer: Any, last: Affine, x: Tensor, residual: Tensor | None) -> Tensor | None:
    weight = layer.weight
    if weight.dtype != x.dtype or weight.device != x.device or weight.numel() != weight.shape[0] * weight.shape[1]:
        return None
    if layer.groups != 1 or any(layer.padding if isinstance(layer.padding, tuple) else (1,)):
        return None
    if x.ndim != weight.ndim or x.shape[1] != weight.shape[1] or not x.numel():
        return None
    grid = tuple((n - 1) // s + 1 for n, s in zip(x.shape[2:], layer.stride, strict=True))
    y = empty_map(x, (x.shape[0], weight.shape[0], *grid), True)
    if residual is not None and (residual.shape != y.shape or residual.dtype != y.dtype):
        return None
    if layer.bias is not None:
        last = last.after(layer.bias)
    native.pointwise(y, x, weight.flatten(1).contiguous(), layer.stride, last, residual)
    return y


def _convolution(layer: Any, last: Affine, x: Tensor, residual: Tensor | None) -> Tensor | None:
    """Fold the norm into the weight where that is smaller than the map it spares a pass over."""
    weight = layer.weight
    scale = last.scale
    if scale is None or weight.dtype != x.dtype or weight.numel() > x.numel():
        return None
    if layer.bias is not None:
        last = last.after(layer.bias)
    scale = scale.view(-1, *[1] * (weight.ndim - 1))
    y = layer._conv_forward(x, weight * scale, last.offset)
    if residual is not None:
        y += residual
    return y.relu_() if last.relu else y


class Sequential(nn.Sequential):
    """``nn.Sequential`` whose layers take the batch norm and the ReLU that follow them along, by `apply`."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply the modules one after the other to ``input``."""
        return self._run(input, list(self)) if is_plain(input) else super().forward(input)

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
