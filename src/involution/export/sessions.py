"""Exported files in their engines, on the CPU: each opened once, then called with the tensors the model takes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ExportError, missing_package
from .reasons import reason
from .torch_package import load_pt2

__all__ = [
    "Session",
    "flat",
    "onnx_session",
    "open_onnx",
    "open_openvino",
    "open_pt2",
    "openvino_core",
    "openvino_request",
]

# From the inputs, in their order, to the outputs, one after the other.
Session = Callable[[Sequence[Tensor]], list[Tensor]]

# How engines say that they do not know the operators of the domain `involution`: OpenVINO of an ONNX file and of its own,
# ONNX Runtime.
_UNKNOWN_OPERATORS = re.compile(
    r"No conversion rule found for operations:.* involution\.|unsupported opset: involution\b"
    r"|\binvolution:\w+\S* is not a registered"
)
_OWN_OPERATORS = {
    "ONNX Runtime": "library=involution.export.onnx.library()",
    "OpenVINO": "extension=involution.export.openvino.extension()",
}


def flat(outputs: Any) -> list[Tensor]:
    """Return the tensors of what a model returned, one after the other, as exported files give them."""
    if isinstance(outputs, Tensor):
        return [outputs]
    if is_dataclass(outputs):
        outputs = [getattr(outputs, field.name) for field in fields(outputs)]
    elif isinstance(outputs, Mapping):
        outputs = outputs.values()
    elif not isinstance(outputs, (list, tuple)):
        return []
    return [tensor for part in outputs for tensor in flat(part)]


def open_pt2(file: str | Path) -> Session:
    """Load what `to_pt2` wrote.

    Raises:
        ExportError: as `load_pt2`.
    """
    program = load_pt2(file)

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        with torch.no_grad():
            return flat(program(*inputs))

    return run


def open_onnx(file: str | Path, *, threads: int | None = None, library: Path | None = None) -> Session:
    """Load an ONNX file into ONNX Runtime.

    Args:
        file: what `to_onnx` wrote.
        threads: of the session; ONNX Runtime's own choice by default.
        library: of custom operators, for a file that holds some.

    Raises:
        MissingPackageError: onnxruntime is missing.
        ExportError: the file cannot be loaded.
    """
    session = onnx_session(file, threads=threads, library=library)
    names = [value.name for value in session.get_inputs()]

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        arrays = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
        return [torch.from_numpy(output) for output in session.run(None, arrays)]

    return run


def onnx_session(
    file: str | Path, *, threads: int | None = None, library: Path | None = None, profile: Path | None = None
) -> Any:
    """Return ONNX Runtime's session of a file.

    Args:
        file: as `open_onnx`.
        threads: as `open_onnx`.
        library: as `open_onnx`.
        profile: how the names of the files begin that its profiler writes; it profiles where this is given.

    Raises:
        MissingPackageError: as `open_onnx`.
        ExportError: as `open_onnx`.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise missing_package("onnxruntime", "export") from error
    options = onnxruntime.SessionOptions()
    # Warnings of its optimiser say nothing to a user.
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    try:
        if library is not None:
            options.register_custom_ops_library(str(library))
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise _unreadable(file, "ONNX Runtime", error) from error


def open_openvino(
    file: str | Path, *, threads: int | None = None, precision: str = "f32", extension: Path | None = None
) -> Session:
    """Load a file into OpenVINO.

    Args:
        file: what `to_openvino` or `to_onnx` wrote.
        threads: of the engine; OpenVINO's own choice by default.
        precision: what it computes in, ``"f32"`` or ``"bf16"``; inputs and outputs are float32.
        extension: with operators that are not OpenVINO's, for a file that holds some.

    Raises:
        MissingPackageError: openvino is missing.
        ExportError: the file cannot be loaded.
    """
    request = openvino_request(file, threads=threads, precision=precision, extension=extension)

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        outputs = request.infer([tensor.numpy() for tensor in inputs], share_inputs=True, share_outputs=True)
        # Shared with the engine, which writes the next outputs into them.
        return [torch.from_numpy(output) for output in outputs.values()]

    return run


def openvino_request(
    file: str | Path,
    *,
    threads: int | None = None,
    precision: str = "f32",
    extension: Path | None = None,
    profiled: bool = False,
) -> Any:
    """Return OpenVINO's request that runs a file.

    Args:
        file: as `open_openvino`.
        threads: as `open_openvino`.
        precision: as `open_openvino`.
        extension: as `open_openvino`.
        profiled: whether its ``profiling_info`` says how long each node took.

    Raises:
        MissingPackageError: as `open_openvino`.
        ExportError: as `open_openvino`.
    """
    core = openvino_core(extension)
    options: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision,
        "PERF_COUNT": profiled,
    }
    if threads is not None:
        options["INFERENCE_NUM_THREADS"] = threads
    try:
        return core.compile_model(str(file), "CPU", options).create_infer_request()
    except Exception as error:
        raise _unreadable(file, "OpenVINO", error) from error


def openvino_core(extension: Path | None = None) -> Any:
    """Return OpenVINO's core, which knows the operators of ``extension``.

    Raises:
        MissingPackageError: openvino is missing.
        ExportError: the extension cannot be loaded.
    """
    try:
        import openvino
    except ImportError as error:
        raise missing_package("openvino", "export") from error
    core = openvino.Core()
    if extension is not None:
        try:
            core.add_extension(str(extension))
        except RuntimeError as error:
            raise _unreadable(extension, "OpenVINO", error) from error
    return core


def _unreadable(file: str | Path, engine: str, error: BaseException) -> ExportError:
    words, remedy = reason(error), "export the model anew with the installed versions"
    if _UNKNOWN_OPERATORS.search(words):
        remedy = f"give it involution's own operators, {_OWN_OPERATORS[engine]}"
    return ExportError(f"{engine} cannot load {file}: {words}; {remedy}")
