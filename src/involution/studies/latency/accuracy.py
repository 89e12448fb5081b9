"""The share of images whose class a net in an engine finds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import timm
import torch
from torch import Tensor

from ...errors import DataError, listed
from ...export.sessions import Session
from ...models.named import NamedNet

__all__ = ["LabelledImages"]


class LabelledImages:
    """Images in one folder per class, as the net's own validation sees them: resized, cut out of the centre, normalised.

    Args:
        folder: with one folder of images per class; their names in alphabetical order are the net's outputs, or the names
            that came with its weights.
        net: a classifier of timm's.
        size: height and width, in pixels.

    Raises:
        DataError: there are no images, or other classes than the net's.
    """

    def __init__(self, folder: Path, net: NamedNet, size: tuple[int, int]) -> None:
        from torchvision.transforms import Compose, Grayscale

        from ...data.image_folders import FolderImages

        config = timm.data.resolve_data_config({"input_size": (net.channels, *size)}, model=net.net)
        steps = timm.data.create_transform(**config).transforms
        # Files are read in colour.
        grey = [Grayscale()] if net.channels == 1 else []
        self._images = FolderImages(folder, Compose([*grey, *steps]))
        classes = self._images.classes
        known = (getattr(net.net, "pretrained_cfg", None) or {}).get("label_names") or classes
        if sorted(known) != sorted(classes):
            raise DataError(
                f"{folder} has the classes {listed(classes)} and the net {listed(known)}; give images "
                "of the net's classes"
            )
        self._label = {self._images.class_to_idx[name]: i for i, name in enumerate(known)}

    def accuracy(self, session: Session, batch: int) -> float:
        """Return the share that the net finds, from 0 to 1.

        Args:
            session: runs the net on a batch of images and returns its logits first.
            batch: images that it takes together; what the last batch lacks is filled up with its last image.

        Raises:
            DataError: the net has another number of outputs than there are classes.
        """
        right = 0
        for start in range(0, len(self._images), batch):
            images, labels = self._batch(range(start, min(start + batch, len(self._images))))
            filled = torch.cat([images, images[-1:].expand(batch - len(images), -1, -1, -1)])
            logits = session([filled])[0]
            if logits.dim() != 2 or logits.shape[1] != len(self._label):
                raise DataError(
                    f"the net's output is {tuple(logits.shape)}, and the images have {len(self._label)} classes; accuracy is "
                    "that of classifiers with these classes"
                )
            right += int((logits[: len(labels)].argmax(1) == labels).sum())
        return right / len(self._images)

    def _batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        images, labels = zip(*(self._images[i] for i in indices), strict=True)
        return torch.stack(images), torch.tensor([self._label[label] for label in labels])
