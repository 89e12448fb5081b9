"""RedNets with a layer of its own in every block, written as one line: the nets that an architecture search chooses among.

The line has four stages, divided by slashes: channels of the stage's spatial layers, then a token for each block.

    8 i7g8r4 / 16 c3 d7 / 32 i5g16l i7g8r4 / 64 a3

``c3`` is a convolution of 3×3; ``d7`` a depthwise convolution of 7×7; ``i7g8r4`` an involution with K = 7, C / G = 8 and
the bottleneck φ of reduction 4; ``i7g8l`` one with the linear φ; ``a3`` local self-attention over 3×3. A stage gives four
times its channels, as in every ResNet of bottlenecks.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import partial
from typing import Any

from timm.layers import get_act_layer, get_norm_layer
from timm.models import generate_default_cfgs, register_model
from torch import nn

from ..modules import Involution2d
from .building import refuse_arguments
from .configurations import imagenet_config
from .rednet import RedNet, create_rednet
from .spatial import SpatialLayer, depthwise, in_place_of

__all__ = ["REDNET26", "Blocks", "Layer", "SearchableRedNet", "Stage"]

# RedNet-26 in this notation.
REDNET26 = "64 i7g16r4 / 128 i7g16r4 i7g16r4 / 256 i7g16r4 i7g16r4 i7g16r4 i7g16r4 / 512 i7g16r4"

_STAGES = 4
_TOKEN = re.compile(r"(?P<kind>[cda])(?P<size>\d{1,3})|i(?P<involution>\d{1,3})g(?P<group>\d{1,5})(?P<phi>l|r\d{1,5})")
_KINDS = {"c": "convolution", "d": "depthwise", "a": "attention"}
_EXPECTED = "expected c3, d7, a3, i7g8l or i7g8r4, with numbers of your own"


@dataclass(frozen=True)
class Layer:
    """The spatial layer of one block.

    Attributes:
        kind: ``"convolution"``, ``"depthwise"``, ``"involution"`` or ``"attention"``.
        kernel_size: K, odd.
        group_channels: C / G of an involution.
        reduction: r of an involution's bottleneck φ; 0 is the linear φ.
    """

    kind: str
    kernel_size: int
    group_channels: int = 0
    reduction: int = 0

    @classmethod
    def parse(cls, token: str) -> Layer:
        """Return the layer that a token names.

        Raises:
            ValueError: it names none.
        """
        match = _TOKEN.fullmatch(token)
        if match is None:
            raise ValueError(f"{token!r} is no layer; {_EXPECTED}")
        size = int(match["size"] or match["involution"])
        if size % 2 == 0:
            raise ValueError(f"{token!r} has the kernel size {size}; expected an odd one, which keeps the size of maps")
        if match["kind"] == "c" and size != 3:
            raise ValueError(f"{token!r} is a convolution of {size}×{size}; the block's own, c3, is the only one")
        if match["kind"]:
            return cls(_KINDS[match["kind"]], size)
        group, phi = int(match["group"]), match["phi"]
        if group < 1 or phi == "r0":
            raise ValueError(f"{token!r} has a group or a reduction of 0; expected at least 1")
        return cls("involution", size, group, 0 if phi == "l" else int(phi[1:]))

    def __str__(self) -> str:
        if self.kind != "involution":
            return f"{self.kind[0]}{self.kernel_size}"
        return f"i{self.kernel_size}g{self.group_channels}{f'r{self.reduction}' if self.reduction else 'l'}"

    def maker(self, channels: int, **norm_and_act: Any) -> SpatialLayer | None:
        """Return what makes the layer for ``channels``; None where the block's own convolution stays.

        Heads of local attention have as many channels as divide both 16 and ``channels``.

        Args:
            channels: of the layer.
            **norm_and_act: ``norm_layer`` and ``act_layer`` of a bottleneck φ.
        """
        if self.kind == "convolution":
            return None
        if self.kind == "depthwise":
            return depthwise(self.kernel_size)
        if self.kind == "attention":
            heads_of = math.gcd(16, channels)
            return partial(
                Involution2d, kernel_size=self.kernel_size, kernel_generator="attention", group_channels=heads_of
            )
        involution = partial(Involution2d, kernel_size=self.kernel_size, group_channels=self.group_channels)
        if not self.reduction:
            return partial(involution, kernel_generator="linear")
        return partial(involution, reduction=self.reduction, **norm_and_act)


@dataclass(frozen=True)
class Stage:
    """A stage: channels of its spatial layers, and the layer of each block."""

    channels: int
    layers: tuple[Layer, ...]

    def __str__(self) -> str:
        return " ".join(map(str, (self.channels, *self.layers)))


@dataclass(frozen=True)
class Blocks:
    """All blocks of a net; ``str`` writes what `parse` reads.

    Attributes:
        stages: four of them.

    Example:
        >>> from involution.models.searchable import Blocks
        >>> blocks = Blocks.parse("8 c3/16 i7g8r4  d3/32 a7/64 i3g16l")
        >>> str(blocks)
        '8 c3 / 16 i7g8r4 d3 / 32 a7 / 64 i3g16l'
        >>> blocks.depths
        (1, 2, 1, 1)
    """

    stages: tuple[Stage, ...]

    @classmethod
    def parse(cls, text: str) -> Blocks:
        """Return the blocks that a line names.

        Raises:
            ValueError: it is not in the notation; the message names the token.
        """
        if not isinstance(text, str):
            raise ValueError(f"blocks must be a line such as {REDNET26!r}, got {text!r}")
        parts = text.split("/")
        if len(parts) != _STAGES:
            raise ValueError(f"blocks must have {_STAGES} stages divided by slashes, got {len(parts)} in {text!r}")
        return cls(tuple(_stage(part, number) for number, part in enumerate(parts, 1)))

    def __str__(self) -> str:
        return " / ".join(map(str, self.stages))

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of every stage's spatial layers."""
        return tuple(stage.channels for stage in self.stages)

    @property
    def depths(self) -> tuple[int, ...]:
        """Blocks of every stage."""
        return tuple(len(stage.layers) for stage in self.stages)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers of all blocks, from the image on."""
        return tuple(layer for stage in self.stages for layer in stage.layers)


def _stage(text: str, number: int) -> Stage:
    first, *tokens = text.split() or [""]
    if not re.fullmatch(r"\d{1,5}", first) or int(first) < 1:
        raise ValueError(f"stage {number} begins with {first!r}; expected its channels, then a token for every block")
    if not tokens:
        raise ValueError(f"stage {number} has no block after its channels {first}; {_EXPECTED}")
    channels, layers = int(first), tuple(map(Layer.parse, tokens))
    for token, layer in zip(tokens, layers):
        if layer.kind == "involution" and channels % layer.group_channels:
            raise ValueError(
                f"{token!r} has groups of {layer.group_channels} channels, which do not divide the {channels} of stage "
                f"{number}; choose a divisor"
            )
    return Stage(channels, layers)


_SAID_BY_BLOCKS = dict.fromkeys(
    ("layers", "channels", "base_width", "spatial_layer", "kernel_size", "kernel_generator", "cardinality"),
    "blocks says it of every block",
)


class SearchableRedNet(RedNet):
    """A RedNet with a spatial layer of its own in every block.

    Args:
        blocks: the line that names them, see `involution.models.searchable`.
        act_layer: the activations, those of φ included, as a class or by timm's name.
        norm_layer: the norms, likewise.
        zero_init_last: whether the last norm of each block starts at zero.
        **kwargs: arguments of `involution.models.RedNet`, without those that ``blocks`` says: ``layers``, ``channels``,
            ``spatial_layer`` and what belongs to it. Its arguments of an involution (``group_channels`` and the like) are
            those of the stem's.

    Raises:
        ValueError: ``blocks`` is not in the notation, or an argument is one that it says.

    Example:
        >>> import timm, torch
        >>> import involution.models
        >>> blocks = "8 i7g8r4 / 16 c3 / 32 d7 / 64 a3"
        >>> net = timm.create_model("searchable_rednet", blocks=blocks, stem="small", num_classes=10).eval()
        >>> net(torch.randn(1, 3, 32, 32)).shape
        torch.Size([1, 10])
    """

    def __init__(
        self,
        blocks: str = REDNET26,
        act_layer: Any = nn.ReLU,
        norm_layer: Any = nn.BatchNorm2d,
        zero_init_last: bool = True,
        **kwargs: Any,
    ) -> None:
        refuse_arguments("SearchableRedNet", kwargs, _SAID_BY_BLOCKS)
        parsed = Blocks.parse(blocks)
        super().__init__(
            layers=parsed.depths,
            channels=parsed.channels,
            spatial_layer="convolution",
            act_layer=act_layer,
            norm_layer=norm_layer,
            zero_init_last=zero_init_last,
            **kwargs,
        )
        self.blocks = parsed
        norm_and_act = {
            "norm_layer": get_norm_layer(norm_layer),
            "act_layer": partial(get_act_layer(act_layer), inplace=True),
        }
        for number, stage in enumerate(self.blocks.stages, 1):
            for block, layer in zip(self.get_submodule(f"layer{number}").children(), stage.layers, strict=True):
                maker = layer.maker(stage.channels, **norm_and_act)
                if maker is not None:
                    block.conv2 = in_place_of(block.conv2, maker)
        self.init_weights(zero_init_last=zero_init_last)
        if isinstance(self.fc, nn.Linear):
            # A second time: the weights that a seed gives are those of the trainings on record.
            nn.init.normal_(self.fc.weight, std=0.01)


default_cfgs = generate_default_cfgs({"searchable_rednet.untrained": imagenet_config(first_conv="conv1.0")})


@register_model
def searchable_rednet(pretrained: bool = False, **kwargs: Any) -> RedNet:
    """A RedNet with a layer of its own in every block, `SearchableRedNet`; RedNet-26 by default."""
    return create_rednet("searchable_rednet", pretrained, None, net=SearchableRedNet, **kwargs)
