"""ResNets of stand-alone self-attention (Ramachandran et al., NeurIPS 2019), registered with timm."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from ..functional import involution2d
from ..geometry import IntOrTuple, to_tuple
from ..kernel_generation import StandAloneKernelGenerator
from .building import refuse_arguments
from .configurations import imagenet_config
from .rednet import RedNet, create_rednet

__all__ = ["StandAloneAttention"]


class StandAloneAttention(nn.Module):
    r"""Stand-alone self-attention: an involution of the values by `StandAloneKernelGenerator`, then an average pooling.

    With stride s the result is pooled over windows of s×s, as the paper does; a last window that hangs over the border
    averages what it covers.

    Args:
        in_channels: C of the input.
        out_channels: C of the output, of queries, keys and values.
        kernel_size: K, odd.
        stride: of the pooling.
        dilation: pixels between two taps.
        heads: G.
        device: where the parameters live.
        dtype: their floating dtype.

    Raises:
        ValueError: a size is below 1, the kernel is even, or the channels cannot be shared among heads and axes.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrTuple = 7,
        stride: IntOrTuple = 1,
        dilation: IntOrTuple = 1,
        *,
        heads: int = 8,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        (heads,) = to_tuple(heads, 1, "heads")
        if out_channels % heads:
            raise ValueError(f"out_channels must be divisible by heads, got {out_channels} channels and {heads} heads")
        rows, columns = to_tuple(stride, 2, "stride")
        self.dilation = to_tuple(dilation, 2, "dilation")
        self.value = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.kernel_generator = StandAloneKernelGenerator(
            in_channels, kernel_size, heads, head_channels=out_channels // heads, dilation=self.dilation
        )
        self.pool = (
            nn.Identity()
            if rows == columns == 1
            else nn.AvgPool2d((rows, columns), ceil_mode=True, count_include_pad=False)
        )
        self.to(device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(B, C_out, ⌈H / s⌉, ⌈W / s⌉)`` of ``x`` ``(B, C_in, H, W)``."""
        y: Tensor = self.pool(involution2d(self.value(x), self.kernel_generator(x), dilation=self.dilation))
        return y


default_cfgs = generate_default_cfgs(
    {
        f"sasa_resnet{depth}.untrained": imagenet_config(
            paper_ids="arXiv:1906.05909", paper_name="Stand-Alone Self-Attention in Vision Models"
        )
        for depth in (26, 38, 50)
    }
)


def _create(variant: str, pretrained: bool, blocks: tuple[int, ...], **kwargs: Any) -> RedNet:
    arguments: dict[str, Any] = {"stem": "plain", **kwargs}
    if "spatial_layer" not in arguments:
        # Those of all involutions are those of the stem, where it has one.
        common = () if arguments["stem"] == "involution" else ("groups", "group_channels", "reduction")
        reasons = dict.fromkeys(("kernel_generator", *common), "its layers are attention, and no involution takes it")
        refuse_arguments(variant, arguments, reasons)
        size = {"kernel_size": arguments.pop("kernel_size")} if "kernel_size" in arguments else {}
        arguments["spatial_layer"] = partial(StandAloneAttention, **size)
    return create_rednet(variant, pretrained, blocks, **arguments)


@register_model
def sasa_resnet26(pretrained: bool = False, **kwargs: Any) -> RedNet:
    """ResNet-26 of stand-alone self-attention, convolution stem: 10,331,264 parameters."""
    return _create("sasa_resnet26", pretrained, (1, 2, 4, 1), **kwargs)


@register_model
def sasa_resnet38(pretrained: bool = False, **kwargs: Any) -> RedNet:
    """ResNet-38 of stand-alone self-attention, convolution stem: 14,173,384 parameters."""
    return _create("sasa_resnet38", pretrained, (2, 3, 5, 2), **kwargs)


@register_model
def sasa_resnet50(pretrained: bool = False, **kwargs: Any) -> RedNet:
    """ResNet-50 of stand-alone self-attention, convolution stem: 18,015,504 parameters."""
    return _create("sasa_resnet50", pretrained, (3, 4, 6, 3), **kwargs)
