"""The command that brings weights from elsewhere here, and back."""

from __future__ import annotations

from pathlib import Path

from ..models import checkpoints
from .output_files import refuse_overwriting


def convert(checkpoint: Path, out: Path, *, layout: checkpoints.Layout = "timm", quiet: bool = False) -> None:
    """Convert the weights of a RedNet or a SAN between this library, their authors' code and PaddleClas.

    Args:
        checkpoint: what to read; whose names it uses is seen from its keys. ``.pth``, ``.safetensors``, ``.pdparams``.
        out: what to write, by its ending ``.safetensors``, ``.pdparams`` or ``.pth``.
        layout: whose names to write: ``timm`` (ours), ``openmmlab`` (RedNet's authors' mmcls, mmdet and mmseg code),
            ``paddle`` (PaddleClas) or ``san`` (SAN's authors' code).
        quiet: print the summary without the report of every key.

    Raises:
        CheckpointError: the weights cannot be read or written, or are no RedNet's and no SAN's.
        CommandError: the weights would be written over what is read.
    """
    refuse_overwriting([out], [checkpoint], "name another file to write")
    converted = checkpoints.to_timm(checkpoints.read(checkpoint))
    metadata = {"architecture": converted.model, **{k: str(v) for k, v in converted.arguments.items()}}
    state = checkpoints.from_timm(converted.state, layout)
    checkpoints.write(state, out, metadata)
    if not quiet:
        for key, name in converted.renamed.items():
            print(f"{key} -> {name} {tuple(converted.state[name].shape)}")
        for key in converted.left_out:
            print(f"{key} left out: it belongs to no RedNet")
    arguments = "".join(f", {name}={value}" for name, value in converted.arguments.items())
    print(f"{len(state)} tensors written to {out}, {len(converted.left_out)} left out")
    if layout == "timm":
        print(f'timm.create_model("{converted.model}"{arguments}, checkpoint_path="{out}")')
