"""Static quantisation to int8 after training, by each engine's own tool; involutions stay as they are, φ included."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from ..errors import ExportError
from ..logs import errors_alone
from .reasons import reason
from .sessions import openvino_core

__all__ = ["calibration_sets", "check_calibration", "quantise"]

# Products, and what stands between two of them and would go back to floating point else.
_PRODUCTS = ["Conv", "Gemm", "MatMul"]
_TYPES = [*_PRODUCTS, "Add", "Clip", "MaxPool", "Relu"]


def calibration_sets(given: Any) -> list[tuple[Tensor, ...]]:
    """Return a list of tuples of tensors, of whatever they are given in.

    Raises:
        TypeError: it is something else.
    """
    if isinstance(given, Tensor | str) or not isinstance(given, Iterable):
        raise TypeError(f"calibration must be a list of tuples of tensors, such as [(x,)], got {type(given).__name__}")
    sets = list(given)
    for one in sets:
        if not isinstance(one, tuple) or not all(isinstance(value, Tensor) for value in one):
            raise TypeError(
                f"calibration must be a list of tuples of tensors, such as [(x,)], got {type(one).__name__} in it"
            )
    return sets


def check_calibration(inputs: tuple[Tensor, ...], calibration: Sequence[tuple[Tensor, ...]]) -> None:
    """Refuse inputs to calibrate with that the exported file does not take, or that give no ranges.

    Raises:
        ValueError: their shapes or types are not those of ``inputs``, or they are not finite.
        ExportError: ``inputs`` are in another precision than float32.
    """
    if calibration and any(value.is_floating_point() and value.dtype != torch.float32 for value in inputs):
        raise ExportError("int8 is made of a model in float32; convert it and its inputs with .float()")
    expected = _described(inputs)
    for given in calibration:
        if _described(given) != expected:
            raise ValueError(
                f"calibration must have the shapes and types of inputs, {expected}, got {_described(given)}"
            )
        if not all(value.isfinite().all() for value in given):
            raise ValueError("calibration has values that are infinite or no numbers; leave those inputs out")


def _described(inputs: tuple[Tensor, ...]) -> str:
    return ", ".join(f"{tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}" for value in inputs)


def quantise(
    format: str,
    file: Path,
    involutions: Collection[str],
    calibration: Sequence[tuple[Tensor, ...]],
    own_operators: Path | None,
) -> None:
    """Let a file compute in int8.

    Args:
        format: ``"onnx"`` or ``"openvino"``.
        file: as `to_onnx` or `to_openvino` writes it, changed in place.
        involutions: names of the nodes, in ONNX, that stay in floating point.
        calibration: inputs that ranges are found on.
        own_operators: the library of this library's operators, for a file that holds some.

    Raises:
        ExportError: the engine's tool fails, or there is nothing in the file that could be int8.
    """
    of_format = {"onnx": _quantise_onnx, "openvino": _quantise_openvino}[format]
    try:
        changed = of_format(file, involutions, calibration, own_operators)
    except Exception as error:
        raise ExportError(f"int8 cannot be made of it: {reason(error)}") from error
    if not changed:
        raise ExportError("it has no convolution or linear layer besides its involutions that could be int8")


def _quantise_onnx(
    file: Path, involutions: Collection[str], calibration: Sequence[tuple[Tensor, ...]], library: Path | None
) -> bool:
    """Quantise by ONNX Runtime's tool: QDQ form, ranges by minimum and maximum, per channel; return whether anything was."""
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    graph = onnx.load(file, load_external_data=False).graph
    constants = {constant.name for constant in graph.initializer}
    outputs = {value.name for value in graph.output}
    kept = {
        node.name
        for node in graph.node
        if node.name in involutions
        # Products of two maps, as in attention, stay in floating point, too.
        or (node.op_type == "MatMul" and not constants.intersection(node.input))
        # ONNX Runtime 1.31 cuts a map to the range of the activation that reads it, though it be an output, too.
        or (node.op_type in ("Clip", "Relu") and node.input[0] in outputs)
    }
    if not any(node.op_type in _PRODUCTS and node.name not in kept for node in graph.node):
        return False
    # Its advice is to prepare by another tool of its own a graph that is prepared here.
    with TemporaryDirectory() as folder, errors_alone():
        quantize_static(
            file,
            file,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=_TYPES,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=sorted(kept),
            calibrate_method=CalibrationMethod.MinMax,
            calibration_cache_path=_ranges_of_onnx(file, calibration, library, Path(folder)),
        )
    return True


def _ranges_of_onnx(file: Path, calibration: Sequence[tuple[Tensor, ...]], library: Path | None, folder: Path) -> Path:
    """Return a file in ``folder`` of the least and the largest value of every map, as ONNX Runtime finds and writes them.

    ``quantize_static`` finds them itself, and knows no operators but its own.
    """
    import onnxruntime
    from onnxruntime.quantization import save_tensors_data
    from onnxruntime.quantization.calibrate import CalibrationDataReader, MinMaxCalibrater

    class Reader(CalibrationDataReader):
        def __init__(self, names: Sequence[str]) -> None:
            self._rest: Iterator[tuple[Tensor, ...]] = iter(calibration)
            self._names = names

        def get_next(self) -> dict[str, Any] | None:
            inputs = next(self._rest, None)
            if inputs is None:
                return None
            return {name: value.detach().numpy() for name, value in zip(self._names, inputs, strict=True)}

    class Calibrater(MinMaxCalibrater):
        # As ONNX Runtime's, with the library.
        def create_inference_session(self) -> None:
            options = onnxruntime.SessionOptions()
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            options.log_severity_level = 3
            if library is not None:
                options.register_custom_ops_library(str(library))
            self.infer_session = onnxruntime.InferenceSession(
                str(self.augmented_model_path), options, providers=["CPUExecutionProvider"]
            )

    calibrater = Calibrater(file, _TYPES, str(folder / "augmented.onnx"))
    calibrater.augment_graph()
    calibrater.create_inference_session()
    calibrater.collect_data(Reader([value.name for value in calibrater.infer_session.get_inputs()]))
    ranges = folder / "ranges.json"
    save_tensors_data(calibrater.compute_data(), ranges)
    return ranges


def _quantise_openvino(
    file: Path, involutions: Collection[str], calibration: Sequence[tuple[Tensor, ...]], extension: Path | None
) -> bool:
    """Quantise by NNCF, and return whether anything was."""
    import openvino

    nncf = _nncf()
    core = openvino_core(extension)
    model = core.read_model(str(file))
    kept = [node.get_friendly_name() for node in model.get_ordered_ops() if _is_kept(node, involutions)]
    # It says of every involution that it is left alone, and draws its progress where a program's output may be read.
    with errors_alone("nncf"), redirect_stdout(sys.stderr):
        quantised = nncf.quantize(
            model,
            nncf.Dataset([[value.detach().numpy() for value in inputs] for inputs in calibration]),
            subset_size=len(calibration),
            ignored_scope=nncf.IgnoredScope(names=kept, validate=False),
        )
    # The weights of what was read are mapped from the old file.
    with TemporaryDirectory(dir=file.parent) as folder:
        target = Path(folder) / file.name
        openvino.save_model(quantised, str(target), compress_to_fp16=False)
        for ending in (".xml", ".bin"):
            target.with_suffix(ending).replace(file.with_suffix(ending))
    return any(node.get_type_name() == "FakeQuantize" for node in quantised.get_ordered_ops())


def _nncf() -> Any:
    """Import NNCF so that it does not send statistics of its use to its makers, which it does elsewhere unless it is told."""
    before = os.environ.get("NNCF_CI")
    os.environ["NNCF_CI"] = "1"
    try:
        import nncf
    finally:
        if before is None:
            del os.environ["NNCF_CI"]
        else:
            os.environ["NNCF_CI"] = before
    return nncf


def _is_kept(node: Any, involutions: Collection[str]) -> bool:
    """Whether a node stays in floating point: a part of an involution, or a product of two maps."""
    # Of what OpenVINO makes several nodes, the last has the name and others the name with an ending.
    if node.get_friendly_name().partition("/")[0] in involutions:
        return True
    sources = [node.input_value(i).get_node() for i in range(node.get_input_size())]
    return node.get_type_name() == "MatMul" and not any(source.get_type_name() == "Constant" for source in sources)
