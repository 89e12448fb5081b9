"""CARAFE: upsampling by involutions, one for each place that a pixel becomes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .functional import involution2d
from .geometry import describe, to_tuple

__all__ = ["CARAFE"]


class CARAFE(nn.Module):
    r"""Content-aware reassembly of features: every pixel of the larger map sums a window of the smaller one.

    .. math::
        Y_{c,\,si+a,\,sj+b} = \sum_{u,v} H^{ab}_{g(c),u,v,i,j} \, X_{c,\,i+u,\,j+v}, \qquad
        H^{ab}_{ij} = \mathrm{softmax}_{u,v} \, (E * (D \, x))^{ab}_{ij}

    Wang et al., "CARAFE: Content-Aware ReAssembly of FEatures" (ICCV 2019): s² involutions, whose kernels a 1×1
    convolution D and a convolution E make together, and a pixel shuffle. Pixels outside the map count as zero. The
    parameters have the names and the order of ``mmcv.ops.CARAFEPack``, so that its weights load.

    The kernels, ``s²·K²·G`` values per pixel of the smaller map, are kept for the backward pass.

    Args:
        channels: C of input and output.
        scale_factor: s.
        up_kernel: K of the reassembly, odd.
        up_group: G, number of kernels per pixel.
        encoder_kernel: taps of the convolution E, odd.
        encoder_dilation: pixels between two taps of E.
        compressed_channels: channels between D and E.
        device: where the parameters live.
        dtype: their floating dtype.

    Raises:
        TypeError: an argument is no int.
        ValueError: an argument is below 1, a kernel is even, or the channels cannot be split into the groups.

    Example:
        >>> import torch
        >>> from involution.upsampling import CARAFE
        >>> CARAFE(32, scale_factor=2)(torch.randn(1, 32, 7, 5)).shape
        torch.Size([1, 32, 14, 10])
    """

    def __init__(
        self,
        channels: int,
        scale_factor: int = 2,
        up_kernel: int = 5,
        up_group: int = 1,
        encoder_kernel: int = 3,
        encoder_dilation: int = 1,
        compressed_channels: int = 64,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        sizes = {
            "channels": channels,
            "scale_factor": scale_factor,
            "up_kernel": up_kernel,
            "up_group": up_group,
            "encoder_kernel": encoder_kernel,
            "encoder_dilation": encoder_dilation,
            "compressed_channels": compressed_channels,
        }
        # A tuple of one number is that number.
        channels, scale_factor, up_kernel, up_group, encoder_kernel, encoder_dilation, compressed_channels = (
            to_tuple(size, 1, name)[0] for name, size in sizes.items()
        )
        if up_kernel % 2 == 0 or encoder_kernel % 2 == 0:
            raise ValueError(f"up_kernel and encoder_kernel must be odd, got {up_kernel} and {encoder_kernel}")
        if channels % up_group:
            raise ValueError(f"channels must be divisible by up_group, got {channels} channels and {up_group} groups")
        self.channels, self.scale_factor, self.up_kernel, self.up_group = channels, scale_factor, up_kernel, up_group
        self.channel_compressor = nn.Conv2d(channels, compressed_channels, 1, device=device, dtype=dtype)
        self.content_encoder = nn.Conv2d(
            compressed_channels,
            up_group * up_kernel**2 * scale_factor**2,
            encoder_kernel,
            padding=encoder_dilation * (encoder_kernel - 1) // 2,
            dilation=encoder_dilation,
            device=device,
            dtype=dtype,
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as mmcv does: nearly equal weights for all pixels of a window."""
        nn.init.xavier_uniform_(self.channel_compressor.weight)
        nn.init.normal_(self.content_encoder.weight, std=0.001)
        for convolution in (self.channel_compressor, self.content_encoder):
            if convolution.bias is not None:
                nn.init.zeros_(convolution.bias)

    def generate_kernels(self, input: Tensor) -> Tensor:
        """Return the kernels of ``input`` ``(B, C, H, W)``: ``(B, G, K, K, s, s, H, W)``, positive with sum 1 over K×K."""
        k, s = self.up_kernel, self.scale_factor
        logits = self.content_encoder(self.channel_compressor(input)).unflatten(1, (self.up_group, k * k, s, s))
        kernels: Tensor = logits.softmax(2).unflatten(2, (k, k))
        return kernels

    def forward(self, input: Tensor) -> Tensor:
        """Return ``(B, C, sH, sW)`` of ``input`` ``(B, C, H, W)``."""
        # What torch.fx hands in is no tensor, and has no sizes yet.
        if isinstance(input, Tensor) and (input.ndim != 4 or input.shape[1] != self.channels):
            raise ValueError(
                f"input must have 4 dimensions, {self.channels} channels in the second, got {describe(input)}"
            )
        kernels, places = self.generate_kernels(input), range(self.scale_factor)
        parts = [involution2d(input, kernels[:, :, :, :, a, b]) for a in places for b in places]
        return F.pixel_shuffle(torch.stack(parts, 2).flatten(1, 2), self.scale_factor)

    def extra_repr(self) -> str:
        """Return what a net's printed form says of the layer."""
        return (
            f"{self.channels}, scale_factor={self.scale_factor}, up_kernel={self.up_kernel}, up_group={self.up_group}"
        )
