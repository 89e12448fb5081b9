"""Static quantisation to int8 after training, by each engine's own tool; what makes and applies kernels stays as it is."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor, nn

from ..kernel_generation import SpanMatrix
from ..logs import errors_alone
from .sessions import openvino_core

__all__ = ["kernel_weights", "quantise_onnx", "quantise_openvino"]

# What is quantised besides the products: what stands between two of them, and would go back to floating point else.
_TYPES = ["Conv", "Gemm", "Add", "MaxPool", "GlobalAveragePool"]


def kernel_weights(net: nn.Module) -> set[str]:
    """Return the names of the matrices that make kernels, the last step of every φ: they stay in floating point."""
    return {f"{name}.weight" for name, module in net.named_modules() if isinstance(module, SpanMatrix)}


def quantise_onnx(
    file: Path, floating: set[str], calibration: Sequence[tuple[Tensor, ...]], library: Path | None
) -> None:
    """Quantise an ONNX file in place with ONNX Runtime's tool: QDQ form, ranges by minimum and maximum, per channel.

    Args:
        file: as `to_onnx` writes it.
        floating: names of weights whose products stay in floating point.
        calibration: inputs that ranges are found on.
        library: of custom operators, for a file that holds some.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    graph = onnx.load(file, load_external_data=False).graph
    constants = {constant.name for constant in graph.initializer}
    # What is added to an involution's product is one constant a channel: the product is in floating point, and so is the sum.
    excluded = [
        node.name
        for node in graph.node
        if floating.intersection(node.input) or (node.op_type == "Add" and constants.intersection(node.input))
    ]
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
            nodes_to_exclude=excluded,
            calibrate_method=CalibrationMethod.MinMax,
            calibration_cache_path=_ranges_of_onnx(file, calibration, library, Path(folder)),
        )


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
            return {name: value.numpy() for name, value in zip(self._names, inputs, strict=True)}

    class Calibrater(MinMaxCalibrater):
        # As ONNX Runtime's, with the library.
        def create_inference_session(self) -> None:
            options = onnxruntime.SessionOptions()
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
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


def quantise_openvino(
    file: Path, floating: set[str], calibration: Sequence[tuple[Tensor, ...]], extension: Path | None
) -> None:
    """Quantise OpenVINO's files in place with NNCF.

    Args:
        file: as `to_openvino` writes it.
        floating: names of weights whose products stay in floating point.
        calibration: inputs that ranges are found on.
        extension: for a file that holds its operators.
    """
    import openvino

    nncf = _nncf()
    core = openvino_core(extension)
    model = core.read_model(str(file))
    ignored = [node.get_friendly_name() for node in model.get_ordered_ops() if _is_of_kernels(node, floating)]
    # It says of every involution that it is left alone.
    with errors_alone("nncf"):
        quantised = nncf.quantize(
            model,
            nncf.Dataset([[value.numpy() for value in inputs] for inputs in calibration]),
            subset_size=len(calibration),
            ignored_scope=nncf.IgnoredScope(names=ignored),
        )
    # The weights of what was read are mapped from the old file.
    target = file.with_stem("quantised")
    openvino.save_model(quantised, str(target), compress_to_fp16=False)
    for ending in (".xml", ".bin"):
        target.with_suffix(ending).replace(file.with_suffix(ending))


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


def _is_of_kernels(node: Any, floating: set[str]) -> bool:
    """Whether a node makes kernels or applies them: a product with one of these weights, or of two maps."""
    sources = [node.input_value(i).get_node() for i in range(node.get_input_size())]
    if node.get_type_name() == "MatMul":
        return not any(source.get_type_name() == "Constant" for source in sources)
    return any(source.get_friendly_name() in floating for source in sources)
