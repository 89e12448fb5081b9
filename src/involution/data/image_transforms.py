"""What happens to an image before a classifier sees it: timm's transforms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_transform
from timm.data.transforms import ResizeKeepRatio
from torchvision.transforms import Resize

from ..errors import DataError
from ..schema import check_normalisation

__all__ = ["ImageTransforms", "transformed"]

# Beyond this no net sees an image, and a batch of a few fills the memory.
_LARGEST = 2**12
_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
# What weights may say of images, by its name in timm's configuration (where a size has channels before it), and what holds
# where neither they nor the user do.
_SAID_BY_WEIGHTS: dict[str, tuple[str, Any]] = {
    "image_size": ("input_size", (3, 224, 224)),
    "crop_fraction": ("crop_pct", 0.875),
    "interpolation": ("interpolation", "bilinear"),
    "mean": ("mean", IMAGENET_DEFAULT_MEAN),
    "std": ("std", IMAGENET_DEFAULT_STD),
}


class ImageTransforms:
    """What happens to an image before the net: the published ImageNet recipe by default.

    Training: a random crop of 8 to 100 % of the area, resized, flipped with probability one half. Evaluation: the
    shorter side resized to ``image_size / crop_fraction`` (256 for 224), the centre cropped.

    The first five arguments are what the weights say that a net starts from, each where it is None; and the value in
    brackets without such weights.

    Args:
        image_size: side of the square that the net sees, in pixels (224).
        crop_fraction: share of the resized image that the centre crop keeps (0.875).
        interpolation: of the resizing, ``"bilinear"`` or ``"bicubic"`` (``"bilinear"``).
        mean: subtracted, per channel, of pixels from 0 to 1 (ImageNet's).
        std: divided by (ImageNet's).
        color_jitter: strength of brightness, contrast and saturation changes, 0 for none.
        auto_augment: a policy of timm, e.g. ``"rand-m9-mstd0.5"``; only beside ``"3a"`` does timm change colours, too.
        random_erasing: probability of erasing a rectangle.
        flip: probability of a horizontal flip.
        min_scale: smallest share of the area that a random crop keeps.

    Raises:
        ValueError: an argument is out of range.
    """

    train: Any
    evaluate: Any
    data_config: dict[str, Any]

    def __init__(
        self,
        image_size: int | None = None,
        *,
        crop_fraction: float | None = None,
        interpolation: str | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        color_jitter: float = 0.0,
        auto_augment: str | None = None,
        random_erasing: float = 0.0,
        flip: float = 0.5,
        min_scale: float = 0.08,
    ) -> None:
        for name, share in (("flip", flip), ("random_erasing", random_erasing)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} must be a probability from 0 to 1, got {share}")
        if not 0 <= color_jitter <= 1:
            raise ValueError(f"color_jitter must be a strength from 0 to 1, got {color_jitter}")
        self._given: dict[str, Any] = {
            "image_size": None if image_size is None else (3, image_size, image_size),
            "crop_fraction": crop_fraction,
            "interpolation": interpolation,
            "mean": mean,
            "std": std,
        }
        self._augmentation: dict[str, Any] = {
            "color_jitter": color_jitter,
            "auto_augment": auto_augment,
            "re_prob": random_erasing,
            "hflip": flip,
            "scale": (min_scale, 1.0),
        }
        self.see_as({})
        if color_jitter and auto_augment and "3a" not in auto_augment:
            raise ValueError(
                f"color_jitter of {color_jitter} does nothing beside the policy {auto_augment!r}, which changes colours itself; "
                "give one of them"
            )

    def see_as(self, weights: Mapping[str, Any]) -> None:
        """Treat images as weights were trained to see them, as far as the arguments did not say how.

        Args:
            weights: of timm's configuration the entries ``input_size``, ``crop_pct``, ``interpolation``, ``mean`` and
                ``std``, as far as they are there.

        Raises:
            ValueError: an entry is out of range.
        """
        said = {
            name: weights.get(theirs) or default if self._given[name] is None else self._given[name]
            for name, (theirs, default) in _SAID_BY_WEIGHTS.items()
        }
        image_size, crop_fraction, interpolation = said["image_size"][-1], said["crop_fraction"], said["interpolation"]
        min_scale, policy = self._augmentation["scale"][0], self._augmentation["auto_augment"]
        if not 1 <= image_size <= _LARGEST:
            raise ValueError(f"image_size must be from 1 to {_LARGEST:,} pixels, got {image_size}")
        if not 0.1 <= crop_fraction <= 1 or not 0 < min_scale <= 1:
            raise ValueError(
                f"crop_fraction must lie between 0.1 and 1 and min_scale above 0 and up to 1, got {crop_fraction} and "
                f"{min_scale}"
            )
        if interpolation not in _INTERPOLATIONS:
            raise ValueError(
                f"unknown interpolation {interpolation!r}; expected one of {', '.join(map(repr, _INTERPOLATIONS))}"
            )
        check_normalisation(said["mean"], said["std"])
        common: dict[str, Any] = {
            "input_size": image_size,
            "interpolation": interpolation,
            "mean": tuple(said["mean"]),
            "std": tuple(said["std"]),
        }
        try:
            self.train = create_transform(is_training=True, **self._augmentation, **common)
        except (AssertionError, KeyError, IndexError) as error:
            # timm asserts what a policy is made of.
            raise ValueError(
                f"unknown auto_augment {policy!r}; expected a policy of timm, such as 'rand-m9-mstd0.5'"
            ) from error
        self.evaluate = create_transform(is_training=False, crop_pct=crop_fraction, **common)
        # What timm has to know of it to evaluate the trained net as it was validated.
        self.data_config = {**common, "input_size": (3, image_size, image_size), "crop_pct": crop_fraction}


def transformed(image: Image.Image, transform: Any, name: object) -> Any:
    """Return an image as a net sees it.

    Args:
        image: as it was read.
        transform: of timm, or any other.
        name: what a refusal calls the image.

    Raises:
        DataError: it is so thin that it would have more than ``PIL.Image.MAX_IMAGE_PIXELS`` pixels where its shorter side
            is enlarged to what the net asks for.
    """
    shorter, longer = sorted(image.size)
    for step in getattr(transform, "transforms", ()):
        side = _shorter_side(step)
        if Image.MAX_IMAGE_PIXELS is not None and side * side * longer > Image.MAX_IMAGE_PIXELS * shorter:
            raise DataError(
                f"{name} is {image.width:,} pixels wide and {image.height:,} high, too thin to be enlarged until its shorter "
                f"side has the {side} pixels that the net sees; crop or remove it"
            )
    return image if transform is None else transform(image)


def _shorter_side(step: Any) -> int:
    """Return how many pixels a step makes the shorter side of an image have, 0 where it does no such thing."""
    if isinstance(step, Resize):
        return step.size if isinstance(step.size, int) else step.size[0] if len(step.size) == 1 else 0
    return max(step.size) if isinstance(step, ResizeKeepRatio) and not step.longest else 0
