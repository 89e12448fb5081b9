"""The command that brings weights from elsewhere here, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ..models import checkpoints, layer_checkpoints
from ..models.trained_data import TrainedData
from .output_files import refuse_overwriting

# The ending of PaddlePaddle's files.
_PADDLE = ".pdparams"


def convert(
    checkpoint: Path, out: Path, *, layout: checkpoints.Layout | Literal["layers"] = "timm", quiet: bool = False
) -> None:
    """Convert the weights of a RedNet or a SAN between this library, their authors' code and PaddleClas.

    Args:
        checkpoint: what to read; whose names it uses is seen from its keys. ``.pth``, ``.safetensors``, ``.pdparams``, or
            the ``.ckpt`` of a training.
        out: what to write, by its ending ``.safetensors``, ``.pdparams`` or ``.pth``.
        layout: whose names to write: ``timm`` (ours), ``openmmlab`` (RedNet's authors' mmcls, mmdet and mmseg code),
            ``paddle`` (PaddleClas) or ``san`` (SAN's authors' code); ``layers`` for a net of yours, in which the authors'
            or ChristophReich1996's involutions get the names of ours and all else keeps its own.
        quiet: print the summary without the report of every key.

    Raises:
        CheckpointError: the weights cannot be read or written, or are no RedNet's and no SAN's; with ``layers``, there
            are no involutions among them.
        CommandError: the weights would be written over what is read.
    """
    refuse_overwriting([out], [checkpoint], "name another file to write")
    if layout == "layers":
        _convert_layers(checkpoint, out, quiet)
        return
    read, data = checkpoints.read_with_data(checkpoint)
    converted = checkpoints.to_timm(read)
    metadata = {"architecture": converted.model, **{k: str(v) for k, v in converted.arguments.items()}}
    state = checkpoints.from_timm(converted.state, layout)
    checkpoints.write(state, out, metadata, data)
    if not quiet:
        for key, name in converted.renamed.items():
            print(f"{key} -> {name} {tuple(converted.state[name].shape)}")
        for key in converted.left_out:
            print(f"{key} left out: it belongs to no RedNet")
    arguments = "".join(f", {name}={value!r}" for name, value in converted.arguments.items())
    print(f"{len(state)} tensors written to {out}, {len(converted.left_out)} left out")
    _tell_what_is_lost(data, out)
    # NumPy's arrays, which timm does not read.
    if layout == "timm" and out.suffix != _PADDLE:
        print(f'timm.create_model("{converted.model}"{arguments}, checkpoint_path="{out}")')


def _tell_what_is_lost(data: TrainedData, out: Path) -> None:
    """Say what the file does not hold of the data that the weights were trained on."""
    if out.suffix == _PADDLE and (data.class_names or data.seen):
        seen = ", ".join(f"{name} {value}" for name, value in data.seen.items())
        print(f"left out, for {_PADDLE} holds weights alone: classes {', '.join(data.class_names)}; images with {seen}")


def _convert_layers(checkpoint: Path, out: Path, quiet: bool) -> None:
    read, data = checkpoints.read_with_data(checkpoint)
    converted = layer_checkpoints.to_ours(read)
    checkpoints.write(converted.state, out, data=data)
    if not quiet:
        for key, name in converted.renamed.items():
            print(f"{key} -> {name}")
        for layer in converted.layers:
            print(
                f"{layer.name or 'the layer'}: {layer.in_channels} to {layer.out_channels} channels, "
                f"{layer.hidden_channels} hidden, K²·G = {layer.rows}"
            )
    for note in converted.notes:
        print(note)
    _tell_what_is_lost(data, out)
    print(f"{len(converted.state)} tensors written to {out}, {len(converted.layers)} involutions renamed")
