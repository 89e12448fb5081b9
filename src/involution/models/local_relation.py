"""LR-Net, ResNets of local relation layers (Hu et al., ICCV 2019), registered with timm."""

from __future__ import annotations

from functools import partial
from typing import Any

from timm.models import generate_default_cfgs, register_model
from torch import nn

from ..modules import Involution2d
from .building import refuse_arguments
from .configurations import imagenet_config
from .rednet import RedNet, create_rednet

__all__ = ["LRNet"]

_LAYERS, _STEM = "its layers are local relation layers", "its stem has a local relation layer of the size kernel_size"
_REFUSED = {
    **dict.fromkeys(("spatial_layer", "kernel_generator", "reduction"), _LAYERS),
    **dict.fromkeys(("stem", "stem_kernel_size", "stem_type", "stem_width"), _STEM),
}


class LRNet(RedNet):
    """LR-Net: a ResNet with a 7×7 local relation layer for every spatial convolution, that of the stem included.

    The layer is an `Involution2d` with ``kernel_generator="local_relation"``; 8 channels share a kernel. The paper does
    not say enough to rebuild its nets to the parameter: these hold the layer on the widths of ResNet, and their counts
    are not the published 14.7, 23.3 and 42.0 million.

    Args:
        layers: blocks per stage.
        kernel_size: K of all layers.
        groups: G of all layers.
        group_channels: channels that share a kernel where ``groups`` is not given.
        **kwargs: arguments of `RedNet` and of ``timm.models.resnet.ResNet``, without those of other layers and stems.

    Raises:
        ValueError: a layer refuses its arguments, or an argument is one of other layers or stems.
    """

    def __init__(
        self,
        layers: tuple[int, ...] = (3, 4, 6, 3),
        kernel_size: int = 7,
        groups: int | None = None,
        group_channels: int = 8,
        **kwargs: Any,
    ) -> None:
        refuse_arguments("LRNet", kwargs, _REFUSED)
        layer = partial(
            Involution2d,
            kernel_size=kernel_size,
            groups=groups,
            group_channels=group_channels,
            kernel_generator="local_relation",
        )
        super().__init__(layers, spatial_layer=layer, stem="plain", **kwargs)
        convolution = self.conv1
        width, like = convolution.out_channels, {"device": convolution.weight.device, "dtype": convolution.weight.dtype}
        self.conv1 = nn.Sequential(
            nn.Conv2d(convolution.in_channels, width, 1, bias=False, **like), layer(width, width, stride=2, **like)
        )
        nn.init.kaiming_normal_(self.conv1[0].weight, mode="fan_out", nonlinearity="relu")


default_cfgs = generate_default_cfgs(
    {
        f"lrnet{depth}.untrained": imagenet_config(
            first_conv="conv1.0",
            paper_ids="arXiv:1904.11491",
            paper_name="Local Relation Networks for Image Recognition",
        )
        for depth in (26, 50, 101)
    }
)


@register_model
def lrnet26(pretrained: bool = False, **kwargs: Any) -> RedNet:
    """LR-Net-26; its parameters are not those of the paper, see `LRNet`."""
    return create_rednet("lrnet26", pretrained, (1, 2, 4, 1), net=LRNet, **kwargs)


@register_model
def lrnet50(pretrained: bool = False, **kwargs: Any) -> RedNet:
    """LR-Net-50; its parameters are not those of the paper, see `LRNet`."""
    return create_rednet("lrnet50", pretrained, (3, 4, 6, 3), net=LRNet, **kwargs)


@register_model
def lrnet101(pretrained: bool = False, **kwargs: Any) -> RedNet:
    """LR-Net-101; its parameters are not those of the paper, see `LRNet`."""
    return create_rednet("lrnet101", pretrained, (3, 4, 23, 3), net=LRNet, **kwargs)
