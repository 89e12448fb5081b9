"""Nets by what a command line calls them: a name of timm, a folder that a training left, or an address of the hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from safetensors import SafetensorError
from torch import Tensor, nn

from ..errors import CheckpointError, InvolutionError, in_one_line
from . import checkpoints, hub, saved  # checkpoints registers RedNet

__all__ = ["NamedNet", "classifier", "find_described", "load"]

# Of nets that take images of any size and were trained on such.
_ANY_SIZE = (512, 512)
# What timm and the readers of files raise with a reason.
_REASONS = (RuntimeError, OSError, ValueError, SafetensorError)
# Of files of weights.
_ENDINGS = (".ckpt", ".safetensors", ".pth", ".pt", ".pdparams")


@dataclass(frozen=True)
class NamedNet:
    """A net in evaluation mode that takes one batch of images of equal size, and what it expects of them.

    Attributes:
        net: from images ``(B, C, H, W)`` to logits; of a detector, the backbone with its neck, from images to the levels
            by name.
        channels: C.
        size: H and W that it was trained or evaluated on.
        mean: per channel, to be subtracted from pixels from 0 to 1.
        std: per channel, to be divided by.
        left_out: what of the whole net ``net`` lacks, in a sentence or two; empty where it lacks nothing.
    """

    net: nn.Module
    channels: int
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    left_out: str = ""


def find_described(
    model: str, weights: str | Path | None = None, *, allow_network: bool = False
) -> tuple[Path, saved.Description] | None:
    """Return folder and description of a detector or a segmentation net; None where the name means a classifier.

    Args:
        model, weights, allow_network: as in `classifier`.

    Raises:
        CheckpointError: the description is damaged, or names a place in a network while ``allow_network`` is false.
    """
    folder = hub.find_folder(model) if weights is None or Path(model).is_dir() else None
    description = saved.describe(folder, allow_network=allow_network) if folder else None
    return None if folder is None or description is None else (folder, description)


def load(model: str, weights: str | Path | None = None) -> NamedNet:
    """Load a net for images that are one tensor, whatever it was made for.

    Args:
        model: a folder that ``involution fit`` wrote, a name of timm such as ``rednet50``, or an address of the hub such
            as ``hf-hub:user/model``.
        weights: as in `classifier`.

    Raises:
        CheckpointError: the net is unknown, has no weights, or the weights are another net's.

    Example:
        >>> from involution.models import named
        >>> net = named.load("rednet26", "random")
        >>> net.channels, net.size
        (3, (224, 224))
    """
    described = find_described(model, weights)
    if described is None:
        net: Any = classifier(model, weights).eval()
        config = timm.data.resolve_data_config(model=net)
        channels, *size = config["input_size"]
        return NamedNet(net, channels, (size[0], size[1]), tuple(config["mean"]), tuple(config["std"]))
    if weights is not None:
        raise CheckpointError(f"{model} has its own weights; leave out --weights, which is for nets given by name")
    whole: Any
    whole, description = saved.load(described[0])
    if description.task == "detection":
        transform = whole.transform
        sides = (int(transform.min_size[-1]), int(transform.max_size))
        step = int(transform.size_divisible)
        height, width = (-(-side // step) * step for side in sides)
        left_out = (
            "A detector's proposals and post-processing depend on what is found in an image and are left out: the net is its "
            "backbone with the neck, and gives the levels of its pyramid."
        )
        return NamedNet(whole.backbone, 3, (height, width), description.mean, description.std, left_out)
    size = description.details.get("image_size") or _ANY_SIZE
    left_out = "The choice of a class is left out: enlarge the logits to the image's own size, and take the largest of each pixel."
    return NamedNet(whole, len(description.mean), (size[0], size[1]), description.mean, description.std, left_out)


def classifier(model: str, weights: str | Path | None = None, *, allow_network: bool = False) -> nn.Module:
    """Load one of timm's nets.

    Args:
        model: a folder that ``involution fit`` wrote, a name of timm, or an address of the hub.
        weights: a checkpoint for a net given by name (its state dict, one of a training of it, which says how images are
            seen and what the classes are called, or released weights of the authors or PaddleClas), or ``"random"`` for
            weights as a training would start from; by default those of the folder or of timm.
        allow_network: let the description in a folder name an architecture on a hub, which is fetched then.

    Raises:
        CheckpointError: the net is unknown, has no weights, the weights are another net's or no finite numbers, or a
            folder's description is damaged or names a place in a network while ``allow_network`` is false.
    """
    net = _made_classifier(model, weights, allow_network)
    checkpoints.refuse_not_finite(net.state_dict(), weights or model)
    return net


def _made_classifier(model: str, weights: str | Path | None, allow_network: bool) -> nn.Module:
    try:
        if weights == "random":
            return timm.create_model(model)
        if weights is not None:
            return _with_weights(model, weights)
        _refuse_no_folder(model)
        if Path(model).is_dir():
            saved.check_classifier(model, allow_network=allow_network)
            return timm.create_model(f"local-dir:{Path(model)}", pretrained=True)
        return timm.create_model(model, pretrained=True)
    except InvolutionError:
        raise
    except Exception as error:
        # Over a network the hub's package has errors of its own.
        if not model.startswith(hub.PREFIX) and not isinstance(error, _REASONS):
            raise
        reason = in_one_line(error).rstrip(".")
        raise CheckpointError(
            f"{model} cannot be loaded: {reason}; give --weights, or as --model a folder that involution fit wrote"
        ) from error


def _refuse_no_folder(model: str) -> None:
    """Refuse a path at which there is no folder, which timm would take for an address of the hub.

    Raises:
        CheckpointError: there is a file, or nothing.
    """
    # Names of timm's, and addresses, which have a scheme in front.
    if timm.is_model(model) or ":" in model or Path(model).is_dir():
        return
    if Path(model).is_file():
        raise CheckpointError(
            f"{model} is a file; give as --model the folder RUN/model of its training, or the name of its net, such as "
            "rednet26, with this file as --weights"
        )
    if "/" in model or Path(model).suffix in _ENDINGS:
        raise CheckpointError(
            f"there is no folder {model}; name one that involution fit wrote, which a training has at its end as RUN/model, "
            "or a net of the hub as hf-hub:USER/NAME"
        )


def _with_weights(model: str, file: str | Path) -> nn.Module:
    """Return the net of this name with the weights in ``file``, and with as many classes as they have."""
    if not timm.is_model(model):
        raise CheckpointError(
            f"{model} is no net that timm knows, and weights in a file are for nets given by name; name one, such as "
            "rednet26, or leave out --weights"
        )
    state, data = checkpoints.read_with_data(file)
    state = checkpoints.under_our_names(state)
    try:
        # Of some nets more than the number of classes is read off the weights.
        known = checkpoints.to_timm(state)
    except CheckpointError:
        known = None
    if known is not None and known.model == model.partition(".")[0]:
        arguments = known.arguments
    else:
        arguments = {"num_classes": _classes(model, state)}
    net = timm.create_model(model, **arguments)
    problems = checkpoints.misfit(state, net.state_dict(), listed=5)
    if problems:
        remedy = f"name {known.model}, whose weights they are" if known else "name the net whose weights they are"
        raise CheckpointError(f"the weights in {file} do not fit {model}: {problems}; {remedy}")
    net.load_state_dict(state)
    # Where a file does not name its classes, those of the weights that timm has under this name may be others.
    config = {key: value for key, value in net.pretrained_cfg.items() if key != "label_names"}
    net.pretrained_cfg = {**config, **data.seen, **({"label_names": data.class_names} if data.class_names else {})}
    return net


def _classes(model: str, state: Mapping[str, Tensor]) -> int:
    """Return the number of outputs of the classifier in weights of a net; 0 where they have none."""
    classifier = getattr(timm.models.get_pretrained_cfg(model), "classifier", None)
    # Of some nets they are two, with as many outputs each.
    name = classifier[0] if isinstance(classifier, (tuple, list)) else classifier
    weight = state.get(f"{name}.weight")
    return 0 if weight is None else len(weight)
