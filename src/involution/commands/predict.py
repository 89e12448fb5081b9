"""The command that applies a trained net to images: classes, objects or a map of classes, by what the net was made for."""

from __future__ import annotations

import inspect
import json as json_module
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..errors import CommandError, InvolutionError
from .classifiers import batches, class_names, visible
from .input_images import InputImages
from .options import find_device
from .output_files import name_outputs, refuse_overwriting

# By the task in the description of a saved net: the module whose ``predict_images`` applies it.
_PREDICTORS = {
    "detection": "involution.commands.predict_detection",
    "segmentation": "involution.commands.predict_segmentation",
}

# What nets of one task alone take: it is handed to them, and refused where the net is another's.
_OPTIONS = {
    "classification": ("weights", "top", "heatmaps"),
    "detection": ("min_score", "labels", "colours"),
    "segmentation": ("window", "scales", "flip"),
}

# By what is laid over the image, where the user names none: masks, classes, heat maps.
_OPACITY = {"detection": 0.45, "segmentation": 0.6, "classification": 0.55}


def predict(
    images: list[str],
    *,
    model: str = "rednet50",
    weights: Path | None = None,
    top: int = 5,
    heatmaps: list[str] | None = None,
    min_score: float = 0.5,
    labels: Literal["names", "scores", "none"] = "names",
    colours: Literal["classes", "instances"] = "classes",
    opacity: float | None = None,
    window: list[int] | None = None,
    scales: list[float] | None = None,
    flip: bool = False,
    out: Path = Path("runs/predict"),
    json: bool = False,
    batch_size: int = 16,
    device: str = "cpu",
    allow_network: bool = False,
) -> None:
    """Apply a trained net to images: print classes, draw objects, or write maps of classes, as the net was made for.

    Args:
        images: image files, and folders that are searched for them.
        model: a folder that ``involution fit`` wrote (``runs/…/model``), a timm name such as ``rednet50``, or a hub
            address such as ``hf-hub:user/model``.
        weights: a checkpoint for a net given by name: safetensors, a training's (``best.ckpt``), or released weights of the
            authors or PaddleClas.
        top: how many classes of an image a classifier prints.
        heatmaps: names of involutions of a classifier whose kernels are drawn, e.g. ``layer3.0.conv2``; ``all`` for
            every one.
        min_score: least score of the objects that a detector draws and prints, from 0 to 1.
        labels: what is written at an object of a detector, where there is room: its name and score, the score alone, or
            nothing.
        colours: whether the classes or the single objects of a detector have colours of their own.
        opacity: of masks, classes or heat maps over the image, from 0 to 1; by default 0.45, 0.6 and 0.55.
        window: height and width of the windows in which a segmentation net sees a large image, e.g. ``512,1024``.
        scales: factors by which a segmentation net sees an image resized, averaged, e.g. ``0.75,1,1.25``.
        flip: let a segmentation net see the flipped image, too.
        out: folder of what is drawn or written.
        json: print one JSON object a line instead of text.
        batch_size: images that pass the net together; a segmentation net takes each alone.
        device: auto, cpu, cuda, cuda:N or mps.
        allow_network: let the description in a folder name an architecture on a hub, which is fetched then.
    """
    from ..data.image_folders import list_images
    from ..models import named

    if top < 1 or batch_size < 1:
        raise CommandError(f"top and batch_size must be at least 1, got {top} and {batch_size}")
    for name, share in (("opacity", opacity), ("min_score", min_score)):
        if share is not None and not 0 <= share <= 1:
            raise CommandError(f"{name} must be from 0 to 1, got {share}")
    given: dict[str, Any] = {
        "weights": weights,
        "top": top,
        "heatmaps": heatmaps,
        "min_score": min_score,
        "labels": labels,
        "colours": colours,
        "window": window,
        "scales": scales,
        "flip": flip,
    }
    try:
        files = list_images(images)
        place = find_device(device)
        described = named.find_described(model, weights, allow_network=allow_network)
        task = "classification" if described is None else described[1].task
        _refuse_options_of_others(task, model, given)
        if described is None and opacity is not None and not heatmaps:
            raise CommandError(
                "--opacity is that of heat maps, for a classifier draws nothing else; add --heatmaps all"
            )
        opacity = _OPACITY[task] if opacity is None else opacity
        if described is not None:
            options = {name: given[name] for name in _OPTIONS[task]}
            if task == "detection":
                options["batch_size"] = batch_size
            common: dict[str, Any] = {"out": out, "json": json, "device": place, "allow_network": allow_network}
            predictor = import_module(_PREDICTORS[task])
            predictor.predict_images(files, described[0], opacity=opacity, **common, **options)
            return
        net = named.classifier(model, weights, allow_network=allow_network).to(place).eval()
        names = class_names(net)
        stems = _stems(files, out) if heatmaps else {}
        read, is_drawn = InputImages(files), False
        for chunk, inputs in batches(net, read, batch_size):
            with torch.inference_mode():
                probabilities = net(inputs.to(place)).softmax(1).cpu()
            answered = []
            for i, file in enumerate(chunk):
                if probabilities[i].isfinite().all():
                    answered.append(i)
                    _print(file, probabilities[i], names, top, json)
                else:
                    read.leave_out_unanswered(file)
            if heatmaps and answered:
                layers = None if heatmaps == ["all"] else heatmaps
                _draw(net, [stems[chunk[i]] for i in answered], inputs[answered].to(place), layers, files, opacity)
                is_drawn = True
    except InvolutionError:
        raise
    except ValueError as error:
        raise CommandError(str(error)) from error
    if is_drawn and not json:
        print(f"heat maps in {out}")
    read.refuse_left_out()


def _refuse_options_of_others(task: str, model: str, given: Mapping[str, Any]) -> None:
    """Refuse options that mean nothing to a net of this task; one with its default value is not told from none.

    Raises:
        CommandError: there is one.
    """
    defaults = inspect.signature(predict).parameters
    for owner, names in _OPTIONS.items():
        for name in names if owner != task else ():
            if given[name] != defaults[name].default:
                raise CommandError(
                    f"--{name.replace('_', '-')} is for {owner} nets, and {model} is a {task} net; leave it out"
                )


def _print(file: Path, probabilities: Tensor, names: Sequence[str], top: int, json: bool) -> None:
    values, classes = probabilities.topk(min(top, len(probabilities)))
    best = [(names[i], p) for p, i in zip(values.tolist(), classes.tolist(), strict=True)]
    if json:
        classes_by_name = [{"class": name, "probability": p} for name, p in best]
        print(json_module.dumps({"image": str(file), "top": classes_by_name}, ensure_ascii=False), flush=True)
    else:
        print(f"{file}: " + ", ".join(f"{name} {100 * p:.1f} %" for name, p in best), flush=True)


def _stems(files: Sequence[Path], out: Path) -> dict[Path, Path]:
    """Return what the names of the pictures of each image begin with, one of its own."""
    return {file: stem for file, (stem,) in zip(files, name_outputs(files, out, ("",)), strict=True)}


def _draw(
    net: nn.Module,
    stems: Sequence[Path],
    inputs: Tensor,
    layers: Sequence[str] | None,
    sources: Sequence[Path],
    opacity: float,
) -> None:
    """Write one picture for an image and a layer: the image as the net sees it, the kernels' heat map over it, its scale."""
    from ..data.images import write_png
    from ..pictures.heatmaps import enlarge, kernel_heat_maps, overlay, with_scale

    stems[0].parent.mkdir(parents=True, exist_ok=True)
    shown = enlarge(visible(inputs))
    for layer, maps in kernel_heat_maps(net, inputs, layers).items():
        targets = [stem.with_name(f"{stem.name}-{layer.replace(':', '-')}.png") for stem in stems]
        refuse_overwriting(targets, sources, "choose another --out")
        for target, image, values in zip(targets, shown, maps.mean(1), strict=True):
            plain = image.expand(3, -1, -1).permute(1, 2, 0)
            picture = torch.cat([plain, overlay(image, values, opacity)], 1)
            write_png(with_scale(picture, values.min().item(), values.max().item()), target)
