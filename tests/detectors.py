"""Narrow detectors, and images with objects for them."""

import torch

from involution.models.detection import create

NARROW = {"channels": [16, 16, 32, 32], "kernel_size": 3}
SMALL = {
    "backbone": "rednet26",
    "backbone_args": NARROW,
    "neck_channels": 16,
    "anchor_sizes": [8, 16, 32, 64, 128],
    "min_size": 64,
    "max_size": 96,
}


def detector(architecture="faster_rcnn", num_classes=3, **arguments):
    if architecture != "retinanet":
        arguments = {"box_channels": 32, **arguments}
    return create(architecture, num_classes, **{**SMALL, **arguments})


def batch(*sizes, objects=2, masks=True):
    """Return images ``(3, H, W)`` of the given sizes and their targets."""
    images, targets = [], []
    for height, width in sizes:
        images.append(torch.rand(3, height, width))
        boxes = torch.tensor([[4.0, 5.0, 30.0, 28.0], [10.0, 8.0, 26.0, 40.0]])[:objects]
        target = {"boxes": boxes.view(-1, 4), "labels": torch.tensor([0, 2])[:objects]}
        if masks:
            target["masks"] = torch.zeros(objects, height, width, dtype=torch.uint8)
            for mask, (x1, y1, x2, y2) in zip(target["masks"], boxes.int().tolist(), strict=True):
                mask[y1:y2, x1:x2] = 1
        targets.append(target)
    return images, targets
