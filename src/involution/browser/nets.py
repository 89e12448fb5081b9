"""A net as the page takes it: an ONNX file that also gives its kernel fields, and what the page has to know of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..counting import count
from ..errors import CommandError
from ..export import checked, image_shapes
from ..modules import Involution2d
from ..span import as_field
from ..surgery import fold_batch_norms

__all__ = ["WithFields", "write"]

# Images of other sides than the net was evaluated on show finer maps; every stride of a RedNet divides them.
_SIDES = (96, 128, 160, 224)
_MULTIPLE = 32
# What the page resizes with, by timm's words.
_INTERPOLATIONS = ("bilinear", "bicubic")


class WithFields(nn.Module):
    """A net that gives, beside its output, the kernel field of every `Involution2d` in it whose φ is a module.

    Args:
        net: every involution of it is to be called once.

    Attributes:
        layers: names of the involutions as in ``net.named_modules()``, in the order of their fields.

    Shape:
        From ``(B, C, H, W)`` to the net's output and ``(B, G, K, K, H', W')`` for every layer.

    Example:
        >>> import torch
        >>> from involution import Involution2d
        >>> from involution.browser.nets import WithFields
        >>> net = WithFields(torch.nn.Sequential(Involution2d(32), torch.nn.ReLU()))
        >>> output, field = net(torch.randn(1, 32, 8, 8))
        >>> net.layers, field.shape
        (('0',), torch.Size([1, 2, 7, 7, 8, 8]))
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.layers = tuple(
            name
            for name, layer in net.named_modules()
            if isinstance(layer, Involution2d) and isinstance(layer.kernel_generator, nn.Module)
        )

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the output for ``images`` ``(B, C, H, W)``, then the fields."""
        fields: dict[str, Tensor] = {}

        def keep(name: str) -> Any:
            def hook(module: nn.Module, inputs: Any, output: Any) -> Tensor:
                # The layer goes on with the same field, so that the file makes it once.
                fields[name] = as_field(output)
                return fields[name]

            return hook

        generators = [self.net.get_submodule(f"{name}.kernel_generator") for name in self.layers]
        handles = [
            generator.register_forward_hook(keep(name)) for name, generator in zip(self.layers, generators, strict=True)
        ]
        try:
            output = self.net(images)
        finally:
            for handle in handles:
                handle.remove()
        return (output, *(fields[name] for name in self.layers))


def write(net: Any, name: str, labels: Sequence[str], file: Path) -> dict[str, Any]:
    """Write a classifier of timm as an ONNX file and return its description for the page.

    Args:
        net: in evaluation mode, for images of three channels.
        name: how the page calls it.
        labels: names of its outputs.
        file: where to write, in an existing folder.

    Raises:
        CommandError: the page cannot prepare images as the net expects them.
        ExportError: the net cannot be exported, or ONNX Runtime computes something else.
    """
    from timm.data import resolve_data_config

    config = resolve_data_config(model=net)
    channels, (height, width) = getattr(net, "in_chans", 3), config["input_size"][-2:]
    if channels != 3 or height != width:
        raise CommandError(f"the page shows colour images in squares, {name} takes {channels}×{height}×{width}")
    if config["interpolation"] not in _INTERPOLATIONS or config["crop_mode"] != "center":
        raise CommandError(
            f"the page resizes by {' or '.join(_INTERPOLATIONS)} interpolation and crops the centre, {name} expects "
            f"{config['interpolation']} and {config['crop_mode']}"
        )
    if config["crop_pct"] > 1:
        raise CommandError(f"the page crops images and adds no border, {name} expects a crop of {config['crop_pct']}")
    cost = count(net, config["input_size"])
    folded, _ = fold_batch_norms(net)
    module = WithFields(folded).eval()
    dynamic = height % _MULTIPLE == 0 and height >= min(_SIDES)
    sides = sorted({*_SIDES, height}) if dynamic else [height]
    checked.export(
        module,
        # Of two images: what is 1 in an example would be 1 for ever.
        (torch.randn(2 if dynamic else 1, 3, height, height),),
        file,
        dynamic_shapes=image_shapes(multiple=_MULTIPLE, least=2 * _MULTIPLE) if dynamic else None,
        others=[(torch.randn(1, 3, side, side),) for side in (sides[0], sides[-1])] if dynamic else (),
    )
    layers = dict(net.named_modules())
    return {
        "name": name,
        "file": file.name,
        "bytes": file.stat().st_size,
        "side": height,
        "sides": sides,
        "mean": list(config["mean"]),
        "std": list(config["std"]),
        "crop": config["crop_pct"],
        "interpolation": config["interpolation"],
        "labels": list(labels),
        "params": cost.params,
        "macs": cost.macs,
        # The outputs after the first, in their order.
        "layers": [{"name": layer, "window": _window(layers[layer])} for layer in module.layers],
    }


def _window(layer: Any) -> dict[str, Any]:
    """Return where the window of an output pixel lies: in the map the layer sees, tap (u, v) of pixel (i, j) is at
    ``(i · stride − padding + u · dilation, …)``."""
    return {name: list(getattr(layer, name)) for name in ("kernel_size", "stride", "padding", "dilation")}
