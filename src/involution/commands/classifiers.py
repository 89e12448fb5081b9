"""What the commands that apply a classifier share: the names of its outputs, and images as it was evaluated on them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..errors import CommandError, in_one_line
from .input_images import InputImages

__all__ = ["batches", "class_names", "load_classifier", "visible"]


def load_classifier(model: str, weights: Path | None = None, *, where: str) -> nn.Module:
    """Load a classifier in evaluation mode for a command that takes nothing else.

    Args:
        model: a folder that ``involution fit`` wrote, a name of timm, or an address of the hub.
        weights: a checkpoint for a net given by name.
        where: what takes classifiers alone, as it begins a sentence: ``"the page"``.

    Raises:
        CommandError: the net was made for another task.
        CheckpointError: it cannot be loaded.
    """
    from ..models import named

    described = named.find_described(model, weights)
    if described is not None:
        raise CommandError(f"{model} is a {described[1].task} net; {where} shows classifiers, name one of these")
    return named.classifier(model, weights).eval()


def class_names(net: Any) -> Sequence[str]:
    """Return what the outputs of a timm model mean: the names it carries, ImageNet's for 1,000 classes, or numbers."""
    names = net.pretrained_cfg.get("label_names")
    if names:
        if len(names) != net.num_classes:
            raise CommandError(
                f"the net has {net.num_classes} outputs and its description names {len(names)} classes; save it anew"
            )
        return _described(list(names.values()) if isinstance(names, dict) else list(names))
    if net.num_classes == 1000:
        from timm.data import ImageNetInfo

        info = ImageNetInfo()
        return [info.index_to_description(i) for i in range(1000)]
    return [str(i) for i in range(net.num_classes)]


def _described(names: list[str]) -> list[str]:
    """Return the names with ImageNet's identifiers of classes (``n01440764``) in words (``tench``)."""
    if not all(re.fullmatch(r"n\d{8}", str(name)) for name in names):
        return names
    from timm.data import ImageNetInfo

    words = ImageNetInfo().label_descriptions(as_dict=True)
    return [words.get(name, name) for name in names]


def batches(net: Any, images: InputImages, size: int) -> Iterator[tuple[list[Path], Tensor]]:
    """Yield images as the net was evaluated on them, with their files; those that cannot be read are left out."""
    from timm.data import create_transform, resolve_data_config

    from ..data.image_transforms import transformed
    from ..data.images import read_image

    try:
        transform = create_transform(**resolve_data_config(model=net))
    except Exception as error:
        # Out of a description of the right form that still says what timm does not know.
        raise CommandError(f"the net does not say how it sees an image: {in_one_line(error)}; save it anew") from error
    mode: Literal["L", "RGB"] = "L" if getattr(net, "in_chans", 3) == 1 else "RGB"

    def read(file: Path) -> Tensor:
        return transformed(read_image(file, mode), transform, file)

    for start in range(0, len(images.files), size):
        seen = images.read_each(images.files[start : start + size], read)
        if seen:
            yield [file for file, _ in seen], torch.stack([pixels for _, pixels in seen])


def visible(inputs: Tensor) -> Tensor:
    """Return uint8 images of what a net sees, ``(B, C, H, W)``: each from its own least to its own largest value."""
    low, high = inputs.amin((1, 2, 3), keepdim=True), inputs.amax((1, 2, 3), keepdim=True)
    return (255 * (inputs - low) / (high - low).clamp_min(1e-6)).round().to(torch.uint8).cpu()
