"""Write some images of a small data set as a folder of classes, as a user's own images lie.

python -m tools.image_folders [--dataset cifar10] [--out data/cifar10_folders] [--train 50] [--val 100] [--data_root DATA]

OUT/train/CLASS and OUT/val/CLASS get the first training and test images of every class as PNG files.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from PIL import Image

from involution.data import load


def write(data: Any, names: list[str], out: Path, counts: dict[str, int]) -> None:
    """Write images in folders.

    Args:
        data: of `involution.data.load`.
        names: of its classes, in the order of their labels.
        out: the folder.
        counts: images of each class, of ``train`` and ``val``.
    """
    parts = {"train": (data.images, data.labels), "val": (data.test_images, data.test_labels)}
    for part, count in counts.items():
        images, labels = parts[part]
        for label, name in enumerate(names):
            folder = out / part / name
            folder.mkdir(parents=True, exist_ok=True)
            for index in (labels == label).nonzero().flatten()[:count].tolist():
                pixels = images[index].permute(1, 2, 0).squeeze(2).numpy()
                Image.fromarray(pixels).save(folder / f"{index}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--out", type=Path, default=Path("data/cifar10_folders"))
    parser.add_argument("--train", type=int, default=50)
    parser.add_argument("--val", type=int, default=100)
    parser.add_argument("--data_root")
    arguments = parser.parse_args()
    from involution.data.sources import DATASETS

    names = list(DATASETS[arguments.dataset].classes)
    data = load(arguments.dataset, arguments.data_root)
    write(data, names, arguments.out, {"train": arguments.train, "val": arguments.val})
    print(f"{arguments.out}: {len(names)} classes of {arguments.train} images, and {arguments.val} others of each")


if __name__ == "__main__":
    main()
