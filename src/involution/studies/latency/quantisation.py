"""Static quantisation to int8 after training, by each engine's own tool; what makes and applies kernels stays as it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import DataError
from ...export.sessions import openvino_core
from ...kernel_generation import SpanMatrix
from ...logs import errors_alone
from ...models.named import NamedNet

__all__ = ["calibration_batches", "kernel_weights", "quantise_onnx", "quantise_openvino"]

# Images that ranges are found on.
MOST_IMAGES = 64

# What is quantised besides the products: what stands between two of them, and would go back to floating point else.
_TYPES = ["Conv", "Gemm", "Add", "MaxPool", "GlobalAveragePool"]


def calibration_batches(folder: Path, net: NamedNet, size: tuple[int, int], batch: int) -> list[Tensor]:
    """Read images to calibrate with: at most 64, spread over the folder, each scaled to ``size`` as a whole.

    Args:
        folder: searched for images.
        net: whose normalisation they get.
        size: height and width, in pixels.
        batch: images of a batch; those that fill none are left out.

    Returns:
        Batches ``(batch, C, H, W)``.

    Raises:
        DataError: an image cannot be read, or there are too few.
    """
    # Data sets load what a process that only runs a net does without.
    from torchvision.transforms.functional import normalize, resize, to_tensor

    from ...data.image_folders import list_images
    from ...data.images import read_image

    files = list_images([str(folder)])
    count = min(len(files), max(MOST_IMAGES, batch)) // batch * batch
    if not count:
        raise DataError(f"{folder} holds {len(files)} images, and a batch of {batch} needs {batch}; give more images")
    pixels = []
    for i in range(count):
        image = read_image(files[i * len(files) // count], "L" if net.channels == 1 else "RGB")
        pixels.append(normalize(to_tensor(resize(image, list(size))), list(net.mean), list(net.std)))
    return list(torch.stack(pixels).split(batch))


def kernel_weights(net: nn.Module) -> set[str]:
    """Return the names of the matrices that make kernels, the last step of every φ: they stay in floating point."""
    return {f"{name}.weight" for name, module in net.named_modules() if isinstance(module, SpanMatrix)}


def quantise_onnx(file: Path, floating: set[str], batches: Sequence[Tensor], library: Path | None) -> None:
    """Quantise an ONNX file in place with ONNX Runtime's tool: QDQ form, ranges by minimum and maximum, per channel.

    Args:
        file: as `to_onnx` writes it.
        floating: names of weights whose products stay in floating point.
        batches: of images to calibrate with.
        library: of custom operators, for a file that holds some.
    """
    import onnx
    import onnxruntime
    from onnxruntime.quantization import (
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
        save_tensors_data,
    )
    from onnxruntime.quantization.calibrate import CalibrationDataReader, MinMaxCalibrater

    class Reader(CalibrationDataReader):
        def __init__(self, name: str) -> None:
            self._rest: Iterator[Tensor] = iter(batches)
            self._name = name

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self._rest, None)
            return None if batch is None else {self._name: batch.numpy()}

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

    graph = onnx.load(file, load_external_data=False).graph
    excluded = [node.name for node in graph.node if floating.intersection(node.input)]
    with TemporaryDirectory() as folder:
        calibrater = Calibrater(file, _TYPES, str(Path(folder) / "augmented.onnx"))
        calibrater.augment_graph()
        calibrater.create_inference_session()
        calibrater.collect_data(Reader(graph.input[0].name))
        ranges = Path(folder) / "ranges.json"
        save_tensors_data(calibrater.compute_data(), ranges)
        # Its advice is to prepare by another tool of its own a graph that is prepared here.
        with errors_alone():
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
                calibration_cache_path=ranges,
            )


def quantise_openvino(file: Path, floating: set[str], batches: Sequence[Tensor], extension: Path | None) -> None:
    """Quantise OpenVINO's files in place with NNCF.

    Args:
        file: as `to_openvino` writes it.
        floating: names of weights whose products stay in floating point.
        batches: of images to calibrate with.
        extension: for a file that holds its operators.
    """
    import nncf
    import openvino

    core = openvino_core(extension)
    model = core.read_model(str(file))
    ignored = [node.get_friendly_name() for node in model.get_ordered_ops() if _is_of_kernels(node, floating)]
    quantised = nncf.quantize(
        model,
        nncf.Dataset([batch.numpy() for batch in batches]),
        subset_size=len(batches),
        ignored_scope=nncf.IgnoredScope(names=ignored),
    )
    # The weights of what was read are mapped from the old file.
    target = file.with_stem("quantised")
    openvino.save_model(quantised, str(target), compress_to_fp16=False)
    for ending in (".xml", ".bin"):
        target.with_suffix(ending).replace(file.with_suffix(ending))


def _is_of_kernels(node: Any, floating: set[str]) -> bool:
    """Whether a node makes kernels or applies them: a product with one of these weights, or of two maps."""
    sources = [node.input_value(i).get_node() for i in range(node.get_input_size())]
    if node.get_type_name() == "MatMul":
        return not any(source.get_type_name() == "Constant" for source in sources)
    return any(source.get_friendly_name() in floating for source in sources)
