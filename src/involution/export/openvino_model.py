"""Nets as OpenVINO's files, ``*.xml`` with the weights in ``*.bin`` beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor, nn

from ..errors import ExportError
from .onnx import to_onnx
from .openvino import extension
from .programs import refusal, written
from .sessions import openvino_core

__all__ = ["to_openvino"]


def to_openvino(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    file: str | Path,
    *,
    dynamic_shapes: Any = None,
    operator: str = "standard",
    output_names: Sequence[str] | None = None,
) -> frozenset[str]:
    """Write ``model`` as OpenVINO's files, ``file`` and the weights beside it, in float32, whole or not at all.

    Args:
        model: as in `to_onnx`.
        inputs: example inputs.
        file: where to write, ``*.xml``; the weights go to ``*.bin`` beside it.
        dynamic_shapes: as ``torch.export.export`` takes them, e.g. ``({0: Dim("batch"), 2: Dim("height")},)``.
        operator: ``"standard"`` for operators that OpenVINO has, ``"custom"`` for this library's, which it has with the
            extension alone (``openvino.Core().add_extension``).
        output_names: as in `to_onnx`.

    Returns:
        As `to_onnx`; where OpenVINO makes several nodes of one, their names begin with that and a stroke.

    Raises:
        ValueError: the outputs do not have a name each.
        MissingPackageError: openvino, onnx or onnxscript is missing.
        ExportError: ``model`` cannot be exported, ``file`` cannot be written, or the extension cannot be made.
    """
    file = Path(file)
    if file.suffix != ".xml":
        raise ExportError(f"cannot write {file}: OpenVINO reads such a file only by the ending .xml; name it *.xml")
    core = openvino_core(extension() if operator == "custom" else None)
    import openvino

    with written(file) as partial, TemporaryDirectory() as folder:
        source = Path(folder) / "model.onnx"
        names = to_onnx(
            model, inputs, source, dynamic_shapes=dynamic_shapes, operator=operator, output_names=output_names
        )
        try:
            # In the precision it has: by default OpenVINO writes weights in float16.
            openvino.save_model(core.read_model(str(source)), str(partial), compress_to_fp16=False)
        except RuntimeError as error:
            raise refusal(model, "OpenVINO", error) from error
    return names
