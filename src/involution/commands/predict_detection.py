"""What ``involution predict`` does with a detector: draw the objects it finds, and write them in COCO's format."""

from __future__ import annotations

import json as json_module
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.functional import pil_to_tensor

from ..data.images import read_image, write_png
from ..data.masks import encode_mask
from ..export.sessions import flat
from ..files import write_atomically
from ..models import saved
from ..models.building import check_proportions
from ..pictures.objects import draw_objects
from .input_images import InputImages
from .output_files import name_outputs, refuse_overwriting

__all__ = ["predict_images"]

JSON_NAME = "predictions.json"


def predict_images(
    files: Sequence[Path],
    model: str | Path,
    *,
    out: Path,
    json: bool,
    batch_size: int,
    device: torch.device,
    min_score: float,
    labels: str,
    colours: str,
    opacity: float,
    allow_network: bool = False,
) -> None:
    """Find the objects of images; draw those above ``min_score``, print them, and write all into one JSON file.

    Args:
        files: of the images.
        model: folder that ``involution fit`` wrote.
        out: folder for ``<image>.png`` and ``predictions.json``: images, categories and annotations with scores, the
            annotations in the form of COCO's results. Images are numbered in the order of ``files``. The file holds those
            that are done, also where others cannot be read or the command is interrupted.
        json: print one JSON object per image instead of text.
        batch_size: images that pass the net together.
        device: where the net runs.
        min_score: least score of what is drawn and printed.
        labels: what is written at an object: ``names`` (and scores), ``scores`` or ``none``.
        colours: whether ``classes`` or ``instances`` have colours of their own.
        opacity: of the masks, 0 to 1.
        allow_network: whether the net's description may name an architecture on a hub.

    Raises:
        CommandError: an image would be overwritten, or the net gives no numbers for some, which are left out.
        DataError: images cannot be read, or are too narrow for the net, which are left out.
        CheckpointError: the folder holds no net of ours.
    """
    pictures = {file: target for file, (target,) in zip(files, name_outputs(files, out, (".png",)), strict=True)}
    refuse_overwriting([out / JSON_NAME], files, "choose another --out")
    net, description = saved.load(model, allow_network=allow_network)
    net.to(device)
    out.mkdir(parents=True, exist_ok=True)
    ids = description.details.get("category_ids", range(1, len(description.classes) + 1))
    read = partial(_pixels, net)
    given = InputImages(files)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    watched = _Watched(net)
    try:
        for start in range(0, len(files), batch_size):
            chunk = given.read_each(files[start : start + batch_size], read)
            found = watched.find([image.to(device).float() / 255 for _, image in chunk])
            for (file, image), objects in zip(chunk, found, strict=True):
                if objects is None:
                    given.leave_out_unanswered(file)
                    continue
                objects = {name: value.cpu() for name, value in objects.items()}
                if "masks" in objects:
                    objects["masks"] = objects["masks"][:, 0] > 0.5
                shown = {name: value[objects["scores"] >= min_score] for name, value in objects.items()}
                picture = _picture(image, shown, description.classes, labels, colours, opacity)
                write_png(picture, pictures[file])
                _print(file, shown, description.classes, json)
                number, (height, width) = len(images) + 1, image.shape[1:]
                made = enumerate(_annotations(objects, number, ids), len(annotations) + 1)
                images.append({"id": number, "file_name": str(file), "width": width, "height": height})
                annotations += [{"id": id, **annotation} for id, annotation in made]
    finally:
        # What hours have found is kept, whatever ends them; where nothing was done, a file of an earlier run is.
        if images:
            categories = [{"id": id, "name": name} for id, name in zip(ids, description.classes, strict=True)]
            content = {"images": images, "categories": categories, "annotations": annotations}
            write_atomically(out / JSON_NAME, json_module.dumps(content, ensure_ascii=False) + "\n")
    if images and not json:
        print(f"pictures and {JSON_NAME} in {out}")
    given.refuse_left_out()


class _Watched:
    """A detector, of which it is known whether its parts gave numbers.

    What is no number is above no score: without looking, a net that computes with infinities finds nothing.
    """

    def __init__(self, net: Any) -> None:
        self._net = net
        self._is_finite = True
        if hasattr(net, "roi_heads"):
            heads = [net.rpn.head, net.roi_heads.box_predictor]
            if net.roi_heads.has_mask():
                heads.append(net.roi_heads.mask_predictor)
        else:
            heads = [net.head]
        for part in (net.backbone, *heads):
            part.register_forward_hook(self._look)

    def find(self, images: Sequence[Tensor]) -> list[dict[str, Tensor] | None]:
        """Return the objects of each image; None where the net computed with infinities."""
        if not images:
            return []
        self._is_finite = True
        with torch.inference_mode():
            found = self._net(list(images))
        if self._is_finite:
            return found
        if len(images) == 1:
            return [None]
        # Which of them it was.
        return [objects for image in images for objects in self.find([image])]

    def _look(self, module: nn.Module, inputs: Any, outputs: Any) -> None:
        self._is_finite &= all(bool(tensor.isfinite().all()) for tensor in flat(outputs))


def _pixels(net: nn.Module, file: Path) -> Tensor:
    """Return an image ``(3, H, W)`` of 8 bits that the detector takes."""
    pixels = pil_to_tensor(read_image(file))
    check_proportions(net, [(file, pixels.shape[2], pixels.shape[1])])
    return pixels


def _picture(
    image: Tensor, objects: Mapping[str, Tensor], classes: Sequence[str], labels: str, colours: str, opacity: float
) -> Image.Image:
    """Draw the objects over the image."""
    kinds, scores = objects["labels"].tolist(), objects["scores"].tolist()
    texts = {
        "names": [f"{classes[kind]} {score:.2f}" for kind, score in zip(kinds, scores, strict=True)],
        "scores": [f"{score:.2f}" for score in scores],
        "none": [""] * len(kinds),
    }[labels]
    own_colours = range(len(kinds)) if colours == "instances" else None
    return draw_objects(image, objects["boxes"], kinds, texts, objects.get("masks"), opacity, classes, own_colours)


def _annotations(objects: Mapping[str, Tensor], image_id: int, ids: Sequence[int]) -> list[dict[str, Any]]:
    annotations = []
    for i, (box, label, score) in enumerate(
        zip(objects["boxes"].tolist(), objects["labels"].tolist(), objects["scores"].tolist(), strict=True)
    ):
        x1, y1, x2, y2 = box
        annotation = {
            "image_id": image_id,
            "category_id": ids[label],
            "bbox": [round(value, 2) for value in (x1, y1, x2 - x1, y2 - y1)],
            "score": round(score, 5),
            "area": round((x2 - x1) * (y2 - y1), 2),
            "iscrowd": 0,
        }
        if "masks" in objects:
            annotation["segmentation"] = encode_mask(objects["masks"][i])
            annotation["area"] = int(objects["masks"][i].sum())
        annotations.append(annotation)
    return annotations


def _print(file: Path, objects: Mapping[str, Tensor], classes: Sequence[str], json: bool) -> None:
    found = [
        {"class": classes[label], "score": round(score, 5), "box": [round(value, 2) for value in box]}
        for label, score, box in zip(
            objects["labels"].tolist(), objects["scores"].tolist(), objects["boxes"].tolist(), strict=True
        )
    ]
    if json:
        print(json_module.dumps({"image": str(file), "objects": found}, ensure_ascii=False), flush=True)
        return
    counts: dict[str, int] = {}
    for entry in found:
        counts[entry["class"]] = counts.get(entry["class"], 0) + 1
    print(f"{file}: " + (", ".join(f"{n} {name}" for name, n in counts.items()) or "nothing"), flush=True)
