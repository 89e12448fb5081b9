"""Tiny data sets, some in the formats of MNIST and CIFAR-10, for tests without a network."""

import hashlib
import pickle

import numpy as np
import torch
from PIL import Image


def write_idx(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    header = bytes([0, 0, 8, values.ndim]) + b"".join(n.to_bytes(4, "big") for n in values.shape)
    path.write_bytes(header + values.astype(np.uint8).tobytes())


def write_mnist(root, name="mnist", train=64, test=40):
    """Write a set of bright squares, whose place is their class, and return the folder of its files."""
    folder = root / name / {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}[name] / "raw"
    generator = np.random.default_rng(0)
    for part, count in (("train", train), ("t10k", test)):
        labels = np.arange(count) % 10
        images = generator.integers(0, 40, (count, 28, 28))
        for image, label in zip(images, labels, strict=True):
            image[2 * label : 2 * label + 6, 10:16] += 200
        write_idx(folder / f"{part}-images-idx3-ubyte", images)
        write_idx(folder / f"{part}-labels-idx1-ubyte", labels)
    return folder


def write_cifar10(root, monkeypatch, batch=20):
    """Write a set of noise, make torchvision expect its checksums, and return the folder of its files."""
    from torchvision.datasets import CIFAR10

    folder = root / "cifar10" / CIFAR10.base_folder
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    sums = {}
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        labels = (np.arange(batch) % 10).tolist()
        content = {"data": generator.integers(0, 256, (batch, 3072), dtype=np.uint8), "labels": labels}
        (folder / name).write_bytes(pickle.dumps(content))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    monkeypatch.setattr(CIFAR10, "train_list", [[f"data_batch_{i}", sums[f"data_batch_{i}"]] for i in range(1, 6)])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    meta = hashlib.md5((folder / "batches.meta").read_bytes()).hexdigest()
    monkeypatch.setattr(CIFAR10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": meta})
    return folder


def write_photographs(folder, count):
    """Write images with structure, each a pixel wider than the one before, and return their folder."""
    generator = torch.Generator().manual_seed(0)
    for i in range(count):
        coarse = torch.rand(1, 3, 4, 4, generator=generator)
        pixels = torch.nn.functional.interpolate(coarse, (40, 30 + i), mode="bilinear")[0].permute(1, 2, 0)
        Image.fromarray((255 * pixels).to(torch.uint8).numpy()).save(folder / f"{i:02d}.png")
    return folder
