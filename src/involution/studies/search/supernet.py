"""All nets of a space in one set of weights: every net is a slice, and a training step trains one net, drawn at random.

A net takes the leading channels of every matrix, the central taps of every kernel, the leading hidden channels of a
bottleneck φ; the rows of its last matrix are those of every so many-th group, where its groups are wider. Each kind of
layer has weights of its own in every block: convolution, depthwise, involution with a bottleneck or a linear φ, local
attention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn

from ...models.searchable import Blocks, Layer, Stage
from . import evaluate
from .proxies import Batch
from .space import Space

__all__ = ["Supernet", "accuracy", "recalibrate"]

_DEEPEST = 3
# The largest layer of every kind that shares weights.
_WHOLE = {
    "convolution": Layer("convolution", 3),
    "depthwise": Layer("depthwise", 7),
    "bottleneck": Layer("involution", 9, 4, 2),
    "linear": Layer("involution", 9, 4, 0),
    "attention": Layer("attention", 7),
}


class Supernet(nn.Module):
    """The shared weights of a space.

    Args:
        recipe: what all nets share, see `involution.studies.search.evaluate.recipe_of`.
        space: of the nets; its widths are those of the weights.
        seed: of the weights.

    Example:
        >>> from involution.models.searchable import Blocks
        >>> from involution.studies.search.space import Space
        >>> from involution.studies.search.supernet import Supernet
        >>> recipe = {"model": {"init_args": {"num_classes": 10, "model_args": {"stem": "small"}}}}
        >>> supernet = Supernet(recipe, Space(), seed=0)
        >>> net = supernet.net(Blocks.parse("8 i7g8r4 / 12 c3 d3 / 32 i5g16l / 48 a3"))
        >>> tuple(net.layer3[0].conv2.kernel_generator.span.weight.shape)
        (50, 32, 1, 1)
    """

    def __init__(self, recipe: Mapping[str, Any], space: Space, seed: int) -> None:
        super().__init__()
        self.recipe, self.space = recipe, space
        torch.manual_seed(seed)
        parameters: dict[str, nn.Parameter] = {}
        for kind, layer in _WHOLE.items():
            blocks = Blocks(tuple(Stage(width, (layer,) * _DEEPEST) for width in space.widths))
            for name, parameter in self._built(blocks).named_parameters():
                parameters.setdefault(_key(kind, name), parameter)
        self.shared = nn.ParameterDict(parameters)

    def slices(self, blocks: Blocks) -> dict[str, Tensor]:
        """Return the parameters of a net, as views of the shared ones, through which gradients flow."""
        with torch.device("meta"):
            structure = self._built(blocks)
        return {name: self._slice(blocks, name, parameter.shape) for name, parameter in structure.named_parameters()}

    def net(self, blocks: Blocks) -> Any:
        """Return a net with a copy of its slice of the weights; its batch norms know no statistics yet."""
        net = self._built(blocks)
        with torch.no_grad():
            for name, value in self.slices(blocks).items():
                net.get_parameter(name).copy_(value)
        return net

    def loss(self, blocks: Blocks, batch: Batch) -> Tensor:
        """Return the cross-entropy of a net in training mode, a function of the shared weights."""
        net = self._built(blocks).train()
        images, labels = batch
        return F.cross_entropy(functional_call(net, self.slices(blocks), (images,)), labels)

    def fit(
        self,
        batches: Callable[[int], Iterator[Batch]],
        *,
        epochs: int,
        learning_rate: float = 5e-3,
        seed: int = 0,
        on_epoch: Callable[[int, float], None] = lambda epoch, loss: None,
    ) -> None:
        """Train, with Adam, a cosine and one net a batch, drawn uniformly from the space.

        Args:
            batches: gives those of an epoch, counted from 0.
            epochs: how many.
            learning_rate: at the start.
            seed: of the nets that are drawn.
            on_epoch: called with the number of epochs behind and the mean loss of the last one.
        """
        optimizer = torch.optim.Adam(self.parameters(), lr=learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
        generator = Random(seed)
        for epoch in range(epochs):
            losses = []
            for batch in batches(epoch):
                loss = self.loss(self.space.net(self.space.draw(generator)), batch)
                optimizer.zero_grad()
                loss.backward()
                # A path that is drawn for the first time late has large gradients.
                nn.utils.clip_grad_norm_(self.parameters(), 5.0)
                optimizer.step()
                losses.append(loss.item())
            schedule.step()
            on_epoch(epoch + 1, sum(losses) / max(1, len(losses)))

    def _built(self, blocks: Blocks) -> nn.Module:
        return evaluate.build(evaluate.recipe_of(self.recipe, blocks, 0))

    def _slice(self, blocks: Blocks, name: str, shape: Sequence[int]) -> Tensor:
        layer, channels = None, 0
        if ".conv2." in name:
            stage = blocks.stages[int(name[len("layer")]) - 1]
            layer, channels = stage.layers[int(name.split(".")[1])], stage.channels
        whole = self.shared[_key(_kind(layer), name)]
        if layer is not None and ".span." in name:
            return _span(whole, layer, channels, shape)
        if name.endswith("relative_position"):
            # Heads of another width are other heads, but their channels are the leading ones.
            heads, width, *taps = shape
            return _leading(whole.flatten(0, 1)[:, None], (heads * width, 1, *taps)).reshape(tuple(shape))
        return _leading(whole, shape)


def _key(kind: str, name: str) -> str:
    """Return what the shared weights call a parameter; names of a ParameterDict have no dots."""
    return (f"{kind} {name}" if ".conv2." in name else name).replace(".", "/")


def _kind(layer: Layer | None) -> str:
    if layer is None or layer.kind != "involution":
        return "" if layer is None else layer.kind
    return "bottleneck" if layer.reduction else "linear"


def _leading(whole: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the leading rows and columns, and of what follows, the taps of a kernel, the central ones."""
    for axis, size in enumerate(shape):
        start = (whole.shape[axis] - size) // 2 if axis > 1 else 0
        whole = whole.narrow(axis, start, size)
    return whole


def _span(whole: Tensor, layer: Layer, channels: int, shape: Sequence[int]) -> Tensor:
    """Return the rows of φ's last matrix, or its bias, of the groups and taps that a layer has."""
    widest = _WHOLE["linear"]
    taps = whole.unflatten(0, (-1, widest.kernel_size, widest.kernel_size))
    # The group of its first channels stands for all that share the kernel.
    groups = taps[:: layer.group_channels // widest.group_channels][: channels // layer.group_channels]
    start = (widest.kernel_size - layer.kernel_size) // 2
    end = start + layer.kernel_size
    rows = groups[:, start:end, start:end].flatten(0, 2)
    return rows[:, : shape[1]] if len(shape) > 1 else rows


def recalibrate(net: nn.Module, batches: Sequence[Tensor]) -> None:
    """Let the batch norms of a net know the mean statistics of these batches, ``(B, C, H, W)`` each, instead of their own."""
    update_bn(batches, net)
    net.eval()


def accuracy(net: nn.Module, batches: Sequence[Batch]) -> float:
    """Return the share of images, from 0 to 1, whose class a net in evaluation mode finds."""
    right = total = 0
    with torch.no_grad():
        for images, labels in batches:
            right += int((net(images).argmax(1) == labels).sum())
            total += len(labels)
    return right / total
