"""Nets as ONNX files of standard operators, which run where neither PyTorch nor this library is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import MissingPackageError
from .programs import captured, refusal, written

__all__ = ["to_onnx", "translations"]


def translations() -> dict[Any, Callable[..., Any]]:
    """Return how involution's operators become ONNX nodes, as ``torch.onnx.export`` takes it.

    An involution becomes one matrix product between pads, reshapes and a gather of opset 18, which every runtime has;
    batch and spatial sizes may be dynamic. Seven pixels of a row share a matrix with zeros outside their kernels, so a
    pixel that is infinite or NaN makes NaN of all seven, if one of them has it in its window. A kernel value over the
    border is multiplied by a zero of the padding instead of being skipped: NaN and infinities there give NaN.

    Raises:
        MissingPackageError: onnx or onnxscript is missing.

    Example:
        >>> import torch
        >>> from involution import Involution2d
        >>> from involution.export import translations
        >>> layer, inputs = Involution2d(16, kernel_size=3).eval(), (torch.randn(1, 16, 8, 8),)
        >>> table = translations()
        >>> program = torch.onnx.export(layer, inputs, dynamo=True, verbose=False, custom_translation_table=table)
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingPackageError(
            f'{error.name} is missing; install it with: pip install "involution[export]"', name=error.name
        ) from error
    from . import onnx_nodes

    return {
        torch.ops.involution.forward.default: onnx_nodes.forward,
        torch.ops.involution.forward_of_span.default: onnx_nodes.forward_of_span,
        torch.ops.involution.kernel_gradient.default: onnx_nodes.kernel_gradient,
    }


def to_onnx(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    file: str | Path,
    *,
    dynamic_shapes: Any = None,
    opset_version: int | None = None,
) -> None:
    """Write ``model`` as an ONNX file of standard operators, whole or not at all.

    Weights are in the file; where they are too many for one, ``torch.onnx`` puts them into ``*.onnx.data`` beside it.
    How involution is said there, and what of NaN: `translations`.

    Args:
        model: any module that holds involutions; it is exported in eval mode, each module is left in the mode it had.
        inputs: example inputs.
        file: where to write, usually ``*.onnx``.
        dynamic_shapes: as ``torch.export.export`` takes them, e.g. ``({0: Dim("batch"), 2: Dim("height")},)``.
        opset_version: passed on to ``torch.onnx.export``.

    Raises:
        MissingPackageError: onnx or onnxscript is missing.
        ExportError: ``model`` cannot be exported, or ``file`` cannot be written.

    Example:
        >>> import torch
        >>> from involution import Involution2d
        >>> from involution.export.onnx import to_onnx
        >>> to_onnx(Involution2d(16, kernel_size=3), (torch.randn(1, 16, 8, 8),), "involution.onnx")
    """
    table, file = translations(), Path(file)
    # Entered first: what cannot be written is known before the work is done.
    with written(file) as partial:
        program = _translated(model, inputs, table, dynamic_shapes, opset_version)
        remove_traces(program)
        program.save(partial)


def _translated(model: nn.Module, inputs: tuple, table: dict, dynamic_shapes: Any, opset_version: int | None) -> Any:
    try:
        program = captured(model, inputs, dynamic_shapes)
        return torch.onnx.export(
            program, dynamo=True, opset_version=opset_version, custom_translation_table=table, verbose=False
        )
    except (TypeError, ValueError):
        # What the model itself says of its inputs.
        raise
    except Exception as error:
        raise refusal(model, "ONNX", error) from error


def remove_traces(program: Any) -> None:
    """Remove what the exporter notes of its own work: most of the file, with paths of this machine."""
    import onnx_ir

    program.model.graph.metadata_props.clear()
    for node in onnx_ir.traversal.RecursiveGraphIterator(program.model.graph):
        node.metadata_props.clear()
