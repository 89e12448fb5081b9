"""Involution as a layer: kernel generation and multiply-add in one module, in the argument order of ``nn.Conv2d``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import ClassVar, Literal, NoReturn, get_args

import torch
from torch import Tensor, nn

from . import backends, functional
from .geometry import IntOrTuple, Padding, Window, describe, to_tuple, to_window
from .kernel_generation.base import CONVOLUTIONS
from .kernel_generation.create import create_kernel_generator
from .kernel_generation.windows import continued, to_output_grid
from .span import Span

__all__ = ["Involution1d", "Involution2d", "Involution3d"]

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]


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
        padding_mode: PaddingMode = "zeros",
        kernel_generator: str | Callable[[Tensor], Tensor | Span] | None = None,
        norm_layer: Callable[[int], nn.Module] | None = None,
        act_layer: Callable[[], nn.Module] = nn.ReLU,
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dims = self._dims
        (self.in_channels,) = to_tuple(in_channels, 1, "in_channels")
        (self.out_channels,) = to_tuple(in_channels if out_channels is None else out_channels, 1, "out_channels")
        window = to_window(kernel_size, stride, padding, dilation, dims)
        self.kernel_size, self.stride, self.padding, self.dilation = window
        self.groups = _resolve_groups(self.out_channels, groups, group_channels)
        backends.check_name(backend)
        self.backend, self.padding_mode = backend, padding_mode
        with torch.device(device) if device is not None else nullcontext():
            self.value = (
                nn.Identity()
                if self.out_channels == self.in_channels
                else CONVOLUTIONS[dims](self.in_channels, self.out_channels, 1, bias=False)
            )
            made: nn.Module | None = None
            if kernel_generator is None or isinstance(kernel_generator, str):
                kernel_generator = made = create_kernel_generator(
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
                    padding_mode=padding_mode,
                    dims=dims,
                )
            elif isinstance(kernel_generator, type) or not callable(kernel_generator):
                raise TypeError(
                    "kernel_generator must be a name or a callable from (B, C, H, W) to the kernel field (made already, "
                    f"not its class), got {kernel_generator!r}"
                )
            _check_padding_mode(padding_mode, made)
            self.bias = nn.Parameter(torch.zeros(self.out_channels)) if bias else None
            # What `involution.fold_batch_norms` lets the layer take along; the bias is added after the scale.
            self.scale: nn.Parameter | None = None
            self.relu = False
        if dtype is not None:
            self.to(dtype=dtype)
            if made is not None:
                made.to(dtype=dtype)
        # Behind the cast: one that was handed in keeps its dtype, as it stays on its device.
        self.kernel_generator = kernel_generator

    @property
    def window(self) -> Window:
        """Kernel size, stride, padding and dilation as one thing."""
        return Window(self.kernel_size, self.stride, self.padding, self.dilation)

    def reset_parameters(self) -> None:
        """Let the layer's own bias be 0 and its scale 1; value projection and φ initialise themselves."""
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        if self.scale is not None:
            nn.init.ones_(self.scale)

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer to ``input`` ``(B, C, H, W)``; see the class for the shape of the result."""
        # What torch.fx hands in is no tensor, and has no sizes yet.
        if isinstance(input, Tensor) and (input.ndim != self._dims + 2 or input.shape[1] != self.in_channels):
            raise ValueError(
                f"input must have {self._dims + 2} dimensions, {self.in_channels} channels in the second, "
                f"got {describe(input)}"
            )
        value, kernel = self.value(input), self.generate_kernel(input)
        value, window = continued(value, self.window, self.padding_mode)
        if isinstance(kernel, tuple):
            span = Span.of(kernel)
            self._check_kernel(span.groups, span.kernel_size)
            return functional.involution_of_span(
                value,
                span.hidden,
                span.weight,
                span.bias,
                groups=span.groups,
                kernel_size=span.kernel_size,
                stride=self.stride,
                padding=window.padding,
                dilation=self.dilation,
                scale=self.scale,
                offset=self.bias,
                relu=self.relu,
                backend=self.backend,
            )
        if isinstance(kernel, Tensor) and kernel.ndim == 2 + 2 * self._dims:
            self._check_kernel(kernel.shape[1], kernel.shape[2 : 2 + self._dims])
        involution = (functional.involution1d, functional.involution2d, functional.involution3d)[self._dims - 1]
        output = involution(
            value, kernel, stride=self.stride, padding=window.padding, dilation=self.dilation, backend=self.backend
        )
        return functional.finish(output, self.scale, self.bias, self.relu, self._dims)

    def generate_kernel(self, input: Tensor) -> Tensor | Span:
        """Return what φ makes of ``input`` ``(B, C, H, W)``.

        Returns:
            The kernel field ``(B, G, K, K, H', W')``, or a `involution.Span`, whose ``field()`` it is.
        """
        if getattr(self.kernel_generator, "pooled", True):
            input = to_output_grid(input, self.window, self.padding_mode)
        return self.kernel_generator(input)

    def _check_kernel(self, groups: int, kernel_size: Sequence[int]) -> None:
        """Refuse what a φ that was handed in makes, where it is not what the layer was told."""
        if groups != self.groups or tuple(kernel_size) != self.kernel_size:
            raise ValueError(
                f"kernel_generator makes {groups} kernels of {tuple(kernel_size)} per pixel, the layer was made for "
                f"{self.groups} of {self.kernel_size}; pass groups={groups}, kernel_size={tuple(kernel_size)}, "
                "or another kernel_generator"
            )

    def __prepare_scriptable__(self) -> NoReturn:
        """Refuse what ``torch.jit.script`` asks of every module of a net: TorchScript knows neither spans nor windows."""
        raise TypeError(
            f"torch.jit.script cannot compile {type(self).__name__}; use torch.compile or torch.export, or torch.jit.trace, "
            "which records what the net computes"
        )

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        if any(self.padding):
            text += f", padding={self.padding}"
        if any(d > 1 for d in self.dilation):
            text += f", dilation={self.dilation}"
        if self.padding_mode != "zeros":
            text += f", padding_mode={self.padding_mode}"
        return f"{text}, groups={self.groups}"


def _check_padding_mode(mode: str, made: nn.Module | None) -> None:
    """Refuse a mode that is none, and one by which a φ of ours that looks at neighbourhoods does not continue the map too."""
    if mode not in get_args(PaddingMode):
        raise ValueError(f"padding_mode must be one of {', '.join(map(repr, get_args(PaddingMode)))}, got {mode!r}")
    if mode != "zeros" and not getattr(made, "pooled", True) and getattr(made, "padding_mode", "zeros") != mode:
        raise ValueError(
            f"padding_mode={mode!r} is for a φ that sees single pixels, and for SAN's; {type(made).__name__} leaves out "
            "what lies outside the map"
        )


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
        padding_mode: what lies around the map: ``"zeros"`` (the paper's), ``"reflect"``, ``"replicate"`` or ``"circular"``,
            as of ``nn.Conv2d``. Only ``"zeros"`` costs no copy of the map. For a φ that sees single pixels; SAN's know
            zeros and reflection.
        kernel_generator: φ: ``"bottleneck"`` (the paper's, default), ``"linear"``, ``"attention"``, ``"sasa"``,
            ``"san_pairwise"``, ``"san_patchwise"``, ``"local_relation"``, ``"outlook"`` (kernel_size 2K − 1 for windows
            of K), or any callable from ``(B, C, H', W')`` to the field ``(B, G, K, K, H', W')`` or to a
            `involution.Span`, whose field is never kept in memory (so do the bottleneck, the linear and the patchwise φ).
            What it makes must have the layer's ``groups`` and ``kernel_size``.
        norm_layer: the norm inside the bottleneck φ, from a number of channels to a module; batch norm by default.
        act_layer: the activation inside the bottleneck φ.
        backend: passed on to `involution.involution2d`.
        device: where the parameters live; a φ that is handed in stays where it is.
        dtype: their floating dtype; a φ that is handed in keeps its own.

    Shape:
        ``(B, C_in, H, W)`` to ``(B, C_out, H', W')`` with ``H' = ⌊(H + 2p − d·(K − 1) − 1) / s⌋ + 1``.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of range, the channels cannot be split into the groups, or (of the call) φ makes
            another number of kernels, or larger or smaller ones, than the layer was made for, or the map is too small to
            be reflected or to be circular.

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
