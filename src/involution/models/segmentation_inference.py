"""Probabilities of a whole image: at once or window by window, over scales and flips."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["segment", "windows"]

# By what an image is resized, at most and at least, to be seen once more.
_FACTORS = 0.1, 10.0


def segment(
    net: Callable[[Tensor], Tensor],
    images: Tensor,
    *,
    size: Sequence[int] | None = None,
    window: Sequence[int] | None = None,
    stride: Sequence[int] | None = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
) -> Tensor:
    """Return the probabilities of the classes for every pixel.

    Args:
        net: from images ``(B, 3, H, W)`` to logits ``(B, C, H, W)``.
        images: normalised, ``(B, 3, H, W)``.
        size: height and width of the result, by default of ``images``. The logits are resized to it, not the classes.
        window: height and width of the windows that the net sees one after the other, in pixels of the scaled image;
            None for the whole image at once. An image that is smaller is seen whole.
        stride: pixels from one window to the next, two thirds of the window by default; where windows overlap, their
            logits are averaged.
        scales: factors by which the images are resized; the probabilities are averaged.
        flip: whether to average with the horizontally flipped images.

    Returns:
        ``(B, C, H', W')``, summing up to one over the classes.

    Raises:
        ValueError: a number is out of range.

    Example:
        >>> import torch
        >>> from involution.models.segmentation_inference import segment
        >>> net = torch.nn.Conv2d(3, 5, 1)
        >>> segment(net, torch.randn(1, 3, 40, 60), window=(32, 32), flip=True).shape
        torch.Size([1, 5, 40, 60])
    """
    check_views(window, stride, scales)
    size = tuple(images.shape[2:]) if size is None else tuple(size)
    total: Tensor | None = None
    for scale in scales:
        scaled = images
        if scale != 1:
            new = [max(1, round(side * scale)) for side in images.shape[2:]]
            scaled = F.interpolate(images, new, mode="bilinear", align_corners=False, antialias=True)
        for mirrored in (False, True) if flip else (False,):
            view = scaled.flip(3) if mirrored else scaled
            logits = net(view) if window is None else _sliding(net, view, window, stride)
            logits = logits.flip(3) if mirrored else logits
            if tuple(logits.shape[2:]) != size:
                logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
            probabilities = logits.float().softmax(1)
            total = probabilities if total is None else total + probabilities
    if total is None:
        raise ValueError("there is no view of the images")
    return total / (len(scales) * (2 if flip else 1))


def check_views(window: Sequence[int] | None, stride: Sequence[int] | None, scales: Sequence[float]) -> None:
    """Refuse what `segment` cannot do, for whoever calls it later.

    Raises:
        ValueError: a window is empty, its stride leaves gaps or has no window, or a factor is not from 0.1 to 10.
    """
    least, most = _FACTORS
    if not scales or not all(least <= scale <= most for scale in scales):
        raise ValueError(f"scales must be factors from {least:g} to {most:g}, one at least, got {tuple(scales)}")
    if window is None and stride is not None:
        raise ValueError("stride belongs to a window; give the height and width of the window, too")
    if window is not None:
        next(windows((1, 1), window, stride))


def _sliding(
    net: Callable[[Tensor], Tensor], images: Tensor, window: Sequence[int], stride: Sequence[int] | None
) -> Tensor:
    total = count = torch.empty(0)
    for rows, columns in windows(images.shape[2:], window, stride):
        logits = net(images[:, :, rows, columns])
        if not total.numel():
            total = logits.new_zeros(len(images), logits.shape[1], *images.shape[2:], dtype=torch.float32)
            count = logits.new_zeros(1, 1, *images.shape[2:], dtype=torch.float32)
        total[:, :, rows, columns] += logits
        count[:, :, rows, columns] += 1
    return total / count


def windows(
    size: Sequence[int], window: Sequence[int], stride: Sequence[int] | None = None
) -> Iterator[tuple[slice, slice]]:
    """Yield the rows and columns of windows that cover an image; the last ones are moved inwards.

    Args:
        size: height and width of the image.
        window: height and width of the windows.
        stride: from one to the next, two thirds of the window by default.

    Raises:
        ValueError: a window is empty, or the stride leaves gaps.
    """
    stride = [max(1, side * 2 // 3) for side in window] if stride is None else list(stride)
    if len(window) != 2 or len(stride) != 2 or min(window) < 1:
        raise ValueError(f"window and stride must be a height and a width, got {tuple(window)} and {tuple(stride)}")
    if any(not 1 <= step <= side for step, side in zip(stride, window, strict=True)):
        raise ValueError(
            f"stride must be at least 1 and at most the window, so that there are no gaps, got {tuple(stride)} and "
            f"{tuple(window)}"
        )
    starts = []
    for length, side, step in zip(size, window, stride, strict=True):
        last = max(0, length - side)
        starts.append([*range(0, last, step), last])
    for top in starts[0]:
        for left in starts[1]:
            yield slice(top, top + window[0]), slice(left, left + window[1])
