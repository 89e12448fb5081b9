"""The command ``involution pack``: a folder of images to tar shards for streaming."""

from __future__ import annotations

import json
from pathlib import Path

from ..errors import CommandError
from ..files import write_atomically
from .options import check_seed

__all__ = ["pack"]


def pack(root: Path, out: Path, *, images_per_shard: int = 1000, seed: int = 0) -> None:
    """Write ``root/train/<class>/*.jpg`` and ``root/val/<class>/*.jpg`` as tar shards that training streams from.

    The shards have WebDataset's format; the training images are shuffled once. ``index.json`` beside them holds the
    names of the classes, the number of images and the size of every shard, by which a truncated one is found.

    Args:
        root: folder of the images, one folder per class in every part; train, val and test are taken where they exist.
        out: folder of the shards, made where it does not exist.
        images_per_shard: how many a shard holds; let there be at least as many shards as processes times workers.
        seed: of the order of the training images.

    Raises:
        CommandError: there are no parts, or shards already.
        DataError: a part holds no images, or of a class that the first one has not, or a file is none.
        OSError: a shard cannot be written.
    """
    from ..data import shards
    from ..data.image_folders import FolderImages

    if images_per_shard < 1:
        raise CommandError(f"--images-per-shard must be at least 1, got {images_per_shard}")
    check_seed(seed)
    parts = [part for part in ("train", "val", "test") if (root / part).is_dir()]
    if not parts:
        raise CommandError(
            f"{root} holds neither train nor val; expected such folders with one folder per class inside"
        )
    there = [out / shards.INDEX, *(path for part in parts for path in sorted(out.glob(f"{part}-*.tar")))]
    taken = next((path for path in there if path.exists()), None)
    if taken is not None:
        raise CommandError(f"{out} already holds shards ({taken.name}); delete them or choose another folder")
    index: dict[str, object] = {}
    # All are looked at before one is packed; of some classes the others may have no image.
    first = FolderImages(root / parts[0], None)
    classes = first.classes
    sets = [first, *(FolderImages(root / part, None, classes) for part in parts[1:])]
    out.mkdir(parents=True, exist_ok=True)
    for part, images in zip(parts, sets, strict=True):
        packed = shards.pack(images.samples, out, part, images_per_shard, seed if part == "train" else None)
        sizes = {name: (out / name).stat().st_size for name in packed.shards}
        index[part] = {"images": packed.images, "bytes": sizes}
        print(f"{part}: {packed.images:,} images in {len(sizes)} shard{'s' if len(sizes) > 1 else ''}", flush=True)
    # Last: a folder without it is not whole.
    write_atomically(out / shards.INDEX, json.dumps({**index, "classes": classes}, indent=1))
