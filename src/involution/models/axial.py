"""ResNets of axial attention (Wang et al., ECCV 2020), registered with timm."""

from __future__ import annotations

from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model, register_notrace_module
from timm.models.resnet import Bottleneck, ResNet
from torch import Tensor, nn
from torch.nn import functional as F

from ..geometry import to_tuple
from .building import refuse_arguments
from .configurations import imagenet_config

__all__ = ["AlongAxis", "AxialAttention", "AxialResNet", "PositionSensitiveAttention"]


class AlongAxis(nn.Module):
    """Apply a layer of sequences to every column (``axis=0``) or every row (``axis=1``) of a map.

    ``AlongAxis(Involution1d(64, 64, 7, kernel_generator="sasa"), axis)`` for both axes, one after the other, is the
    local form of axial attention.

    Args:
        layer: from ``(B, C, L)`` to ``(B, C', L')``.
        axis: 0 for the height, 1 for the width.

    Raises:
        ValueError: ``axis`` is neither 0 nor 1.
    """

    def __init__(self, layer: nn.Module, axis: int) -> None:
        super().__init__()
        if axis not in (0, 1):
            raise ValueError(f"axis must be 0 (height) or 1 (width), got {axis!r}")
        self.layer, self.axis = layer, axis

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(B, C', H', W)`` or ``(B, C', H, W')`` of ``x`` ``(B, C, H, W)``."""
        # (B, other axis, C, L)
        lines = x.movedim(3 - self.axis, 1)
        y = self.layer(lines.flatten(0, 1))
        return y.unflatten(0, lines.shape[:2]).movedim(1, 3 - self.axis)


class AxialAttention(nn.Module):
    r"""Self-attention of all pixels of a sequence, :math:`y_i = \sum_j \mathrm{softmax}_j(q_i^\top k_j) \, v_j`.

    The axial attention without positions of Wang et al., "Axial-DeepLab" (ECCV 2020), section 3.1, with its norms of
    queries, keys, values and of the result; queries and keys have half the channels of the values. It is
    ``torch.nn.functional.scaled_dot_product_attention``, which keeps no L×L weights where it has a kernel for it.

    Args:
        channels: C of input and output.
        heads: a divisor of C / 2.

    Raises:
        ValueError: the channels cannot be shared among the heads.
    """

    def __init__(self, channels: int, heads: int = 8) -> None:
        super().__init__()
        (heads,) = to_tuple(heads, 1, "heads")
        if channels % (2 * heads):
            raise ValueError(f"channels must be divisible by 2·heads, got {channels} channels and {heads} heads")
        self.heads = heads
        self.qkv = nn.Conv1d(channels, 2 * channels, 1, bias=False)
        self.qkv_norm = nn.BatchNorm1d(2 * channels)
        self.norm = nn.BatchNorm1d(channels)
        # What a subclass adds, it initialises itself.
        AxialAttention.reset_parameters(self)

    def reset_parameters(self) -> None:
        """Initialise the projection as the authors' code does; the norms have ways of their own."""
        nn.init.normal_(self.qkv.weight, std=self.qkv.weight.shape[1] ** -0.5)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys ``(B, heads, d / 2, L)`` and values ``(B, heads, d, L)`` of ``x`` ``(B, C, L)``."""
        qkv = self.qkv_norm(self.qkv(x)).unflatten(1, (self.heads, -1))
        half = qkv.shape[2] // 4
        query, key, value = qkv.split((half, half, 2 * half), 2)
        return query, key, value

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(B, C, L)`` of ``x`` ``(B, C, L)``."""
        query, key, value = (part.transpose(2, 3) for part in self.project(x))
        y: Tensor = self.norm(
            F.scaled_dot_product_attention(query, key, value, scale=1.0).transpose(2, 3).flatten(1, 2)
        )
        return y


# torch.fx would have to know how long a sequence is.
@register_notrace_module
class PositionSensitiveAttention(AxialAttention):
    r"""Self-attention of all pixels of a sequence, with embeddings of their offset in queries, keys and values.

    .. math::
        y_i = \mathrm{BN}\Big(\sum_j a_{ij} v_j\Big) + \mathrm{BN}\Big(\sum_j a_{ij} r^v_{j-i}\Big), \qquad
        a_{ij} = \mathrm{softmax}_j \left( \mathrm{BN}(q_i^\top k_j) + \mathrm{BN}(q_i^\top r^q_{j-i})
        + \mathrm{BN}(k_j^\top r^k_{j-i}) \right)

    Equation 4 of Wang et al., "Axial-DeepLab" (ECCV 2020), with the norms of the authors' code; the embeddings are
    shared by the heads. The norms see the products and the values' embedding sees the weights, so that these, ``L²`` per
    sequence and head, are kept for the backward pass several times over.

    Args:
        channels: C of input and output.
        heads: a divisor of C / 2.
        span: the longest sequence; there are ``2·span − 1`` offsets.

    Raises:
        ValueError: the channels cannot be shared among the heads, or (of the call) a sequence is longer than the span.
    """

    def __init__(self, channels: int, heads: int = 8, span: int = 56) -> None:
        super().__init__(channels, heads)
        self.span = span
        # The result is normalised in two parts.
        self.norm = nn.BatchNorm1d(2 * channels)
        self.product_norm = nn.BatchNorm2d(3 * heads)
        self.offsets = nn.Parameter(torch.empty(2 * channels // heads, 2 * span - 1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise projection and embeddings as the authors' code does; the norms have ways of their own."""
        super().reset_parameters()
        nn.init.normal_(self.offsets, std=(self.offsets.shape[0] // 2) ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(B, C, L)`` of ``x`` ``(B, C, L)``."""
        length = x.shape[2]
        if length > self.span:
            raise ValueError(
                f"a map of {length} pixels is longer than the span of {self.span} that this layer has embeddings for; "
                "use a smaller image, or create the net with a larger img_size"
            )
        query, key, value = self.project(x)
        # Offset j − i of the pixels i (rows) and j (columns).
        places = torch.arange(length, device=x.device)
        offset = places - places[:, None] + self.span - 1
        half = query.shape[2]
        of_query, of_key, of_value = self.offsets[:, offset].split((half, half, 2 * half))
        products = torch.cat(
            [
                torch.einsum("bgci,bgcj->bgij", query, key),
                torch.einsum("bgci,cij->bgij", query, of_query),
                torch.einsum("bgcj,cij->bgij", key, of_key),
            ],
            1,
        )
        weights = self.product_norm(products).unflatten(1, (3, self.heads)).sum(1).softmax(3)
        parts = torch.cat(
            [
                torch.einsum("bgij,bgcj->bgci", weights, value).flatten(1, 2),
                torch.einsum("bgij,cij->bgci", weights, of_value).flatten(1, 2),
            ],
            1,
        )
        return self.norm(parts).unflatten(1, (2, -1)).sum(1)


class _AxialBottleneck(Bottleneck):
    """timm's bottleneck, half as wide; `AxialResNet` puts attention in the place of its convolution."""

    expansion = 2


_REFUSED = {
    "block": "its blocks are bottlenecks around attention",
    "cardinality": "it is of convolutions; heads is that of the attention",
    "stem_type": "its stem is a convolution of 7×7",
    **dict.fromkeys(("stem_width", "channels"), "width says it"),
}


class AxialResNet(ResNet):
    """ResNet of axial attention (Wang et al., ECCV 2020): attention along the height, then along the width, per block.

    The net of the authors' public PyTorch code, of which the sizes published with the figures of the involution paper
    are not: those are the paper's own TensorFlow nets. Strides are an average pooling after the attention.

    Args:
        layers: blocks per stage.
        width: channels of the stem; the stages' are 4, 8, 16 and 32 times this.
        heads: of every attention.
        img_size: the largest height and width of images; the embeddings of offsets are as long as the maps.
        position_sensitive: whether attention has embeddings of offsets (`PositionSensitiveAttention`), or none
            (`AxialAttention`, for images of any size).
        **kwargs: arguments of ``timm.models.resnet.ResNet``, without those that ``width`` and the attention stand for.

    Raises:
        ValueError: the channels cannot be shared among the heads, an argument is one that this net sets itself, or (of the
            call) an image is larger than ``img_size``.
    """

    conv1: Any

    def __init__(
        self,
        layers: tuple[int, ...] = (1, 2, 4, 1),
        width: int = 32,
        heads: int = 8,
        img_size: int = 224,
        position_sensitive: bool = True,
        **kwargs: Any,
    ) -> None:
        refuse_arguments("AxialResNet", kwargs, _REFUSED)
        # Only the deep stem lets one choose its width: twice this.
        super().__init__(
            _AxialBottleneck,
            layers,
            stem_type="deep",
            stem_width=width // 2,
            channels=tuple(width * factor for factor in (2, 4, 8, 16)),
            **kwargs,
        )
        first = self.conv1[0]
        self.conv1 = nn.Conv2d(first.in_channels, width, 7, 2, 3, bias=False).to(first.weight)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        span = -(-img_size // 4)
        for block in (block for stage in range(1, 5) for block in getattr(self, f"layer{stage}")):
            channels, stride = block.conv2.out_channels, block.conv2.stride[0]
            attention = [
                PositionSensitiveAttention(channels, heads, span)
                if position_sensitive
                else AxialAttention(channels, heads)
                for _ in range(2)
            ]
            pool = nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)
            along = nn.Sequential(*(AlongAxis(layer, axis) for axis, layer in enumerate(attention)))
            block.conv2 = nn.Sequential(along, pool) if stride > 1 else along
            block.conv2.to(block.conv1.weight)
            # The attention ends in norms of its own.
            block.bn2 = nn.Identity()
            span = -(-span // stride)


default_cfgs = generate_default_cfgs(
    {
        "axial_resnet26s.untrained": imagenet_config(
            fixed_input_size=False,
            paper_ids="arXiv:2003.07853",
            paper_name="Axial-DeepLab: Stand-Alone Axial-Attention for Panoptic Segmentation",
        )
    }
)


@register_model
def axial_resnet26s(pretrained: bool = False, **kwargs: Any) -> AxialResNet:
    """Axial-ResNet-26-S of the authors' public PyTorch code: 5,944,936 parameters."""
    return build_model_with_cfg(AxialResNet, "axial_resnet26s", pretrained, **kwargs)
