"""Kernel generation φ: from a feature map to one K×K kernel per pixel and group."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import handle_torch_function, has_torch_function

from . import functional
from .functional import Span
from .geometry import IntOrTuple, Padding, Window, to_tuple, to_window

__all__ = [
    "BottleneckKernelGenerator",
    "KernelGenerator",
    "LinearKernelGenerator",
    "LocalAttentionKernelGenerator",
]

_CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


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

    Args:
        hidden_channels: channels of the hidden map.
        kernel_size: K, taps per dimension.
        groups: G, number of kernels per pixel.
        bias: whether a bias per tap and group is added.
        dims: spatial dimensions, 1 to 3.
    """

    def __init__(self, hidden_channels: int, kernel_size: IntOrTuple, groups: int, bias: bool, dims: int) -> None:
        super().__init__()
        self.groups, self.kernel_size = groups, to_tuple(kernel_size, dims, "kernel_size")
        rows = groups * prod(self.kernel_size)
        self.weight = nn.Parameter(torch.empty(rows, hidden_channels, *[1] * dims))
        self.bias = nn.Parameter(torch.empty(rows)) if bias else None

    def forward(self, hidden: Tensor) -> Span:
        """Return the field of ``hidden`` ``(B, C_hidden, H', W')`` as a `Span`."""
        return Span(hidden, self.weight, self.bias, self.groups, self.kernel_size)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]}, kernel_size={self.kernel_size}, groups={self.groups}, bias={self.bias is not None}"


class BottleneckKernelGenerator(KernelGenerator):
    r"""The paper's kernel generation, :math:`H_{ij} = W_1 \, \mathrm{ReLU}(\mathrm{BN}(W_0 x_{ij}))`.

    ``(C² + K²GC) / r`` weights, K²G biases and the parameters of the norm.

    Args:
        in_channels: C, channels of the map it looks at.
        kernel_size: K, taps per dimension.
        groups: G, number of kernels per pixel.
        reduction: r, the hidden width is ``max(1, C // r)``.
        reduce_bias: whether W0 has a bias (the paper's has none, the norm follows it).
        norm_layer: from a number of channels to a module; batch norm of the right rank by default.
        act_layer: the activation's class.
        dims: spatial dimensions, 1 to 3.

    Raises:
        ValueError: ``reduction`` or ``kernel_size`` is below 1.

    Example:
        >>> import torch
        >>> from involution.kernel_generation import BottleneckKernelGenerator
        >>> BottleneckKernelGenerator(64, kernel_size=7, groups=4)(torch.randn(2, 64, 14, 14)).field().shape
        torch.Size([2, 4, 7, 7, 14, 14])
    """

    def __init__(
        self,
        in_channels: int,
        kernel_size: IntOrTuple,
        groups: int,
        *,
        reduction: int = 4,
        reduce_bias: bool = False,
        norm_layer: Callable[[int], nn.Module] | None = None,
        act_layer: Callable[[], nn.Module] = nn.ReLU,
        dims: int = 2,
    ) -> None:
        (reduction,) = to_tuple(reduction, 1, "reduction")
        hidden_channels = max(1, in_channels // reduction)
        super().__init__()
        # The matrix comes first: optimisers in checkpoints know parameters by their order.
        self.span = SpanMatrix(hidden_channels, kernel_size, groups, bias=True, dims=dims)
        self.reduce = _CONV[dims](in_channels, hidden_channels, 1, bias=reduce_bias)
        self.norm = (norm_layer or _NORM[dims])(hidden_channels)
        self.act = act_layer()
        self.reset_parameters()

    def forward(self, x: Tensor) -> Span:
        """Return the field ``(B, G, K, K, H', W')`` of ``x`` ``(B, C, H', W')``, as a `Span`."""
        x = self.reduce(x)
        x = _with_running_statistics(self.norm, x) if _lacks_statistics(self.norm, x) else self.norm(x)
        span: Span = self.span(self.act(x))
        return span


def _lacks_statistics(norm: nn.Module, x: Tensor) -> bool:
    """Whether a batch norm in training sees at most one value per channel, of which PyTorch refuses the statistics.

    Involutions stand where convolutions stood: on the coarsest map of a pyramid, or for no region at all.
    """
    # What torch.fx hands in is no tensor, and has no sizes yet.
    if not isinstance(x, Tensor) or not isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
        return False
    return norm.training and norm.running_mean is not None and x.numel() <= x.shape[1]


def _with_running_statistics(norm: Any, x: Tensor) -> Tensor:
    # Copies, for a larger map that shares the norm may change the statistics before the backward pass reads them.
    return F.batch_norm(x, norm.running_mean.clone(), norm.running_var.clone(), norm.weight, norm.bias, eps=norm.eps)


class LinearKernelGenerator(KernelGenerator):
    r"""One matrix, :math:`H_{ij} = W x_{ij}`: the "W" row of the paper's ablation of φ, ``K²GC`` weights.

    Args:
        in_channels: C, channels of the map it looks at.
        kernel_size: K, taps per dimension.
        groups: G, number of kernels per pixel.
        bias: whether a bias per tap and group is added.
        dims: spatial dimensions, 1 to 3.
    """

    def __init__(
        self, in_channels: int, kernel_size: IntOrTuple, groups: int, *, bias: bool = True, dims: int = 2
    ) -> None:
        super().__init__()
        self.span = SpanMatrix(in_channels, kernel_size, groups, bias=bias, dims=dims)
        self.reset_parameters()

    def forward(self, x: Tensor) -> Span:
        """Return the field ``(B, G, K, K, H', W')`` of ``x`` ``(B, C, H', W')``, as a `Span`."""
        span: Span = self.span(x)
        return span


class LocalAttentionKernelGenerator(KernelGenerator):
    r"""Local self-attention as kernel generation: queries against the keys of the K×K neighbourhood.

    .. math::
        H_{g,u,v,i,j} = \mathrm{softmax}_{u,v} \; \tfrac{1}{\sqrt d} \, q_{g,ij}^\top (k_{g,\,si+du-p,\,sj+dv-p} + e_{g,uv})

    As the paper observes, self-attention is involution with Ψ a patch and φ(X_Ψ) = (X W_Q)(X W_K)ᵀ; heads are
    groups, W_V and the output projection are the 1×1 convolutions around the involution.

    Args:
        in_channels: C, channels of the map it looks at.
        kernel_size: K, taps per dimension.
        groups: G, number of heads.
        head_channels: d, channels of a query; ``max(1, C // G)`` by default.
        softmax: normalise over the neighbours inside the map; without it the products are the kernel.
        relative_position: add a learned embedding e of the offset to the keys (Ramachandran et al. 2019).
        stride: as in the involution that uses the field; queries come from the pooled map.
        padding: likewise.
        dilation: likewise.
        dims: spatial dimensions, 1 to 3.

    Raises:
        ValueError: a size is below 1, or the kernel is even with ``padding="same"``.
    """

    pooled = False

    def __init__(
        self,
        in_channels: int,
        kernel_size: IntOrTuple,
        groups: int,
        *,
        head_channels: int | None = None,
        softmax: bool = True,
        relative_position: bool = True,
        stride: IntOrTuple = 1,
        padding: Padding = "same",
        dilation: IntOrTuple = 1,
        dims: int = 2,
    ) -> None:
        super().__init__()
        (head_channels,) = to_tuple(head_channels or max(1, in_channels // groups), 1, "head_channels")
        self.dims, self.groups, self.head_channels, self.softmax = dims, groups, head_channels, softmax
        self.window = to_window(kernel_size, stride, padding, dilation, dims)
        self.query = _CONV[dims](in_channels, groups * head_channels, 1, bias=False)
        self.key = _CONV[dims](in_channels, groups * head_channels, 1, bias=False)
        self.relative_position = (
            nn.Parameter(torch.empty(groups, head_channels, *self.window.kernel_size)) if relative_position else None
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise both projections to keep the variance of queries and keys, embeddings to a small normal."""
        for projection in (self.query, self.key):
            nn.init.xavier_normal_(projection.weight)
        if self.relative_position is not None:
            nn.init.normal_(self.relative_position, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Return the field ``(B, G, K, K, H', W')`` of the whole map ``x`` ``(B, C, H, W)``."""
        query = self.query(to_output_grid(x, self.window))
        query = query * self.head_channels**-0.5
        correlation = (functional.correlation1d, functional.correlation2d, functional.correlation3d)[self.dims - 1]
        kernel_size, stride, padding, dilation = self.window
        field = correlation(
            query, self.key(x), kernel_size, groups=self.groups, stride=stride, padding=padding, dilation=dilation
        )
        if self.relative_position is not None:
            q = query.unflatten(1, (self.groups, self.head_channels)).flatten(3)
            e = self.relative_position.flatten(2)
            field = field + torch.einsum("bgdn,gdk->bgkn", q, e).reshape(field.shape).to(field.dtype)
        if self.softmax:
            field = softmax_inside(field, x, self.window)
        return field


def softmax_inside(field: Tensor, x: Tensor, window: Window) -> Tensor:
    """Normalise a field over the taps whose neighbour lies inside the map ``x``."""
    if has_torch_function((field, x)):
        return handle_torch_function(softmax_inside, (field, x), field, x, window)
    dims = len(window.kernel_size)
    inside = torch.ones((), dtype=torch.bool, device=x.device)
    for axis in range(dims):
        taps = torch.arange(window.kernel_size[axis], device=x.device)
        taps = taps * window.dilation[axis] - window.padding[axis]
        pixels = torch.arange(field.shape[2 + dims + axis], device=x.device) * window.stride[axis]
        position = taps[:, None] + pixels
        shape = [1] * (2 * dims)
        shape[axis], shape[dims + axis] = position.shape
        inside = inside & ((position >= 0) & (position < x.shape[2 + axis])).view(shape)
    # The smallest finite number instead of -inf: a window wholly outside then stays finite, and meets only zeros.
    field = field.masked_fill(~inside, torch.finfo(field.dtype).min)
    return field.flatten(2, 1 + dims).softmax(2).view(field.shape)


def to_output_grid(x: Tensor, window: Window) -> Tensor:
    """Average-pool ``x`` so that one pixel remains per window of the involution.

    The paper pools with window and stride s. Here the map is first cropped (or padded) to the windows' centres where
    ``padding`` is not ``d·(K − 1)/2``, and a last window that hangs over the border averages what it covers, so that
    the result fits the output grid for every size; on sizes divisible by s it is the paper's definition.
    """
    if has_torch_function((x,)):
        return handle_torch_function(to_output_grid, (x,), x, window)
    if len(window.stride) == 3 and x.device.type == "cpu" and x.dtype in (torch.float16, torch.bfloat16):
        # PyTorch pools no volumes of these on a CPU.
        return to_output_grid(x.float(), window).to(x.dtype)
    stride, crops = window.stride, []
    for k, p, d in zip(window.kernel_size, window.padding, window.dilation, strict=True):
        margin = d * (k - 1) - 2 * p
        crops.append((-(margin // 2), margin // 2 - margin))
    if any(map(any, crops)):
        # A map on which no window fits is refused here already, in the words of the operator: nothing would be left.
        window.output_size(x.shape[2:])
        x = F.pad(x, [amount for pair in reversed(crops) for amount in pair])
    if all(s == 1 for s in stride):
        return x
    pool = _POOL[len(stride)]
    if not torch.compiler.is_exporting() and all(n >= s for n, s in zip(x.shape[2:], stride, strict=True)):
        return pool(x, stride, stride, ceil_mode=True, count_include_pad=False)
    # The same without ceil_mode, whose size rule an exporter with dynamic sizes cannot prove, and which refuses maps
    # smaller than a window: sums of a map continued with zeros, over the share of each window inside the map.
    hang = [amount for s in reversed(stride) for amount in (0, s - 1)]
    inside = F.pad(x.new_ones((1, 1, *x.shape[2:])), hang)
    return pool(F.pad(x, hang), stride, stride) / pool(inside, stride, stride)


_GENERATORS: dict[str, Callable[..., nn.Module]] = {
    "bottleneck": lambda reduction, norm_layer, act_layer, stride, padding, dilation, **common: (
        BottleneckKernelGenerator(reduction=reduction, norm_layer=norm_layer, act_layer=act_layer, **common)
    ),
    "linear": lambda reduction, norm_layer, act_layer, stride, padding, dilation, **common: LinearKernelGenerator(
        **common
    ),
    "attention": lambda reduction, norm_layer, act_layer, **geometry: LocalAttentionKernelGenerator(**geometry),
}


def create_kernel_generator(name: str, **arguments: Any) -> nn.Module:
    """Build φ by name: ``"bottleneck"``, ``"linear"`` or ``"attention"``.

    Raises:
        ValueError: the name is unknown.
    """
    if name not in _GENERATORS:
        raise ValueError(
            f"unknown kernel generator {name!r}; expected one of {', '.join(map(repr, _GENERATORS))}, "
            "or pass a callable from (B, C, H, W) to the kernel field"
        )
    return _GENERATORS[name](**arguments)
