"""Involution as a layer: kernel generation and multiply-add in one module, in the argument order of ``nn.Conv2d``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import ClassVar

import torch
from torch import Tensor, nn

from . import functional, inference
from .backends import Window
from .geometry import IntOrTuple, Padding, describe, output_size, resolve_padding, to_tuple
from .kernel_generation import _CONV, SpanKernelGenerator, create_kernel_generator, to_output_grid
from .operators import generation as fused

__all__ = ["Involution1d", "Involution2d", "Involution3d"]


class _Involution(nn.Module):
    _dims: ClassVar[int]

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        kernel_size: IntOrTuple = 7,
        stride: IntOrTuple = 1,
        padding: Padding = "same",
        dilation: IntOrTuple = 1,
        *,
        groups: int | None = None,
        group_channels: int = 16,
        reduction: int = 4,
        bias: bool = False,
        kernel_generator: str | Callable[[Tensor], Tensor] | None = None,
        norm_layer: Callable[[int], nn.Module] | None = None,
        act_layer: Callable[[], nn.Module] = nn.ReLU,
        backend: str = "auto",
        fused: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dims = self._dims
        (self.in_channels,) = to_tuple(in_channels, 1, "in_channels")
        (self.out_channels,) = to_tuple(in_channels if out_channels is None else out_channels, 1, "out_channels")
        self.kernel_size = to_tuple(kernel_size, dims, "kernel_size")
        self.stride = to_tuple(stride, dims, "stride")
        self.dilation = to_tuple(dilation, dims, "dilation")
        self.padding = resolve_padding(padding, self.kernel_size, self.dilation)
        self.groups = _resolve_groups(self.out_channels, groups, group_channels)
        self.backend = backend
        self.fused = fused
        with torch.device(device) if device is not None else nullcontext():
            self.value = (
                nn.Identity()
                if self.out_channels == self.in_channels
                else _CONV[dims](self.in_channels, self.out_channels, 1, bias=False)
            )
            if kernel_generator is None or isinstance(kernel_generator, str):
                kernel_generator = create_kernel_generator(
                    kernel_generator or "bottleneck",
                    in_channels=self.in_channels,
                    kernel_size=self.kernel_size,
                    groups=self.groups,
                    reduction=reduction,
                    norm_layer=norm_layer,
                    act_layer=act_layer,
                    stride=self.stride,
                    padding=self.padding,
                    dilation=self.dilation,
                    dims=dims,
                )
            elif not callable(kernel_generator):
                raise TypeError(
                    "kernel_generator must be a name or a callable from (B, C, H, W) to the kernel field, "
                    f"got {kernel_generator!r}"
                )
            self.kernel_generator = kernel_generator
            self.bias = nn.Parameter(torch.zeros(self.out_channels)) if bias else None
        # What follows the involution in a folded net, see `involution.fold_batch_norms`.
        self.scale: nn.Parameter | None = None
        self.relu = False
        if dtype is not None:
            self.to(dtype=dtype)

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer to ``input`` ``(B, C, H, W)``; see the class for the shape of the result."""
        from torch.overrides import has_torch_function
        symbol = has_torch_function((input,))
        if not symbol and (input.ndim != self._dims + 2 or input.shape[1] != self.in_channels):
            raise ValueError(
                f"input must have {self._dims + 2} dimensions, {self.in_channels} channels in the second, "
                f"got {describe(input)}"
            )
        value = self.value(input)
        direct = not symbol and self.backend in ("auto", "native") and inference.serves(input)
        output = self._forward_fused(value, input, inference.Last() if direct else None)
        if output is None:
            output = self._multiply_add(value, self.generate_kernel(input))
        if self.scale is not None:
            output = output * self.scale.view(-1, *[1] * self._dims)
        if self.bias is not None:
            output = output + self.bias.view(-1, *[1] * self._dims)
        return output.relu() if self.relu else output

    def infer(self, input: Tensor, last: inference.Last) -> Tensor | None:
        """Return ``last`` of the output, computed in one pass without derivatives, or None where that cannot be done.

        `inference.serves` has to hold for ``input``.
        """
        own = type(self).forward is _Involution.forward and self.backend in ("auto", "native")
        own = own and self.scale is None and not self.relu
        if not own or input.ndim != self._dims + 2 or input.shape[1] != self.in_channels:
            return None
        return self._forward_fused(self.value(input), input, last._replace(bias=inference.contiguous(self.bias)))

    def _multiply_add(self, value: Tensor, kernel: Tensor) -> Tensor:
        return getattr(functional, f"involution{self._dims}d")(
            value, kernel, stride=self.stride, padding=self.padding, dilation=self.dilation, backend=self.backend
        )

    def _forward_fused(self, value: Tensor, input: Tensor, last: inference.Last | None) -> Tensor | None:
        """Return the output (without its bias) without a kernel field in memory, or None where that cannot be done.

        With ``last``, that of the output, without derivatives.
        """
        generator = self.kernel_generator
        if not (self.fused and isinstance(generator, SpanKernelGenerator) and generator.fusible):
            return None
        span = generator.span
        from torch.overrides import has_torch_function
        symbol = has_torch_function((value,))
        if not symbol and not fused.serves(self.backend, value, span.weight):
            return None
        hidden = generator.hidden(to_output_grid(input, self.kernel_size, self.stride, self.padding, self.dilation))
        if symbol:
            return fused.involution_of_span(value, hidden, span.weight, span.bias, self.groups, self.kernel_size, stride=self.stride, padding=self.padding, dilation=self.dilation, backend=self.backend)
        grid = output_size(value.shape[2:], self.kernel_size, self.stride, self.padding, self.dilation)
        if (generator.groups, generator.kernel_size, tuple(hidden.shape[2:])) != (self.groups, self.kernel_size, grid):
            # The operator has the words for what does not fit.
            if last not in (None, inference.Last()):
                return None
            return self._multiply_add(value, generator.field(hidden))
        if last is not None and value.numel():
            window = Window(self.stride, self.padding, self.dilation)
            return fused.infer(value, hidden, span.weight, span.bias, self.groups, self.kernel_size, window, last)
        return fused.involution_of_span(
            value,
            hidden,
            span.weight,
            span.bias,
            self.groups,
            self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            backend=self.backend,
        )

    def generate_kernel(self, input: Tensor) -> Tensor:
        """Return the kernel field ``(B, G, K, K, H', W')`` that φ makes of ``input`` ``(B, C, H, W)``."""
        if getattr(self.kernel_generator, "pooled", True):
            input = to_output_grid(input, self.kernel_size, self.stride, self.padding, self.dilation)
        return self.kernel_generator(input)

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        if any(self.padding):
            text += f", padding={self.padding}"
        if any(d > 1 for d in self.dilation):
            text += f", dilation={self.dilation}"
        return f"{text}, groups={self.groups}"


def _resolve_groups(channels: int, groups: int | None, group_channels: int) -> int:
    """Return G, from itself or from C / G; maps narrower than one group have one group."""
    if groups is not None:
        (groups,) = to_tuple(groups, 1, "groups")
        if channels % groups:
            raise ValueError(f"out_channels must be divisible by groups, got {channels} channels and {groups} groups")
        return groups
    (group_channels,) = to_tuple(group_channels, 1, "group_channels")
    group_channels = min(group_channels, channels)
    if channels % group_channels:
        raise ValueError(
            f"out_channels must be divisible by group_channels, got {channels} channels in groups of {group_channels}; "
            "choose another group_channels, or the number of groups with groups="
        )
    return channels // group_channels


class Involution1d(_Involution):
    """Involution of sequences ``(B, C, L)``; arguments and result as `Involution2d`, in one dimension."""

    _dims = 1


class Involution2d(_Involution):
    r"""Involution: every pixel makes its own K×K kernel and applies it to its neighbourhood.

    .. math::
        Y_{ij} = \sum_{u,v} \varphi(X_{ij})_{u,v} \, X_{i+u,\,j+v}, \qquad
        \varphi(x) = W_1 \, \mathrm{ReLU}(\mathrm{BN}(W_0 x))

    The layer of Li et al., CVPR 2021. The C / G channels of a group share a kernel. In the
    paper's setting it holds ``(C² + K²GC) / r`` weights and costs ``HW · ((C² + K²GC) / r + K²C)`` multiply-adds.
    With stride s, φ sees the input average-pooled to the output grid. See `involution.involution2d` for the operator.

    Args:
        in_channels: C of the input.
        out_channels: C of the output; where it differs, a 1×1 convolution (the value projection) comes first.
        kernel_size: K, odd with ``padding="same"``.
        stride: pixels between two windows.
        padding: zeros around the map, ``"same"`` for an output of ``⌈H / s⌉``, or ``"valid"``.
        dilation: pixels between two taps.
        groups: G, number of kernels per pixel; ``out_channels / group_channels`` by default.
        group_channels: C / G, channels that share a kernel (capped at ``out_channels``).
        reduction: r, the ratio C to hidden width of the bottleneck φ.
        bias: add a learned offset per output channel (the paper has none).
        kernel_generator: φ: ``"bottleneck"`` (the paper's, default), ``"linear"``, ``"attention"``, or any callable
            from ``(B, C, H', W')`` to the field ``(B, G, K, K, H', W')``.
        norm_layer: the norm inside the bottleneck φ, from a number of channels to a module; batch norm by default.
        act_layer: the activation inside the bottleneck φ.
        backend: passed on to `involution.involution2d`.
        fused: where the native CPU backend or a GPU serves and φ ends in one matrix (bottleneck, linear), do not keep
            the kernel field for the backward pass but make it again there, and on the CPU make it tile by tile in the
            cache instead of in memory; False turns it off.
        device: where the parameters live.
        dtype: their floating dtype.

    Shape:
        ``(B, C_in, H, W)`` to ``(B, C_out, H', W')`` with ``H' = ⌊(H + 2p − d·(K − 1) − 1) / s⌋ + 1``.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of range, or the channels cannot be split into the groups.

    Example:
        >>> import torch
        >>> from involution import Involution2d
        >>> Involution2d(64, 64, kernel_size=7, stride=2)(torch.randn(2, 64, 15, 15)).shape
        torch.Size([2, 64, 8, 8])
    """

    _dims = 2


class Involution3d(_Involution):
    """Involution of volumes ``(B, C, D, H, W)``; arguments and result as `Involution2d`, in three dimensions."""

    _dims = 3
