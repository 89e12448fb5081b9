"""What the command predict does with a segmentation net: label images, and overlays with a legend."""

from __future__ import annotations

import json as json_module
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ..data.images import read_image, write_png
from ..data.label_maps import ClassTable
from ..data.segmentation_transforms import SegmentationTransforms
from ..errors import CheckpointError
from ..models import saved
from ..models.segmentation_inference import segment
from ..pictures.overlays import class_shares, percent, with_legend
from .input_images import InputImages
from .output_files import name_outputs

__all__ = ["predict_images"]


def predict_images(
    files: Sequence[Path],
    model: str | Path,
    *,
    out: Path,
    json: bool,
    device: torch.device,
    opacity: float,
    window: Sequence[int] | None = None,
    scales: Sequence[float] | None = None,
    flip: bool = False,
    allow_network: bool = False,
) -> None:
    """Write for every image a label image ``NAME.png``, in the values of the data set, and ``NAME-overlay.png``.

    Args:
        files: the images.
        model: the folder that ``involution fit`` wrote.
        out: where the pictures go.
        json: print one JSON object a line instead of text.
        device: where the net runs.
        opacity: of the classes' colours over the image, 0 to 1.
        window: height and width of sliding windows, see `segment`; those of the training's evaluation by default.
        scales: factors by which the image is resized, averaged; likewise.
        flip: whether to average with the flipped image; likewise.
        allow_network: whether the net's description may name an architecture on a hub.

    Raises:
        CommandError: an image would be overwritten, or the net gives no numbers for some, which are left out.
        DataError: images cannot be read, which are left out.
        CheckpointError: the folder holds no net of ours.
        ValueError: the views are out of range.
    """
    targets = name_outputs(files, out, (".png", "-overlay.png"))
    net, description = saved.load(model, allow_network=allow_network)
    net.to(device).to(memory_format=torch.channels_last)
    details = dict(description.details)
    table = _class_table(description)
    size = details.get("image_size")
    transforms = SegmentationTransforms(
        image_size=tuple(size) if size else None, mean=description.mean, std=description.std
    )
    views: dict = dict(details.get("views") or {})
    if window is not None:
        views |= {"window": window, "stride": None}
    if scales is not None:
        views["scales"] = scales
    if flip:
        views["flip"] = True
    out.mkdir(parents=True, exist_ok=True)
    images = InputImages(files)
    for file, (labels, overlay) in zip(files, targets, strict=True):
        for _, image in images.read_each([file], read_image):
            pixels = transforms.evaluate(image).unsqueeze(0).to(device, memory_format=torch.channels_last)
            with torch.inference_mode():
                probabilities = segment(net, pixels, size=(image.height, image.width), **views)
            if not probabilities.isfinite().all():
                images.leave_out_unanswered(file)
                continue
            classes = probabilities[0].argmax(0).to(torch.uint8).cpu().numpy()
            write_png(table.label_image(classes), labels)
            write_png(with_legend(image, classes, table.names, table.colours, opacity), overlay)
            _print(file, labels, overlay, class_shares(classes, len(table.names)), table.names, json)
    images.refuse_left_out()


def _class_table(description: saved.Description) -> ClassTable:
    """Return the values and colours of the data set; without one, as after a training from plain loaders, the usual."""
    try:
        if "classes" in description.details:
            return ClassTable.from_dict(description.details)
        return ClassTable(description.classes)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"the description of the net does not say what its classes are: {error}") from error


def _print(file: Path, labels: Path, overlay: Path, shares: np.ndarray, names: Sequence[str], json: bool) -> None:
    order = [i for i in np.argsort(-shares, kind="stable") if shares[i] > 0]
    if json:
        by_name = {names[i]: round(100 * float(shares[i]), 3) for i in order}
        record = {"image": str(file), "labels": str(labels), "overlay": str(overlay), "share_percent": by_name}
        print(json_module.dumps(record, ensure_ascii=False), flush=True)
    else:
        parts = ", ".join(f"{names[i]} {percent(shares[i])}" for i in order[:5]) + (", …" if len(order) > 5 else "")
        print(f"{file}: {parts} → {overlay}", flush=True)
