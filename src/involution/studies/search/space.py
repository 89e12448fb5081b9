"""The space as data: which choices a net is made of, and the net that a list of choices is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from ...models.searchable import Blocks, Layer, Stage

__all__ = ["SPACES", "WIDTHS", "Choices", "Space", "active"]

# A value for every name of `Space.parameters`.
Choices = dict[str, int | str]

# Channels of the stages' spatial layers at full width; an eighth of them is what a CPU trains.
WIDTHS = (64, 128, 256, 512)

_SHARES = (0.5, 0.75, 1.0)
_DEPTHS = (1, 2, 3)
_CONVOLUTIONS = ("c3", "d3", "d7")
_INVOLUTIONS = ("i3", "i5", "i7", "i9")
_ATTENTIONS = ("a3", "a7")
# C / G and φ of an involution.
_KERNELS = tuple(f"g{group}{phi}" for group in (4, 8, 16) for phi in ("l", "r2", "r4", "r8"))

# Layers by the name of the space that has no others.
SPACES = {
    "mixed": _CONVOLUTIONS + _INVOLUTIONS + _ATTENTIONS,
    "convolution": _CONVOLUTIONS,
    "involution": _INVOLUTIONS,
}


@dataclass(frozen=True)
class Space:
    """Nets of four stages, whose width, depth and layers are chosen.

    A stage has ½, ¾ or all of its width, in multiples of 4 channels, and 1 to 3 blocks; a block has one of the layers, and
    an involution one of 12 pairs of C / G (4, 8, 16) and φ (linear, bottleneck with r = 2, 4, 8). Every choice is there
    in every net, those of blocks that it lacks and of kernels that its layers do not make included: then all nets have
    the same choices, which crossover and most models of a sampler need.

    Attributes:
        name: of `SPACES`.
        widths: channels of the stages at full width, multiples of 4.

    Raises:
        ValueError: the name is unknown, or the widths are not four multiples of 4.
    """

    name: str = "mixed"
    widths: tuple[int, ...] = tuple(width // 8 for width in WIDTHS)

    def __post_init__(self) -> None:
        if self.name not in SPACES:
            raise ValueError(f"unknown space {self.name!r}; expected one of {', '.join(SPACES)}")
        if len(self.widths) != len(WIDTHS) or any(width < 4 or width % 4 for width in self.widths):
            raise ValueError(f"the widths of a space must be {len(WIDTHS)} multiples of 4, got {self.widths}")

    def parameters(self) -> dict[str, tuple[int | str, ...]]:
        """Return what can be chosen, by the name of the choice."""
        found: dict[str, tuple[int | str, ...]] = {}
        layers = SPACES[self.name]
        for stage, width in enumerate(self.widths, 1):
            # In multiples of 4, so that every width has a group that divides it.
            found[f"channels{stage}"] = tuple(dict.fromkeys(4 * round(share * width / 4 + 1e-9) for share in _SHARES))
            found[f"depth{stage}"] = _DEPTHS
            for block in range(1, max(_DEPTHS) + 1):
                found[f"layer{stage}.{block}"] = layers
                if set(layers) & set(_INVOLUTIONS):
                    found[f"kernel{stage}.{block}"] = _KERNELS
        return found

    def draw(self, generator: Random) -> Choices:
        """Return choices that are drawn uniformly, each by itself."""
        return {name: generator.choice(values) for name, values in self.parameters().items()}

    def completed(self, choices: Mapping[str, int | str]) -> Choices:
        """Return choices of a smaller space as those of this one: what that has not is in none of its nets."""
        return {name: choices.get(name, values[0]) for name, values in self.parameters().items()}

    def net(self, choices: Mapping[str, int | str]) -> Blocks:
        """Return the net that choices are.

        A group that does not divide the channels of its stage becomes the largest common divisor.

        Raises:
            ValueError: a choice is missing or not of this space.
        """
        for name, values in self.parameters().items():
            if choices.get(name) not in values:
                raise ValueError(
                    f"the choice {name} is {choices.get(name)!r}; expected one of {', '.join(map(str, values))}"
                )
        return Blocks(tuple(_stage(choices, number) for number in range(1, len(self.widths) + 1)))


def active(choices: Mapping[str, int | str]) -> Choices:
    """Return the choices that a net shows: not those of blocks that it lacks, nor kernels that its layers do not make."""
    found: Choices = {}
    for name, value in choices.items():
        place = name.lstrip("abcdefghijklmnopqrstuvwxyz")
        stage, _, block = place.partition(".")
        if block and int(block) > int(choices[f"depth{stage}"]):
            continue
        if name.startswith("kernel") and choices[f"layer{place}"] not in _INVOLUTIONS:
            continue
        found[name] = value
    return found


def _stage(choices: Mapping[str, int | str], number: int) -> Stage:
    channels = int(choices[f"channels{number}"])
    layers = []
    for block in range(1, int(choices[f"depth{number}"]) + 1):
        token = str(choices[f"layer{number}.{block}"])
        if token in _INVOLUTIONS:
            layer = Layer.parse(f"{token}{choices[f'kernel{number}.{block}']}")
            group = math.gcd(layer.group_channels, channels)
            layers.append(Layer(layer.kind, layer.kernel_size, group, layer.reduction))
        else:
            layers.append(Layer.parse(token))
    return Stage(channels, tuple(layers))
