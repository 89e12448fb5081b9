"""The small nets that compare convolution with involution: those of a published report, and a fair pair.

The report trained Keras nets on MNIST, Fashion-MNIST and CIFAR-10 and found involution far behind. Its involution nets
replace each convolution by an involution alone, which keeps the number of channels: features stay 1 or 3 channels
wide, and φ has one hidden channel. In the fair pair 1×1 convolutions around the spatial layer set the width, as in the
bottleneck of ResNet and RedNet, so that both nets differ in that layer alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ...kernel_generation import BottleneckKernelGenerator, SpanMatrix
from ...modules import Involution2d

__all__ = ["DESIGNS", "OPERATORS", "VARIANTS", "ComparisonNet", "Design", "comparison_net", "quirks"]

OPERATORS = ("convolution", "involution")
VARIANTS = ("published", "fair")

SpatialLayer = Callable[[int, int], nn.Module]
"""From the channels that come and the channels wanted to a layer that looks at neighbourhoods."""


@dataclass(frozen=True)
class Design:
    """What both nets for a data set share.

    Attributes:
        input_shape: ``(C, H, W)`` of an image.
        widths: channels wanted of each spatial layer; the first two are followed by 2×2 max pooling.
        hidden: width of a fully connected layer before the classifier, or None.
        dropout: share of the features dropped before the classifier.
        num_classes: outputs.
        published_padding: of the published convolutions, ``"same"`` or ``"valid"``.
        published_softmax: whether the published involution net has no activation, and a softmax at its end.
    """

    input_shape: tuple[int, int, int]
    widths: tuple[int, ...]
    hidden: int | None = None
    dropout: float = 0.0
    num_classes: int = 10
    published_padding: str = "same"
    published_softmax: bool = False


DESIGNS = {
    # Not in the report: its MNIST design, padded, so that two poolings fit into 8×8 pixels.
    "digits": Design((1, 8, 8), (32, 64), dropout=0.5, published_softmax=True),
    "mnist": Design((1, 28, 28), (32, 64), dropout=0.5, published_padding="valid", published_softmax=True),
    "fashion_mnist": Design((1, 28, 28), (32, 64, 64), hidden=64),
    "cifar10": Design((3, 32, 32), (32, 64, 64), hidden=64),
}


class ComparisonNet(nn.Module):
    """Stages of one spatial layer each, 2×2 max pooling after the first two, and a classifier on the flattened map.

    Args:
        design: the sizes.
        stage: from the channels that come and the channels wanted to the layers of one stage.
        softmax: whether to end with a softmax; without it the outputs are logits.

    Shape:
        ``(B, C, H, W)`` as `Design.input_shape` says to ``(B, num_classes)``.
    """

    def __init__(self, design: Design, stage: Callable[[int, int], Sequence[nn.Module]], softmax: bool = False) -> None:
        super().__init__()
        self.stages = nn.Sequential()
        shape = torch.Size((1, *design.input_shape))
        for index, width in enumerate(design.widths):
            pooling = [nn.MaxPool2d(2)] if index < 2 else []
            layers = nn.Sequential(*stage(shape[1], width), *pooling)
            shape = _output_shape(layers, shape)
            self.stages.append(layers)
        features = shape[1:].numel()
        self.head = nn.Sequential(nn.Flatten())
        if design.hidden is not None:
            self.head.extend([nn.Linear(features, design.hidden), nn.ReLU()])
            features = design.hidden
        if design.dropout:
            self.head.append(nn.Dropout(design.dropout))
        self.head.append(nn.Linear(features, design.num_classes))
        if softmax:
            self.head.append(nn.Softmax(dim=1))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (or probabilities, see the class) of images ``x``."""
        return self.head(self.stages(x))


def _output_shape(layers: nn.Module, shape: torch.Size) -> torch.Size:
    """Return the shape that new ``layers`` make of a map, by running them once in evaluation mode."""
    with torch.no_grad():
        shape = layers.eval()(torch.zeros(shape)).shape
    layers.train()
    return shape


def comparison_net(dataset: str, variant: str, operator: str) -> ComparisonNet:
    """Build one of the nets, initialised from the global random state.

    Args:
        dataset: a key of `DESIGNS`.
        variant: ``"published"`` or ``"fair"``.
        operator: ``"convolution"`` or ``"involution"``.

    Raises:
        ValueError: one of the names is unknown.

    Example:
        >>> from involution.studies.comparison.nets import comparison_net
        >>> sum(p.numel() for p in comparison_net("mnist", "published", "involution").parameters())
        544
    """
    for name, value, known in (
        ("data set", dataset, DESIGNS),
        ("variant", variant, VARIANTS),
        ("operator", operator, OPERATORS),
    ):
        if value not in known:
            raise ValueError(f"unknown {name} {value!r}; expected one of {', '.join(known)}")
    design = DESIGNS[dataset]
    if variant == "fair":
        return ComparisonNet(design, partial(_bottleneck, spatial_layer=_FAIR[operator]))
    published = _published_convolution if operator == "convolution" else _published_involution
    net = ComparisonNet(design, partial(published, design), design.published_softmax and operator == "involution")
    net.apply(_initialise_as_keras)
    return net


def _bottleneck(in_channels: int, width: int, spatial_layer: SpatialLayer) -> list[nn.Module]:
    """Return 1×1 convolution, spatial layer, 1×1 convolution, each with batch norm and ReLU."""
    layers: list[nn.Module] = []
    for layer in (
        nn.Conv2d(in_channels, width, 1, bias=False),
        spatial_layer(width, width),
        nn.Conv2d(width, width, 1, bias=False),
    ):
        layers += [layer, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    return layers


# C/G = 4 gives these narrow nets 8 and 16 kernels per pixel, as many as the stages of RedNet have (4 to 32).
_FAIR: dict[str, SpatialLayer] = {
    "convolution": partial(nn.Conv2d, kernel_size=3, padding=1, bias=False),
    "involution": partial(Involution2d, kernel_size=3, group_channels=4),
}


def _published_convolution(design: Design, in_channels: int, width: int) -> list[nn.Module]:
    return [nn.Conv2d(in_channels, width, 3, padding=design.published_padding), nn.ReLU()]


def _published_involution(design: Design, in_channels: int, width: int) -> list[nn.Module]:
    """Return an involution with G = 1, K = 3, r = 2 that keeps its channels, whatever the width wanted."""
    generator = BottleneckKernelGenerator(
        in_channels, 3, 1, reduction=2, reduce_bias=True, norm_layer=partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01)
    )
    involution = Involution2d(in_channels, kernel_size=3, groups=1, kernel_generator=generator)
    return [involution] if design.published_softmax else [involution, nn.ReLU()]


def _initialise_as_keras(module: nn.Module) -> None:
    """Glorot's uniform weights and zero biases."""
    if isinstance(module, (nn.Conv2d, nn.Linear, SpanMatrix)):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def quirks(dataset: str, operator: str) -> list[str]:
    """Say what is unusual about a ``published`` net or its training, one sentence each; all of it is reproduced.

    Args:
        dataset: a key of `DESIGNS`.
        operator: ``"convolution"`` or ``"involution"``.
    """
    design = DESIGNS[dataset]
    sentences = [
        "Initialised and trained as Keras does by default: Glorot's uniform weights, Adam with epsilon 1e-7"
        + ("." if operator == "convolution" else ", batch norm with epsilon 1e-3 and momentum 0.99."),
    ]
    if dataset == "digits":
        sentences.insert(0, 'The report has no digits: this is its MNIST net with "same" padding, on 8×8 pixels.')
    if dataset == "cifar10":
        sentences.append("The net sees raw pixels from 0 to 255.")
    if operator == "involution":
        channels = design.input_shape[0]
        sentences.append(
            f"An involution keeps its channels and nothing mixes or widens them: every map has {channels} "
            f"channel{'s' if channels > 1 else ''} where the convolution net has {' and '.join(map(str, sorted(set(design.widths))))}."
        )
        sentences.append("φ has one hidden channel (and a bias before its batch norm, which has no effect).")
        if design.published_softmax:
            sentences.append("Softmax twice: the net ends with one, and the loss applies its own to the probabilities.")
    return sentences
