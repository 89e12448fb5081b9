"""RedNets narrow enough for a CPU to train, and their convolutional controls; weights of some come with the library.

Half and eighth are shares of RedNet's widths. The nets of 14 layers are for images of some 32 pixels: a stem of stride 1,
and eight channels to a kernel, since the first stage has no more.
"""

from __future__ import annotations

from typing import Any

from timm.models import generate_default_cfgs, register_model

from . import trained
from .configurations import imagenet_config
from .rednet import PAPER, RedNet, create_rednet

__all__: list[str] = []

_HALF = (32, 64, 128, 256)
_EIGHTH = (8, 16, 32, 64)
_NAMES = ("rednet14_eighth", "rednet26_half", "resnet14_eighth", "resnet26_half")

default_cfgs = generate_default_cfgs(
    {
        **{f"{name}.untrained": imagenet_config(first_conv="conv1.0", **PAPER) for name in _NAMES},
        **trained.configurations(_NAMES),
    }
)


@register_model
def rednet26_half(pretrained: bool = False, **kwargs: Any) -> RedNet:
    """RedNet-26 of half the width: 1,835,542 parameters with 10 classes."""
    return create_rednet("rednet26_half", pretrained, (1, 2, 4, 1), **{"channels": _HALF, **kwargs})


@register_model
def resnet26_half(pretrained: bool = False, **kwargs: Any) -> RedNet:
    """The control of `rednet26_half`, 3×3 convolutions and a deep stem: 2,961,130 parameters with 10 classes."""
    arguments = {"channels": _HALF, "spatial_layer": "convolution", "stem": "deep", **kwargs}
    return create_rednet("resnet26_half", pretrained, (1, 2, 4, 1), **arguments)


@register_model
def rednet14_eighth(pretrained: bool = False, **kwargs: Any) -> RedNet:
    """RedNet-14 of an eighth of the width for small images: 91,527 parameters with 10 classes."""
    arguments = {"channels": _EIGHTH, "stem": "small", "group_channels": 8, **kwargs}
    return create_rednet("rednet14_eighth", pretrained, (1, 1, 1, 1), **arguments)


@register_model
def resnet14_eighth(pretrained: bool = False, **kwargs: Any) -> RedNet:
    """The control of `rednet14_eighth`, 3×3 convolutions: 130,002 parameters with 10 classes."""
    arguments = {"channels": _EIGHTH, "stem": "small", "spatial_layer": "convolution", **kwargs}
    return create_rednet("resnet14_eighth", pretrained, (1, 1, 1, 1), **arguments)
