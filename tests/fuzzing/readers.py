"""Every reader of files, a right file for each, and what reading it means."""

import io
import json
import os
import tarfile
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from involution.commands.recipes import RecipeParser
from involution.commands.voc2coco import voc2coco
from involution.data import ClassTable
from involution.data.coco_files import read_coco
from involution.data.coco_images import AnnotatedImages
from involution.data.images import read_image, read_size
from involution.data.label_maps import read_labels
from involution.data.shards import read_index, read_shard
from involution.models import checkpoints, saved
from involution.recipes import resolve


class Reader(NamedTuple):
    """A reader: the files that it is tried on by name, and the function that reads a file in a folder of its own.

    It may write the files of these names beside it, and no others.
    """

    files: dict[str, bytes]
    read: Callable[[Path], object]
    is_text: bool = False
    writes: tuple[str, ...] = ()

    def written(self, path: Path) -> list[Path]:
        return [path.parent / name for name in self.writes]


def _saved(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _images() -> dict[str, bytes]:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 31, 3)).astype(np.uint8)
    colour, exif = Image.fromarray(pixels), Image.Exif()
    exif[0x0112] = 6
    frames = {"save_all": True, "append_images": [colour.rotate(90)]}
    files = {
        "a.jpg": _saved(colour, "JPEG", exif=exif),
        "a.png": _saved(colour, "PNG", exif=exif),
        "palette.png": _saved(colour.quantize(8), "PNG"),
        "frames.gif": _saved(colour, "GIF", **frames),
        "a.webp": _saved(colour, "WEBP"),
        "a.bmp": _saved(colour, "BMP"),
        "a.ppm": _saved(colour, "PPM"),
        "a.tif": _saved(colour, "TIFF", compression="tiff_lzw"),
        "frames.tif": _saved(colour, "TIFF", **frames),
        "16.png": _saved(Image.fromarray(pixels[..., 0].astype(np.uint16) * 257), "PNG"),
        "float.tif": _saved(Image.fromarray(pixels[..., 0].astype(np.float32)), "TIFF"),
    }
    return files


def read_picture(path: Path) -> None:
    read_size(path)
    image = read_image(path)
    assert image.mode == "RGB" and np.asarray(image).dtype == np.uint8


TABLE = ClassTable(("a", "b", "c"))


def _coco() -> bytes:
    from small_coco import add, run_lengths

    image = {"id": 1, "file_name": "a.png", "width": 12, "height": 10}
    content = {"images": [image], "annotations": [], "categories": [{"id": 3, "name": "a"}, {"id": 9, "name": "b"}]}
    add(content, 1, 3, [1, 2, 5, 4], [[1, 2, 6, 2, 6, 6, 1.5, 6]])
    add(content, 1, 9, [0, 0, 4, 3], run_lengths(image, 4, 3), iscrowd=1)
    add(content, 1, 9, [0, 0, 12, 10], {"size": [10, 12], "counts": "h3"})
    return json.dumps(content).encode()


def read_annotations(path: Path) -> None:
    file = read_coco(path, masks=True)
    images = AnnotatedImages(file, path.parent, {id: i for i, id in enumerate(file.categories)}, masks=True)
    for entry in file.images:
        if entry.width * entry.height < 10**6:
            images._target(entry, file.objects.get(entry.id, ()))


VOC = b"""<?xml version="1.0" encoding="utf-8"?><annotation><filename>a.jpg</filename>
<size><width>40</width><height>30</height></size><object><name>cat</name><difficult>0</difficult>
<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>10</xmax><ymax>12</ymax></bndbox></object></annotation>"""


def read_voc(path: Path) -> None:
    out = path.parent / "out.json"
    with redirect_stdout(io.StringIO()):
        voc2coco(path.parent, out)
    for box in json.loads(out.read_text())["annotations"]:
        assert min(box["bbox"][2:]) > 0


def _shard() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content in (("0.png", _images()["a.png"]), ("0.cls", b"1"), ("1.png", b"x" * 700), ("1.cls", b"0")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def read_samples(path: Path) -> None:
    for sample in read_shard(str(path)):
        assert sample.label >= 0 and isinstance(sample.image, bytes)


RECIPE = b"""run: runs/a
model: {class_path: involution.tasks.ClassificationTask, init_args: {model: rednet26, num_classes: 10}}
data: {class_path: involution.data.SmallImages, init_args: {dataset: digits, batch_size: 8}}
trainer: {max_epochs: 3, callbacks: null}
"""


def read_recipe(path: Path) -> None:
    """As the command does: merged by itself, then parsed by a parser of a few flags."""
    resolve(path)
    parser = RecipeParser(exit_on_error=False)
    parser.add_argument("--run", type=str)
    for name in ("model", "data", "trainer"):
        parser.add_argument(f"--{name}", type=dict)
    parser.parse_path(path)


def _checkpoint() -> bytes:
    stream = io.BytesIO()
    state = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2, dtype=torch.float16)}
    version = {"pytorch-lightning_version": "2.6.6"}
    content = {"epoch": 1, "global_step": 2, "state_dict": state, "loops": {"fit_loop": {}}, **version}
    torch.save(content, stream)
    return stream.getvalue()


def _weights(ending: str) -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{ending}"
        checkpoints.write({"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2)}, path)
        return path.read_bytes()


def read_weights(path: Path) -> None:
    state = checkpoints.read(path)
    assert all(isinstance(name, str) for name in state)


DESCRIPTION = json.dumps(
    {
        "task": "segmentation",
        "architecture": "semantic_fpn",
        "arguments": {"backbone": "rednet26", "neck_channels": 8, "backbone_args": {"channels": [8, 8, 8, 8]}},
        "classes": ["a", "b"],
        "mean": [0.5, 0.5, 0.5],
        "std": [0.2, 0.2, 0.2],
        "details": {"image_size": [32, 32], "views": {"window": None, "stride": None, "scales": [1.0], "flip": False}},
    }
).encode()
TIMM = json.dumps(
    {
        "architecture": "rednet26",
        "num_classes": 3,
        "label_names": ["a", "b", "c"],
        "model_args": {"kernel_size": 3},
        "pretrained_cfg": {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 0.9},
    }
).encode()


def read_description(path: Path) -> None:
    """A saved net's, or timm's, beside which weights lie whose size alone is looked at."""
    (path.parent / saved.WEIGHTS).touch()
    os.truncate(path.parent / saved.WEIGHTS, 10**7)
    if saved.describe(path.parent) is None:
        saved.check_classifier(path.parent)


INDEX = json.dumps({"train": {"images": 8, "bytes": {"a.tar": 10}}, "classes": ["a", "b"]}).encode()
CLASSES = json.dumps({"classes": {"a": 0, "b": 7}, "palette": [[1, 2, 3], [4, 5, 6]], "ignore_index": [9]}).encode()


def _labels() -> dict[str, bytes]:
    values = np.random.default_rng(0).integers(0, 3, (20, 30)).astype(np.uint8)
    return {"a.png": _saved(Image.fromarray(values), "PNG"), "b.tif": _saved(Image.fromarray(values), "TIFF")}


READERS = {
    "image": Reader(_images(), read_picture),
    "label image": Reader(_labels(), lambda path: read_labels(path, TABLE)),
    "classes": Reader({"classes.json": CLASSES, "classes.txt": b"a\nb\n"}, ClassTable.read, True),
    "coco": Reader({"a.json": _coco()}, read_annotations, True),
    "voc": Reader({"a.xml": VOC}, read_voc, True, ("out.json",)),
    "recipe": Reader({"a.yaml": RECIPE}, read_recipe, True),
    "checkpoint": Reader({"a.ckpt": _checkpoint()}, checkpoints.read_training),
    "weights": Reader({f"a{end}": _weights(end) for end in (".safetensors", ".pdparams", ".pth")}, read_weights),
    "folder": Reader({"config.json": DESCRIPTION, "timm/config.json": TIMM}, read_description, True, (saved.WEIGHTS,)),
    "shard": Reader({"train-00000.tar": _shard()}, read_samples),
    "index": Reader({"index.json": INDEX}, lambda path: read_index(str(path.parent)), True),
}


def read(name: str, path: Path) -> None:
    """Read a file, without what Pillow says of the metadata of damaged ones."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        READERS[name].read(path)
