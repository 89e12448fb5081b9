"""Tiny street scenes: a sky, a road and boxes, drawn with their labels, in folders and as Cityscapes."""

import json

import numpy as np
from PIL import Image

CLASSES = ("sky", "road", "box")
COLOURS = np.array([[120, 170, 230], [90, 90, 95], [200, 60, 40]])


def scene(height, width, seed):
    """Return an image uint8 (H, W, 3) and its classes uint8 (H, W)."""
    generator = np.random.default_rng(seed)
    classes = np.zeros((height, width), np.uint8)
    classes[height // 2 :] = 1
    for _ in range(2):
        top, left = generator.integers(0, height // 2), generator.integers(0, width // 2)
        classes[top : top + height // 3, left : left + width // 3] = 2
    noise = generator.integers(-25, 26, (height, width, 3))
    return (COLOURS[classes] + noise).clip(0, 255).astype(np.uint8), classes


def write_folders(root, train=12, val=3, size=(40, 56)):
    """Write a set in folders; the validation images have odd sizes, a value is ignored, and one class is 7."""
    for part, count in (("train", train), ("val", val)):
        for kind in ("images", "labels"):
            (root / kind / part).mkdir(parents=True)
        for i in range(count):
            height, width = size if part == "train" else (size[0] + 1 + 2 * i, size[1] - 3)
            image, classes = scene(height, width, 100 * (part == "val") + i)
            values = np.array([0, 1, 7], np.uint8)[classes]
            values[:2, :5] = 3
            Image.fromarray(image).save(root / "images" / part / f"{i}.png")
            Image.fromarray(values).save(root / "labels" / part / f"{i}.png")
    description = {"classes": {"sky": 0, "road": 1, "box": 7}, "ignore_index": 3, "palette": COLOURS.tolist()}
    (root / "classes.json").write_text(json.dumps(description))
    return root


def write_cityscapes(root, images=2, size=(32, 64)):
    """Write images in the layout of Cityscapes, with labels by its ids."""
    ids = np.array([23, 7, 26], np.uint8)
    for part in ("train", "val"):
        for i in range(images):
            image, classes = scene(*size, i)
            values = ids[classes]
            values[0] = 1  # ego vehicle, not judged
            stem = f"aachen_{i:06d}_000019"
            for kind, name, content in (
                ("leftImg8bit", f"{stem}_leftImg8bit.png", image),
                ("gtFine", f"{stem}_gtFine_labelIds.png", values),
            ):
                folder = root / kind / part / "aachen"
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(content).save(folder / name)
    return root
