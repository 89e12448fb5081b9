"""Nets as ONNX files: of standard operators, which run anywhere, or with operators of this library's own kernels."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..backends.native import loader
from ..errors import ExportError, missing_package
from ..modules import Involution1d, Involution2d, Involution3d
from .programs import captured, refusal, written

__all__ = ["library", "to_onnx", "translations"]

_OPERATORS = ("standard", "custom")
# The operators that an involution is written in are those of this set on.
_FIRST_OPSET = 18


def translations(operator: str = "standard") -> dict[Any, Callable[..., Any]]:
    """Return how involution's operators become ONNX nodes, as ``torch.onnx.export`` takes it.

    With ``"standard"`` an involution becomes one matrix product between pads, reshapes and a gather of opset 18, which
    every runtime has. Seven pixels of a row share a matrix with zeros outside their kernels, so a pixel that is infinite
    or NaN makes NaN of all seven, if one of them has it in its window. A kernel value over the border is multiplied by a
    zero of the padding instead of being skipped: NaN and infinities there give NaN.

    With ``"custom"`` it becomes one node of the domain ``involution``, for engines that were given this library's
    kernels: ONNX Runtime by `library`, OpenVINO by `involution.export.openvino.extension`. What it computes is what
    PyTorch's operator does, NaN and infinities included. A scale, an offset and a ReLU that the layer took along
    (`involution.fold_batch_norms`) are part of the node if the program was exported without gradients.

    In both, batch and spatial sizes may be dynamic.

    Args:
        operator: ``"standard"`` or ``"custom"``.

    Raises:
        ValueError: ``operator`` is neither.
        MissingPackageError: onnx or onnxscript is missing.

    Example:
        >>> import torch
        >>> from involution import Involution2d
        >>> from involution.export import translations
        >>> layer, inputs = Involution2d(16, kernel_size=3).eval(), (torch.randn(1, 16, 8, 8),)
        >>> table = translations()
        >>> program = torch.onnx.export(layer, inputs, dynamo=True, verbose=False, custom_translation_table=table)
    """
    if operator not in _OPERATORS:
        raise ValueError(f"operator must be one of {', '.join(map(repr, _OPERATORS))}, got {operator!r}")
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise missing_package(error.name, "export") from error
    from . import onnx_nodes, onnx_operators

    nodes: Any = onnx_nodes if operator == "standard" else onnx_operators
    return {
        torch.ops.involution.forward.default: nodes.forward,
        torch.ops.involution.forward_of_span.default: nodes.forward_of_span,
        torch.ops.involution.kernel_gradient.default: nodes.kernel_gradient,
    }


def library() -> Path:
    """Return the file that ONNX Runtime takes for nets with involution's own operators.

    ``SessionOptions.register_custom_ops_library`` takes its name, in Python, C++ and other languages; the operators then
    run on the threads of the session. It needs ONNX Runtime 1.17 or later.

    Raises:
        ExportError: the library was installed without its compiled kernels, or they cannot be loaded.

    Example:
        >>> import torch, onnxruntime
        >>> from involution import Involution2d
        >>> from involution.export.onnx import library, to_onnx
        >>> x = torch.randn(1, 16, 8, 8)
        >>> _ = to_onnx(Involution2d(16), (x,), "involution.onnx", operator="custom")
        >>> options = onnxruntime.SessionOptions()
        >>> options.register_custom_ops_library(str(library()))
        >>> session = onnxruntime.InferenceSession("involution.onnx", options, providers=["CPUExecutionProvider"])
        >>> session.run(None, {session.get_inputs()[0].name: x.numpy()})[0].shape
        (1, 16, 8, 8)
    """
    loaded = loader.found()
    if isinstance(loaded, str):
        raise ExportError(
            f'involution\'s own operators cannot be served: {loaded}; or export with operator="standard", which needs none'
        )
    return loaded.path


def to_onnx(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    file: str | Path,
    *,
    dynamic_shapes: Any = None,
    opset_version: int | None = None,
    operator: str = "standard",
    output_names: Sequence[str] | None = None,
) -> frozenset[str]:
    """Write ``model`` as an ONNX file, whole or not at all.

    Weights are in the file; where they are too many for one, ``torch.onnx`` puts them into ``*.onnx.data`` beside it.
    How involution is said there, and what of NaN: `translations`.

    Args:
        model: any module that holds involutions; it is exported in eval mode, each module is left in the mode it had.
        inputs: example inputs.
        file: where to write, usually ``*.onnx``.
        dynamic_shapes: as ``torch.export.export`` takes them, e.g. ``({0: Dim("batch"), 2: Dim("height")},)``.
        opset_version: of the standard operators, from 18 on.
        operator: ``"standard"`` for a file that runs anywhere, ``"custom"`` for the kernels of this library; see
            `translations`.
        output_names: one for each output, in their order; by default those of the operators that end in them.

    Returns:
        The names of the nodes that involutions became, with the φ of their layers: what to leave in floating point where
        another tool quantises the file.

    Raises:
        ValueError: ``operator`` is neither, ``opset_version`` is below 18, or the outputs do not have a name each.
        MissingPackageError: onnx or onnxscript is missing.
        ExportError: ``model`` cannot be exported, in this ``opset_version`` or at all, or ``file`` cannot be written.

    Example:
        >>> import torch
        >>> from involution import Involution2d
        >>> from involution.export.onnx import to_onnx
        >>> names = to_onnx(Involution2d(16, kernel_size=3), (torch.randn(1, 16, 8, 8),), "involution.onnx")
    """
    if opset_version is not None and opset_version < _FIRST_OPSET:
        raise ValueError(f"opset_version must be at least {_FIRST_OPSET}, got {opset_version}")
    table, file = translations(operator), Path(file)
    # Entered first: what cannot be written is known before the work is done.
    with written(file) as partial:
        program = _translated(model, inputs, table, dynamic_shapes, opset_version)
        # Where it cannot convert to the opset that was asked for, torch.onnx.export leaves another one.
        written_in = program.model.opset_imports[""]
        if opset_version not in (None, written_in):
            raise ExportError(
                f"{type(model).__name__} cannot be exported to ONNX in opset {opset_version}, only in {written_in}; leave "
                "opset_version out, or name one that the installed onnx knows"
            )
        if output_names is not None:
            _name_outputs(program, output_names)
        names = _nodes_of_involutions(program, model)
        remove_traces(program)
        program.save(partial)
    return names


def _nodes_of_involutions(program: Any, model: nn.Module) -> frozenset[str]:
    """Return the names of nodes that lie in an involution's layer, or come of one of this library's operators elsewhere."""
    import onnx_ir

    layers = {
        name for name, module in model.named_modules() if isinstance(module, (Involution1d, Involution2d, Involution3d))
    }
    names = set()
    for node in onnx_ir.traversal.RecursiveGraphIterator(program.model.graph):
        # As the exporter notes them: the modules around a node, from the outermost on, and the call that it comes of.
        scopes = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]"))
        call = node.metadata_props.get("pkg.torch.onnx.fx_node", "")
        if layers.intersection(scopes[:-1]) or "torch.ops.involution." in call:
            names.add(node.name)
    return frozenset(names)


def _name_outputs(program: Any, names: Sequence[str]) -> None:
    outputs = program.model.graph.outputs
    if len(outputs) != len(names) or len({*names}) < len(names):
        raise ValueError(
            f"output_names must have a name of its own for each of the {len(outputs)} outputs, got {tuple(names)}"
        )
    for output, name in zip(outputs, names, strict=True):
        output.name = name


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
