"""What happens to an image and its labels before the net: the published Cityscapes recipe by default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from ..schema import check_normalisation
from .label_maps import IGNORE

__all__ = ["SegmentationTransforms", "random_resize_crop"]


# Beyond these a single image fills the memory.
_LARGEST, _LARGEST_FACTOR = 2**13, 10


class SegmentationTransforms:
    """Random size, a crop that no class dominates, flip and changes of colour; in evaluation the image as it is.

    Training, as in the configurations of the authors' code: the image scaled by a random factor, a crop drawn anew
    while one class covers more than ``max_class_share`` of its labelled pixels (ten times at most), flipped with
    probability one half, brightness, contrast, saturation and hue changed, normalised, and padded to the crop size
    with zeros and with labels that are ignored.

    Args:
        crop_size: height and width of what the net is trained on, in pixels.
        image_size: height and width that an image is scaled into before anything else, keeping its proportions; as it
            is by default. Evaluation does the same; its labels keep their size.
        scale_range: smallest and largest random factor.
        max_class_share: share of one class above which a crop is drawn anew; 1 takes the first crop.
        flip: probability of a horizontal flip.
        photometric_distortion: whether to change colours.
        mean: subtracted, per channel, of pixels from 0 to 1; by default as the weights that a backbone starts from were
            trained, else ImageNet's.
        std: divided by; likewise.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        crop_size: tuple[int, int] = (512, 1024),
        *,
        image_size: tuple[int, int] | None = None,
        scale_range: tuple[float, float] = (0.5, 2.0),
        max_class_share: float = 0.75,
        flip: float = 0.5,
        photometric_distortion: bool = True,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        for name, size in (("crop_size", crop_size), ("image_size", image_size)):
            if size is not None and (len(size) != 2 or not 1 <= min(size) <= max(size) <= _LARGEST):
                raise ValueError(f"{name} must be a height and a width from 1 to {_LARGEST:,} pixels, got {size}")
        if len(scale_range) != 2 or not 0 < scale_range[0] <= scale_range[1] <= _LARGEST_FACTOR:
            raise ValueError(
                f"scale_range must be two factors up to {_LARGEST_FACTOR}, the smaller first, got {scale_range}"
            )
        if not 0 < max_class_share <= 1 or not 0 <= flip <= 1:
            raise ValueError(
                f"max_class_share must lie above 0 and flip from 0, both up to 1, got {max_class_share} and {flip}"
            )
        self.crop_size, self.image_size = tuple(crop_size), tuple(image_size) if image_size else None
        self.scale_range, self.max_class_share, self.flip = tuple(scale_range), max_class_share, flip
        self.photometric_distortion = photometric_distortion
        self._given = {"mean": mean, "std": std}
        self.mean, self.std = tuple(mean or IMAGENET_DEFAULT_MEAN), tuple(std or IMAGENET_DEFAULT_STD)
        check_normalisation(self.mean, self.std)

    def see_as(self, weights: Mapping[str, Any]) -> None:
        """Normalise as weights were trained to see images, where ``mean`` and ``std`` were not given.

        Args:
            weights: of timm's configuration the entries ``mean`` and ``std``, as far as they are there.
        """
        mean, std = (self._given[key] or weights.get(key) or getattr(self, key) for key in ("mean", "std"))
        self.mean, self.std = tuple(mean), tuple(std)

    @property
    def data_config(self) -> dict[str, Any]:
        """What prediction has to know to treat an image as evaluation did."""
        return {"mean": list(self.mean), "std": list(self.std), "image_size": self.image_size and list(self.image_size)}

    def train(self, image: Image.Image, labels: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return the image, float32 ``(3, H, W)`` normalised, and the classes, int64 ``(H, W)``, of the crop size."""
        pixels, classes = _tensor(image), torch.from_numpy(labels)
        low, high = self.scale_range
        factor = low + (high - low) * torch.rand(()).item()
        height, width = (round(side * factor) for side in fitted(pixels.shape[1:], self.image_size))
        pixels, classes = random_resize_crop(
            pixels, classes, (max(1, height), max(1, width)), self.crop_size, self.max_class_share
        )
        if torch.rand(()) < self.flip:
            pixels, classes = pixels.flip(2), classes.flip(1)
        values = pixels.float() / 255
        if self.photometric_distortion:
            values = distort(values)
        values = F.normalize(values, list(self.mean), list(self.std))
        bottom, right = (crop - side for crop, side in zip(self.crop_size, classes.shape, strict=True))
        if bottom or right:
            values = torch.nn.functional.pad(values, (0, right, 0, bottom))
            classes = torch.nn.functional.pad(classes, (0, right, 0, bottom), value=IGNORE)
        return values, classes.long()

    def evaluate(self, image: Image.Image) -> Tensor:
        """Return the whole image, float32 ``(3, H, W)`` normalised."""
        pixels = _tensor(image)
        size = fitted(pixels.shape[1:], self.image_size)
        if size != tuple(pixels.shape[1:]):
            pixels = F.resize(pixels, list(size), antialias=True)
        return F.normalize(pixels.float() / 255, list(self.mean), list(self.std))


def fitted(size: Sequence[int], into: Sequence[int] | None) -> tuple[int, int]:
    """Return the height and width of an image of ``size`` scaled into ``into`` with its proportions kept."""
    height, width = size
    if into is None:
        return height, width
    factor = min(into[0] / height, into[1] / width)
    return max(1, round(height * factor)), max(1, round(width * factor))


def random_resize_crop(
    pixels: Tensor, classes: Tensor, size: tuple[int, int], crop_size: Sequence[int], max_class_share: float
) -> tuple[Tensor, Tensor]:
    """Scale an image to ``size`` and crop it at random, where no class dominates if that is to be had.

    Args:
        pixels: uint8 ``(3, H, W)``.
        classes: uint8 ``(H, W)``.
        size: height and width to scale to.
        crop_size: height and width of the crop; a smaller image is not cropped.
        max_class_share: share of the labelled pixels above which a class dominates. A crop with labels of fewer than
            two classes is drawn anew as well.
    """
    height, width = (min(crop, side) for crop, side in zip(crop_size, size, strict=True))
    classes = F.resize(classes[None], list(size), F.InterpolationMode.NEAREST_EXACT)[0]
    for _ in range(1 if max_class_share == 1 else 11):
        top = int(torch.randint(size[0] - height + 1, ()))
        left = int(torch.randint(size[1] - width + 1, ()))
        cropped = classes[top : top + height, left : left + width]
        counts = torch.bincount(cropped.flatten(), minlength=256)[:IGNORE]
        if (counts > 0).sum() > 1 and counts.max() < max_class_share * counts.sum():
            break
    if size != tuple(pixels.shape[1:]):
        pixels = F.resize(pixels, list(size), antialias=True)
    return pixels[:, top : top + height, left : left + width], cropped


def distort(pixels: Tensor) -> Tensor:
    """Change brightness, contrast, saturation and hue, each with probability one half, by the published strengths.

    Brightness by up to 32 / 255, contrast and saturation by 0.5 to 1.5, hue by up to 36°; contrast before or after the
    other two, by chance.

    Args:
        pixels: float ``(3, H, W)`` from 0 to 1.
    """
    chance = (torch.rand(5) < 0.5).tolist()
    amount = (2 * torch.rand(4) - 1).tolist()
    if chance[0]:
        pixels = (pixels + amount[0] * 32 / 255).clamp(0, 1)
    contrast_first = chance[4]
    if chance[1] and contrast_first:
        pixels = (pixels * (1 + amount[1] / 2)).clamp(0, 1)
    if chance[2]:
        # Saturation in HSV: the distance of every channel to the largest one grows, down to zero at most.
        value = pixels.amax(0, keepdim=True)
        distance = value - pixels
        limit = value / distance.amax(0, keepdim=True).clamp_min(1e-6)
        pixels = (value - distance * limit.clamp(max=1 + amount[2] / 2)).clamp_min(0)
    if chance[3]:
        pixels = F.adjust_hue(pixels, amount[3] * 0.1)
    if chance[1] and not contrast_first:
        pixels = (pixels * (1 + amount[1] / 2)).clamp(0, 1)
    return pixels


def _tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
