"""What every format begins with: a model captured as a program, and a file that is written whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from ..counting import in_evaluation
from ..errors import ExportError
from ..files import replaced_files
from .reasons import reason

__all__ = ["captured", "image_shapes", "refusal", "written"]


def captured(model: nn.Module, inputs: tuple[Tensor, ...], dynamic_shapes: Any = None) -> ExportedProgram:
    """Return ``model`` in evaluation as a program for inference, in which an involution takes its epilogue along.

    Args:
        model: any module; each of its modules is left in the mode it had.
        inputs: example inputs.
        dynamic_shapes: as ``torch.export.export`` takes them.
    """
    # A tensor that is given twice would be one input to torch.export.
    inputs = tuple(
        value.clone() if any(value is one for one in inputs[:i]) else value for i, value in enumerate(inputs)
    )
    # With gradients, scale, offset and ReLU after an involution would be steps of their own.
    with in_evaluation(model), torch.no_grad():
        return torch.export.export(model, inputs, dynamic_shapes=dynamic_shapes)


def image_shapes(*, multiple: int = 1, least: int = 64) -> tuple[dict[int, Any], ...]:
    """Return the ``dynamic_shapes`` of a net of one input, images of any batch, height and width.

    Args:
        multiple: of which height and width are multiples; some nets branch by sizes that their strides do not divide.
        least: smallest height and width in pixels, and at least two multiples: the coarsest map must have more than one
            pixel, for which 64 is enough at a stride of 32.
    """
    dimensions: dict[int, Any] = {0: torch.export.Dim("batch")}
    for axis, name in ((2, "height"), (3, "width")):
        # A size of 1 is a constant to torch.export, for it is broadcast.
        side = torch.export.Dim(name, min=max(2, -(-least // multiple)))
        dimensions[axis] = side if multiple == 1 else multiple * side
    return (dimensions,)


@contextmanager
def written(file: Path) -> Iterator[Path]:
    """Give a path to write to, whose file and those beside it come into the folder of ``file`` when the block ends.

    Raises:
        ExportError: ``file`` cannot be written, which is known before the block begins.
    """
    try:
        if file.is_dir() or not file.parent.is_dir():
            problem = "it is a folder" if file.is_dir() else f"there is no folder {file.parent}"
            raise ExportError(f"cannot write {file}: {problem}; name a file in a folder that exists")
        with replaced_files(file.parent) as partial:
            yield partial / file.name
    except OSError as error:
        raise ExportError(
            f"cannot write {file}: {error.strerror or error}; name a folder that can be written"
        ) from error


def refusal(model: nn.Module, target: str, error: BaseException) -> ExportError:
    """Return what is said of a model that cannot be exported.

    Args:
        model: the model.
        target: what it was to become, e.g. ``"ONNX"``.
        error: what the exporter raised; the error that all others were raised from is quoted.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    words = reason(error)
    if words.startswith("Constraints violated"):
        return ExportError(
            f"{type(model).__name__} cannot be exported to {target} for any size, because it branches by sizes; export it "
            "for multiples of its largest stride (image_shapes(multiple=32), --multiple 32), for larger images alone, or for "
            "one size"
        )
    return ExportError(
        f"{type(model).__name__} cannot be exported to {target}: {words}; replace what does that, or export the part of "
        "the model without it"
    )
