"""What every φ shares: the base class, the matrix of a last step, and norms that see one pixel."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..geometry import IntOrTuple, to_tuple
from ..span import Span

__all__ = ["CONVOLUTIONS", "NORMS", "KernelGenerator", "SpanMatrix", "normalise"]

# By the number of spatial dimensions.
CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class KernelGenerator(nn.Module):
    """Base of the generators; any callable from ``(B, C, H', W')`` to the field serves as well.

    Attributes:
        pooled: whether φ is fed the input reduced to the output grid (Ψ = one pixel, the paper's choice). A generator
            that looks at neighbourhoods (Ψ = a patch) sets it to False and is fed the whole input.
    """

    pooled: bool = True

    def reset_parameters(self) -> None:
        """Initialise every convolution with Kaiming's normal in fan-out mode and zero biases (the paper's recipe)."""
        for module in self.modules():
            if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d, SpanMatrix)):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


class SpanMatrix(nn.Module):
    """The matrix of a φ's last step, with the parameters of a 1×1 convolution; it is left to the involution to apply.

    It is zero until `reset_parameters`, its own or that of the φ it is part of, has initialised it.

    Args:
        hidden_channels: channels of the hidden map.
        kernel_size: K, taps per dimension.
        groups: G, number of kernels per pixel.
        bias: whether a bias per tap and group is added.
        dims: spatial dimensions, 1 to 3.

    Raises:
        ValueError: ``groups`` or ``kernel_size`` is below 1.
    """

    def __init__(self, hidden_channels: int, kernel_size: IntOrTuple, groups: int, bias: bool, dims: int) -> None:
        super().__init__()
        (self.groups,) = to_tuple(groups, 1, "groups")
        self.kernel_size = to_tuple(kernel_size, dims, "kernel_size")
        rows = groups * prod(self.kernel_size)
        self.weight = nn.Parameter(torch.zeros(rows, hidden_channels, *[1] * dims))
        self.bias = nn.Parameter(torch.zeros(rows)) if bias else None

    def reset_parameters(self) -> None:
        """Initialise weight and bias as PyTorch's convolutions do; the φ around it does so as its paper does."""
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)
        if self.bias is not None:
            bound = self.weight.shape[1] ** -0.5
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, hidden: Tensor) -> Span:
        """Return the field of ``hidden`` ``(B, C_hidden, H', W')`` as a `Span`."""
        weight: Tensor = self.weight
        bias: Tensor | None = self.bias
        if not torch.is_grad_enabled() and not torch.jit.is_tracing() and not torch.compiler.is_compiling():
            # A checkpoint that is reentrant makes whatever comes out of here its own result; were it the parameter itself,
            # the parameter would become a function of itself, and the backward pass would not end.
            weight, bias = weight.detach(), None if bias is None else bias.detach()
        return Span(hidden, weight, bias, self.groups, self.kernel_size)

    def extra_repr(self) -> str:
        """Return what a net's printed form says of the matrix."""
        return f"{self.weight.shape[1]}, kernel_size={self.kernel_size}, groups={self.groups}, bias={self.bias is not None}"


def made_by(layer: Callable[..., nn.Module], name: str, *arguments: int) -> nn.Module:
    """Return the module that ``layer`` makes; ``name`` is the argument it came in.

    Raises:
        TypeError: it is a module already, or makes none.
    """
    made = None if isinstance(layer, nn.Module) or not callable(layer) else layer(*arguments)
    if not isinstance(made, nn.Module):
        kind = "takes a number of channels and returns" if arguments else "returns"
        raise TypeError(f"{name} must be a class or a function that {kind} a module, got {layer!r}")
    return made


def normalise(norm: nn.Module, x: Tensor) -> Tensor:
    """Apply a norm; a batch norm in training that sees at most one value per channel takes its running statistics.

    PyTorch refuses the statistics of one value. Involutions stand where convolutions stood: on the coarsest map of a
    pyramid, or for no region at all.
    """
    normalised: Tensor = _with_running_statistics(norm, x) if _lacks_statistics(norm, x) else norm(x)
    return normalised


def _lacks_statistics(norm: nn.Module, x: Tensor) -> bool:
    """Whether a batch norm in training sees at most one value per channel, of which PyTorch refuses the statistics."""
    # What torch.fx hands in is no tensor, and has no sizes yet.
    if not isinstance(x, Tensor) or not isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
        return False
    return norm.training and norm.running_mean is not None and x.numel() <= x.shape[1]


def _with_running_statistics(norm: Any, x: Tensor) -> Tensor:
    # Copies, for a larger map that shares the norm may change the statistics before the backward pass reads them.
    return F.batch_norm(x, norm.running_mean.clone(), norm.running_var.clone(), norm.weight, norm.bias, eps=norm.eps)
