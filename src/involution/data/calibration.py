"""Images that the ranges of an int8 net are found on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torchvision.transforms.functional import normalize, resize, to_tensor

from ..errors import DataError
from .image_folders import list_images
from .images import read_image

__all__ = ["MOST_IMAGES", "calibration_batches"]

MOST_IMAGES = 64


def calibration_batches(
    folder: Path, *, size: tuple[int, int], batch: int, mean: Sequence[float], std: Sequence[float]
) -> list[Tensor]:
    """Read images to calibrate with: at most 64 or one batch, spread over the folder, each scaled to ``size`` as a whole.

    Args:
        folder: searched for images.
        size: height and width, in pixels.
        batch: images of a batch; those that fill none are left out.
        mean, std: of one channel for images in grey, of three for images in colour; pixels are from 0 to 1.

    Returns:
        Batches ``(batch, C, H, W)``.

    Raises:
        DataError: an image cannot be read, there are too few or no folder of them, or ``mean`` is of other channels.
    """
    if len(mean) not in (1, 3):
        raise DataError(f"images have 1 or 3 channels and the net takes {len(mean)}; it cannot be calibrated on images")
    files = list_images([folder])
    if not folder.is_dir():
        raise DataError(f"ranges are found on a folder of images such as the net will see, and {folder} is one file")
    count = min(len(files), max(MOST_IMAGES, batch)) // batch * batch
    if not count:
        # A file for any batch is made with two images at least.
        smaller = ", or a smaller batch" if batch > 2 else ""
        raise DataError(f"{len(files)} of the {batch} images of a batch are in {folder}; give more images{smaller}")
    pixels = []
    for i in range(count):
        image = read_image(files[i * len(files) // count], "L" if len(mean) == 1 else "RGB")
        pixels.append(normalize(to_tensor(resize(image, list(size))), list(mean), list(std)))
    return list(torch.stack(pixels).split(batch))
