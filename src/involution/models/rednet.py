"""RedNet: ResNet whose spatial convolutions are involutions, registered with timm.

One definition yields the paper's nets, the rows of its ablations and their convolutional controls: the spatial layer
of the bottlenecks, the stem and the parameters of the involution are arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import torch
from timm.layers import get_act_layer, get_norm_layer
from timm.models import (
    build_model_with_cfg,
    generate_default_cfgs,
    register_model,
)
from timm.models.resnet import Bottleneck, ResNet
from torch import nn

from ..kernel_generation import KernelGenerator
from ..modules import Involution2d
from . import trained
from .building import refuse_arguments
from .configurations import imagenet_config
from .spatial import SpatialLayer, SpatialLayerName, depthwise, in_place_of, resolve

__all__ = ["PAPER", "RedNet", "create_rednet"]


class RedBottleneck(Bottleneck):
    """timm's bottleneck with its 3×3 convolution replaced by ``spatial_layer`` (None leaves the convolution)."""

    conv2: nn.Module

    def __init__(self, *args: Any, spatial_layer: SpatialLayer | None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if spatial_layer is not None:
            self.conv2 = in_place_of(self.conv2, spatial_layer)


class RedNet(ResNet):
    r"""RedNet (Li et al., CVPR 2021): a ResNet of bottlenecks around 7×7 involutions.

    It is a timm ``ResNet``: ``features_only``, ``output_stride``, ``drop_path_rate``, gradient checkpointing,
    ``forward_intermediates``, ``reset_classifier`` and the arguments of timm's class work as they do there, with four
    exceptions: ``spatial_layer`` and ``stem`` stand for ``block`` and ``stem_type``; ``cardinality`` is of convolutions
    alone, involutions have ``groups``; ``stem_width``, 32 by default, is of the stems ``"involution"`` and ``"deep"``; and
    the stem ``"small"`` has no pool that ``replace_stem_pool`` could replace. Initialised as the authors' code: Kaiming
    normal (fan-out) for every convolution, those of φ included, zero for the last norm of each block, a normal of standard
    deviation 0.01 for the classifier.

    Args:
        layers: blocks per stage.
        spatial_layer: what stands in the bottlenecks: ``"involution"``, ``"convolution"`` (3×3: the ResNet control),
            ``"depthwise"`` (a depthwise convolution of ``kernel_size``: large kernels that are the same everywhere), or a
            callable ``(in_channels, out_channels, *, stride, dilation, device, dtype) -> Module`` such as
            ``partial(Involution2d, kernel_size=5)``.
        stem: ``"involution"`` (convolution 3×3 stride 2, involution, convolution 3×3, max pool: the paper's),
            ``"deep"`` (three 3×3 convolutions, max pool: ResNet-C), ``"plain"`` (7×7 convolution stride 2, max pool:
            ResNet, and the paper's ablations) or ``"small"`` (3×3 convolution of stride 1 as wide as the first
            stage's ``channels``, no pool, for small images).
        stem_kernel_size: K of the stem's involution. The released ImageNet weights have 3, the authors' detection and
            segmentation code and the published multiply-adds 7.
        kernel_size: K of the stages' involutions.
        groups: G of all involutions; 1 is the row "C / G = C" of the paper's ablation.
        group_channels: C / G of all involutions where ``groups`` is not given.
        reduction: r of all involutions.
        kernel_generator: φ of the stages' involutions by name, as `Involution2d` knows them: ``"bottleneck"``, ``"linear"``,
            ``"attention"``, ``"sasa"``, ``"san_pairwise"``, ``"san_patchwise"`` or ``"local_relation"``. (``"outlook"`` has
            no stride, which some blocks need.)
        act_layer: the activations, those of φ included, as a class or by timm's name.
        norm_layer: the norms, those of φ included, as a class or by timm's name, e.g. ``"groupnorm1"``.
        block_args: further arguments of timm's ``Bottleneck``, such as ``{"attn_layer": "se"}``.
        **kwargs: arguments of ``timm.models.resnet.ResNet``, with the exceptions above.

    Raises:
        ValueError: ``spatial_layer`` or ``stem`` is unknown, a stage has no blocks, an involution refuses its arguments,
            or an argument is one of the exceptions above.

    Example:
        >>> import timm, torch
        >>> import involution.models
        >>> net = timm.create_model("rednet26", num_classes=10).eval()
        >>> net(torch.randn(1, 3, 64, 64)).shape
        torch.Size([1, 10])
    """

    conv1: Any

    def __init__(
        self,
        layers: tuple[int, ...] = (3, 4, 6, 3),
        spatial_layer: SpatialLayerName | Literal["depthwise"] | SpatialLayer = "involution",
        stem: Literal["involution", "deep", "plain", "small"] = "involution",
        stem_kernel_size: int = 3,
        kernel_size: int = 7,
        groups: int | None = None,
        group_channels: int = 16,
        reduction: int = 4,
        kernel_generator: str = "bottleneck",
        act_layer: str | Callable[..., nn.Module] = nn.ReLU,
        norm_layer: str | Callable[..., nn.Module] = nn.BatchNorm2d,
        block_args: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if stem not in _STEMS:
            raise ValueError(f"unknown stem {stem!r}; expected one of {', '.join(map(repr, _STEMS))}")
        if not layers or min(layers) < 1:
            raise ValueError(f"layers must be the number of blocks of each stage, at least 1, got {tuple(layers)}")
        refuse_arguments(type(self).__name__, kwargs, _refused(spatial_layer, stem))
        activation: Any = get_act_layer(act_layer)
        norm: Any = get_norm_layer(norm_layer)
        involution = partial(
            Involution2d,
            groups=groups,
            group_channels=group_channels,
            reduction=reduction,
            norm_layer=norm,
            act_layer=partial(activation, inplace=True),
        )
        stages = partial(involution, kernel_size=kernel_size, kernel_generator=kernel_generator)
        spatial = depthwise(kernel_size) if spatial_layer == "depthwise" else resolve(spatial_layer, stages)
        stem_options = dict(_STEMS[stem])
        if stem == "small":
            # Only the deep stem lets one choose its width: twice this.
            stem_options["stem_width"] = kwargs.get("channels", (64,))[0] // 2
        super().__init__(
            RedBottleneck,
            layers,
            act_layer=act_layer,
            norm_layer=norm_layer,
            block_args=dict(spatial_layer=spatial, **(block_args or {})),
            **{**stem_options, **kwargs},
        )
        if stem == "involution":
            self.conv1[3] = in_place_of(self.conv1[3], partial(involution, kernel_size=stem_kernel_size))
        elif stem == "small":
            first, last = self.conv1[0], self.conv1[-1]
            self.conv1 = nn.Conv2d(first.in_channels, last.out_channels, 3, padding=1, bias=False).to(first.weight)
            nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
            self.maxpool = nn.Identity()
            for info in self.feature_info:
                info["reduction"] = max(1, info["reduction"] // 4)
        if isinstance(self.fc, nn.Linear):
            nn.init.normal_(self.fc.weight, std=0.01)
            nn.init.zeros_(self.fc.bias)

    @torch.jit.ignore
    def init_weights(self, zero_init_last: bool = True) -> None:
        """Initialise the convolutions as timm does, and every φ as it initialises itself."""
        super().init_weights(zero_init_last=zero_init_last)
        for module in self.modules():
            if isinstance(module, KernelGenerator):
                module.reset_parameters()


_STEMS: dict[str, dict[str, Any]] = {
    "involution": {"stem_type": "deep", "stem_width": 32},
    "deep": {"stem_type": "deep", "stem_width": 32},
    "plain": {},
    "small": {"stem_type": "deep"},
}


def _refused(spatial_layer: Any, stem: str) -> dict[str, str]:
    """Return which arguments of timm's ResNet a RedNet sets itself or has no use for, and why."""
    reasons = {
        "block": "its blocks are bottlenecks around spatial_layer",
        "stem_type": "stem names its stem",
    }
    if spatial_layer != "convolution":
        reasons["cardinality"] = "it is of convolutions; groups and group_channels are those of an involution"
    if "stem_width" not in _STEMS[stem]:
        reasons["stem_width"] = f"the stem {stem!r} has a width of its own"
    if stem == "small":
        reasons["replace_stem_pool"] = "the stem 'small' has no pool"
    return reasons


# What timm's configurations say of where the net comes from. Licence and origin are those of weights, and none here are
# the authors': weights that come with the library state theirs in their folders.
PAPER = {
    "paper_ids": "arXiv:2103.06255",
    "paper_name": "Involution: Inverting the Inherence of Convolution for Visual Recognition",
}
_PUBLISHED = tuple(f"rednet{depth}" for depth in (26, 38, 50, 101, 152))

default_cfgs = generate_default_cfgs(
    {
        **{f"{name}.untrained": imagenet_config(first_conv="conv1.0", **PAPER) for name in _PUBLISHED},
        **trained.configurations(_PUBLISHED),
    }
)


def create_rednet(
    variant: str, pretrained: bool, blocks: tuple[int, ...] | None, /, *, net: type[RedNet] = RedNet, **kwargs: Any
) -> RedNet:
    """Build a RedNet as timm's functions of models do.

    Args:
        variant: its name in timm.
        pretrained: whether to load weights.
        blocks: of every stage, where ``layers`` is not given; None where ``net`` knows them otherwise.
        net: the class.
        **kwargs: of ``net`` and of timm's ``build_model_with_cfg``.

    Raises:
        RuntimeError: there are no weights of this variant; the message says where some are.
    """
    if blocks is not None:
        kwargs.setdefault("layers", blocks)
    first_conv = "conv1" if kwargs.get("stem") in ("plain", "small") else "conv1.0"
    overlay = {"first_conv": first_conv, **(kwargs.pop("pretrained_cfg_overlay", None) or {})}
    kwargs["pretrained_cfg_overlay"] = overlay
    try:
        return build_model_with_cfg(net, variant, pretrained, **kwargs)
    except RuntimeError as error:
        if pretrained and "No pretrained weights exist" in str(error):
            raise RuntimeError(_where_weights_are(variant)) from error
        raise


def _where_weights_are(variant: str) -> str:
    own = f"What comes with this library: {', '.join(trained.names()) or 'none'}."
    if variant not in _PUBLISHED:
        return f"there are no weights of {variant}. {own}"
    file = f"RedNet{variant.removeprefix('rednet')}_pretrained.pdparams"
    return (
        f"this library publishes no ImageNet weights of {variant}, and the links of the authors' code are dead; "
        f"PaddleClas has its own at https://paddle-imagenet-models-name.bj.bcebos.com/dygraph/{file}: download it, run "
        f"involution convert {file} {variant}.safetensors, and create the model with pretrained=True, "
        f'pretrained_cfg_overlay={{"file": "{variant}.safetensors"}}. A folder that involution fit wrote is loaded by '
        f'timm.create_model("local-dir:FOLDER", pretrained=True), a repository of the Hugging Face Hub by "hf-hub:NAME". '
        f"{own}"
    )


@register_model
def rednet26(pretrained: bool = False, **kwargs: Any) -> RedNet:
    """RedNet-26: 9,233,166 parameters, 75.9 % top-1 in the paper."""
    return create_rednet("rednet26", pretrained, (1, 2, 4, 1), **kwargs)


@register_model
def rednet38(pretrained: bool = False, **kwargs: Any) -> RedNet:
    """RedNet-38: 12,386,986 parameters, 77.6 % top-1 in the paper."""
    return create_rednet("rednet38", pretrained, (2, 3, 5, 2), **kwargs)


@register_model
def rednet50(pretrained: bool = False, **kwargs: Any) -> RedNet:
    """RedNet-50: 15,540,806 parameters, 78.4 % top-1 in the paper."""
    return create_rednet("rednet50", pretrained, (3, 4, 6, 3), **kwargs)


@register_model
def rednet101(pretrained: bool = False, **kwargs: Any) -> RedNet:
    """RedNet-101: 25,652,950 parameters, 79.1 % top-1 in the paper."""
    return create_rednet("rednet101", pretrained, (3, 4, 23, 3), **kwargs)


@register_model
def rednet152(pretrained: bool = False, **kwargs: Any) -> RedNet:
    """RedNet-152: 33,984,582 parameters, 79.3 % top-1 in the paper."""
    return create_rednet("rednet152", pretrained, (3, 8, 36, 3), **kwargs)
