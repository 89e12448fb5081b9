"""SAN, self-attention networks (Zhao et al., CVPR 2020), pairwise and patchwise, registered with timm."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, Literal

import torch
from timm.layers import create_classifier
from timm.models import (
    build_model_with_cfg,
    checkpoint_seq,
    generate_default_cfgs,
    register_model,
)
from torch import Tensor, nn
from torch.nn import functional as F

from ..functional import involution2d
from ..kernel_generation import SANPairwiseKernelGenerator, SANPatchwiseKernelGenerator
from .configurations import imagenet_config

__all__ = ["BLOCKS", "GROUP_CHANNELS", "SAN", "SANLayer"]

_GENERATORS = {"pairwise": SANPairwiseKernelGenerator, "patchwise": SANPatchwiseKernelGenerator}
# Channels that share a kernel, and what part of a stage's channels query and key, and value, have.
GROUP_CHANNELS, RELATION_RATIO, VALUE_RATIO = 8, 16, 4
# By depth: blocks per stage.
BLOCKS = {10: (2, 1, 2, 4, 1), 15: (3, 2, 3, 5, 2), 19: (3, 3, 4, 6, 3)}


class SANLayer(nn.Module):
    """SAN's self-attention: an involution of the values, whose map goes on by reflection.

    Args:
        in_channels: C of the input.
        out_channels: C of the output, a multiple of 8.
        kernel_size: K, odd.
        form: ``"pairwise"`` or ``"patchwise"``, which φ makes the kernels.

    Raises:
        ValueError: of the call: the map is too small to be reflected by (K − 1) / 2 pixels.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, form: Literal["pairwise", "patchwise"]
    ) -> None:
        super().__init__()
        self.value = nn.Conv2d(in_channels, out_channels, 1)
        self.kernel_generator = _GENERATORS[form](
            in_channels,
            kernel_size,
            out_channels // GROUP_CHANNELS,
            relation_channels=max(1, in_channels // RELATION_RATIO),
            padding_mode="reflect",
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(B, C_out, H, W)`` of ``x`` ``(B, C_in, H, W)``."""
        value, _ = self.kernel_generator.continued(self.value(x))
        return involution2d(value, self.kernel_generator(x), padding="valid")


class _Block(nn.Module):
    """Pre-activation residual block: ``x + conv(ReLU BN attention(ReLU BN x))``."""

    def __init__(self, channels: int, kernel_size: int, form: Literal["pairwise", "patchwise"]) -> None:
        super().__init__()
        width = channels // VALUE_RATIO
        self.norm1 = nn.BatchNorm2d(channels)
        self.attention = SANLayer(channels, width, kernel_size, form)
        self.norm2 = nn.BatchNorm2d(width)
        self.expand = nn.Conv2d(width, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.attention(F.relu(self.norm1(x)))
        return x + self.expand(F.relu(self.norm2(y)))


class _Stage(nn.Module):
    """Max pooling, a 1×1 convolution to the stage's channels, its blocks, and their norm."""

    def __init__(
        self, in_channels: int, channels: int, blocks: int, kernel_size: int, form: Literal["pairwise", "patchwise"]
    ) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2)
        self.transition = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.blocks = nn.Sequential(*(_Block(channels, kernel_size, form) for _ in range(blocks)))
        self.norm = nn.BatchNorm2d(channels)
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        x = self.transition(self.pool(x))
        checkpointed = self.grad_checkpointing and not torch.jit.is_scripting()
        return F.relu(self.norm(checkpoint_seq(self.blocks, x) if checkpointed else self.blocks(x)))


class SAN(nn.Module):
    """Self-attention network (Zhao et al., CVPR 2020): no convolution in it looks beyond its pixel.

    A stem at full resolution and five stages, each at half the resolution of what comes before. Images have to be large
    enough for the last stage's map to be reflected: 128 pixels for a kernel of 7. Initialised as PyTorch does, like the
    authors' code.

    Args:
        form: ``"pairwise"`` or ``"patchwise"``.
        layers: blocks per stage.
        kernel_sizes: K per stage.
        channels: of the stem, then of each stage; multiples of 32.
        num_classes: outputs of the classifier; 0 for none.
        in_chans: channels of the images.
        global_pool: how timm pools before the classifier.
        drop_rate: dropout before the classifier.
        device: where the parameters live.
        dtype: their floating dtype.

    Raises:
        ValueError: the form is unknown, a stage lacks its kernel size or channels, or channels are no multiple of 32.

    Example:
        >>> import timm, torch
        >>> import involution.models
        >>> net = timm.create_model("san10_patchwise", num_classes=10).eval()
        >>> net(torch.randn(1, 3, 128, 128)).shape
        torch.Size([1, 10])
    """

    global_pool: Any

    def __init__(
        self,
        form: Literal["pairwise", "patchwise"] = "pairwise",
        layers: tuple[int, ...] = (2, 1, 2, 4, 1),
        kernel_sizes: tuple[int, ...] = (3, 7, 7, 7, 7),
        channels: tuple[int, ...] = (64, 64, 256, 512, 1024, 2048),
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if form not in _GENERATORS:
            raise ValueError(f"unknown form {form!r}; expected 'pairwise' or 'patchwise'")
        if not len(layers) == len(kernel_sizes) == len(channels) - 1:
            raise ValueError(
                f"every stage needs blocks, a kernel size and channels (after the stem's), got layers={layers}, "
                f"kernel_sizes={kernel_sizes}, channels={channels}"
            )
        if any(c % (GROUP_CHANNELS * VALUE_RATIO) for c in channels[1:]):
            raise ValueError(f"channels must be multiples of {GROUP_CHANNELS * VALUE_RATIO}, got {channels}")
        self.in_chans, self.drop_rate, self.num_features = in_chans, drop_rate, channels[-1]
        # By strides 2 to 32, as those of a ResNet, without the stem's map at full resolution.
        self.feature_info = []
        self._stages = [f"stage{number}" for number in range(len(layers))]
        with torch.device(device) if device is not None else nullcontext():
            self.stem = nn.Sequential(
                nn.Conv2d(in_chans, channels[0], 1, bias=False), nn.BatchNorm2d(channels[0]), nn.ReLU(inplace=True)
            )
            for number, name in enumerate(self._stages):
                width = channels[number + 1]
                stage = _Stage(channels[number], width, layers[number], kernel_sizes[number], form)
                self.add_module(name, stage)
                self.feature_info.append({"num_chs": width, "reduction": 2 ** (number + 1), "module": name})
        self.to(dtype=dtype)
        self.reset_classifier(num_classes, global_pool)

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return patterns that sort parameters by depth, for timm's layer-wise learning rates."""
        blocks = [
            (r"^stage(\d+)\.transition", (0,)),
            (r"^stage(\d+)\.blocks\.(\d+)", None),
            (r"^stage(\d+)\.norm", (99999,)),
        ]
        return {"stem": r"^stem", "blocks": r"^stage(\d+)" if coarse else blocks}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep no activations inside the blocks for the backward pass, or keep them again."""
        for name in self._stages:
            getattr(self, name).grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self, name_only: bool = False) -> nn.Module | str:
        """Return the classifier, or its name."""
        return "fc" if name_only else self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by an untrained one of ``num_classes`` outputs."""
        self.num_classes = num_classes
        pool_type = self.global_pool.pool_type if global_pool is None else global_pool
        like = self.stem[0].weight
        self.global_pool, self.fc = create_classifier(
            self.num_features, num_classes, pool_type=pool_type, device=like.device, dtype=like.dtype
        )
        # Some poolings lay the results of two beside each other.
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()
        self.global_pool.train(self.training)
        self.fc.train(self.training)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return the last stage's map of the images ``x`` ``(B, 3, H, W)``, and those of the stages asked for.

        Args:
            x: images.
            indices: of the stages; a number for the last so many, None for all.
            norm: without effect: every stage ends in its norm.
            stop_early: run no stage after the last one asked for, whose map is returned as the last then.
            output_fmt: ``"NCHW"``.
            intermediates_only: return the list alone.

        Raises:
            ValueError: ``output_fmt`` is another one, or there is no such stage.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt must be 'NCHW', got {output_fmt!r}")
        taken = self._taken(indices)
        maps = []
        x = self.stem(x)
        for number, name in enumerate(self._stages[: max(taken) + 1] if stop_early else self._stages):
            x = getattr(self, name)(x)
            if number in taken:
                maps.append(x)
        return maps if intermediates_only else (x, maps)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove what `forward_intermediates` does not need for these ``indices``.

        Args:
            indices: as there.
            prune_norm: without effect, as ``norm`` there.
            prune_head: whether the classifier goes, too; it does where a stage is removed, whose map it was made for.

        Returns:
            The indices as a list.

        Raises:
            ValueError: there is no such stage.
        """
        taken = self._taken(indices)
        last = max(taken)
        removed = self._stages[last + 1 :]
        for name in removed:
            delattr(self, name)
        self._stages = self._stages[: last + 1]
        self.num_features = self.feature_info[last]["num_chs"]
        if prune_head or removed:
            self.reset_classifier(0, "")
        return taken

    def _taken(self, indices: int | list[int] | None) -> list[int]:
        """Return the numbers of the stages that ``indices`` means, as every net of timm reads it."""
        stages = range(len(self._stages))
        if indices is None or isinstance(indices, int):
            count = len(stages) if indices is None else indices
            if not 1 <= count <= len(stages):
                raise ValueError(f"indices must be a number of stages from 1 to {len(stages)}, got {indices}")
            return list(stages)[-count:]
        if not indices or not all(-len(stages) <= index < len(stages) for index in indices):
            raise ValueError(f"indices must be of the {len(stages)} stages, from 0 on, got {indices}")
        return [stages[index] for index in indices]

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last stage's map of the images ``x`` ``(B, 3, H, W)``."""
        x = self.stem(x)
        for name in self._stages:
            x = getattr(self, name)(x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the classes' scores of the last stage's map, or the pooled map."""
        x = F.dropout(self.global_pool(x), self.drop_rate, self.training)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(B, num_classes)`` of the images ``x`` ``(B, 3, H, W)``."""
        return self.forward_head(self.forward_features(x))


default_cfgs = generate_default_cfgs(
    {
        f"san{depth}_{form}.untrained": imagenet_config(
            first_conv="stem.0",
            min_input_size=(3, 128, 128),
            paper_ids="arXiv:2004.13621",
            paper_name="Exploring Self-attention for Image Recognition",
        )
        for depth in BLOCKS
        for form in _GENERATORS
    }
)


def _create(depth: int, form: str, pretrained: bool, **kwargs: Any) -> SAN:
    arguments = {"form": form, "layers": BLOCKS[depth], **kwargs}
    return build_model_with_cfg(SAN, f"san{depth}_{form}", pretrained, **arguments)


@register_model
def san10_pairwise(pretrained: bool = False, **kwargs: Any) -> SAN:
    """SAN-10, pairwise: 10,531,848 parameters."""
    return _create(10, "pairwise", pretrained, **kwargs)


@register_model
def san15_pairwise(pretrained: bool = False, **kwargs: Any) -> SAN:
    """SAN-15, pairwise: 14,065,436 parameters."""
    return _create(15, "pairwise", pretrained, **kwargs)


@register_model
def san19_pairwise(pretrained: bool = False, **kwargs: Any) -> SAN:
    """SAN-19, pairwise: 17,596,156 parameters."""
    return _create(19, "pairwise", pretrained, **kwargs)


@register_model
def san10_patchwise(pretrained: bool = False, **kwargs: Any) -> SAN:
    """SAN-10, patchwise: 11,841,124 parameters."""
    return _create(10, "patchwise", pretrained, **kwargs)


@register_model
def san15_patchwise(pretrained: bool = False, **kwargs: Any) -> SAN:
    """SAN-15, patchwise: 16,181,310 parameters."""
    return _create(15, "patchwise", pretrained, **kwargs)


@register_model
def san19_patchwise(pretrained: bool = False, **kwargs: Any) -> SAN:
    """SAN-19, patchwise: 20,518,470 parameters."""
    return _create(19, "patchwise", pretrained, **kwargs)
