"""One function for every format: a file that is only there when its engine gives what PyTorch gives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..counting import in_evaluation
from ..errors import ExportError, MissingPackageError, missing_package
from .onnx import library, to_onnx
from .openvino import extension
from .openvino_model import to_openvino
from .programs import written
from .quantisation import calibration_sets, check_calibration, quantise
from .reasons import reason
from .sessions import Session, flat, open_onnx, open_openvino, open_pt2
from .torch_package import to_pt2

__all__ = ["ENDINGS", "Format", "Parity", "check_folding", "check_options", "difference", "export"]

Format = Literal["pt2", "onnx", "openvino"]

ENDINGS: dict[str, str] = {"pt2": ".pt2", "onnx": ".onnx", "openvino": ".xml"}
_ENGINES = {"pt2": "PyTorch", "onnx": "ONNX Runtime", "openvino": "OpenVINO"}

# Largest relative difference that rounding explains, over a net of a hundred layers.
_TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
# What int8 loses of the largest output, on images that it was calibrated on; above it the net is hardly the same.
_TOLERANCE_OF_INT8 = 0.2
# Of the largest output, where norms are folded.
_ROUNDING_OF_FOLDING = 1e-3


@dataclass(frozen=True)
class Parity:
    """How a file was compared with PyTorch.

    Attributes:
        engine: the engine with its version.
        differences: for inputs of each shape that shape as text, and the largest difference of an output over the largest
            value of that output.
        unchecked: why nothing was compared, in a few words; empty where it was.
        agreement: share of the places (images, or pixels of each) at which the channel with the first output's largest value
            is PyTorch's; None where that output has no channels to choose from, ``(B, C, …)`` with more than one.
    """

    engine: str
    differences: tuple[tuple[str, float], ...]
    unchecked: str = ""
    agreement: float | None = None

    def __str__(self) -> str:
        if self.unchecked:
            return f"not compared with PyTorch: {self.unchecked}"
        found = ", ".join(f"{value:.1e} at {shapes}" for shapes, value in self.differences)
        return f"largest relative difference of {self.engine} from PyTorch: {found}"


def export(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    file: str | Path,
    *,
    format: Format = "onnx",
    dynamic_shapes: Any = None,
    others: Sequence[tuple[Tensor, ...]] = (),
    calibration: Sequence[tuple[Tensor, ...]] = (),
    tolerance: float | None = None,
    operator: str = "standard",
    opset_version: int | None = None,
    compiled: bool = True,
    output_names: Sequence[str] | None = None,
) -> Parity:
    """Write ``model`` for an engine, run the file there, and keep it only if it gives what PyTorch gives.

    With ``calibration`` the file computes in int8: convolutions, linear layers and what lies between them, by the engine's own
    tool (ONNX Runtime's ``quantize_static``, NNCF for OpenVINO). Involutions stay in floating point, with their φ. Fold norms
    before (`involution.fold_batch_norms`).

    Args:
        model: any module; it is exported in eval mode for inference, each module is left in the mode it had.
        inputs: example inputs.
        file: where to write, ``*.pt2``, ``*.onnx`` or ``*.xml``.
        format: ``"pt2"`` as `to_pt2`, ``"onnx"`` as `to_onnx`, ``"openvino"`` as `to_openvino`.
        dynamic_shapes: as ``torch.export.export`` takes them; `image_shapes` makes those of images.
        others: further inputs to compare, of other sizes where shapes are dynamic.
        calibration: sets of inputs that the ranges of int8 are found on, each a tuple of the sizes and types of ``inputs``:
            tens of images, normalised as the model is to see them. Without any the file computes in floating point.
        tolerance: largest relative difference; by default what rounding explains (1e-4 for float32), and 0.2 for int8.
        operator: of ONNX and OpenVINO: ``"standard"``, or ``"custom"`` for this library's own.
        opset_version: of ONNX.
        compiled: of a ``.pt2`` file, whether AOTInductor compiles it.
        output_names: of ONNX and OpenVINO, one for each output, in their order; a ``.pt2`` file has none.

    Returns:
        The comparison, or why there was none: the engine is not installed.

    Raises:
        TypeError: ``inputs`` is no tuple of tensors, or ``calibration`` no list of such.
        ValueError: an argument is unknown, or of another format, or calibration inputs are not like ``inputs``.
        MissingPackageError: what writes the format, or makes int8 of it, is missing.
        ExportError: ``model`` cannot be exported, ``file`` cannot be written, the engine does not load it or gives
            something else, nothing of it can be int8, or the inputs are of a type that the engine cannot be compared in.

    Example:
        >>> import torch
        >>> from involution import Involution2d
        >>> from involution.export import export
        >>> parity = export(Involution2d(16, kernel_size=3), (torch.randn(1, 16, 8, 8),), "involution.onnx")
        >>> [shapes for shapes, _ in parity.differences]
        ['1×16×8×8']
    """
    file, calibration = Path(file), calibration_sets(calibration)
    check_options(
        file,
        format,
        operator=operator,
        opset_version=opset_version,
        compiled=compiled,
        output_names=output_names,
        calibrated=bool(calibration),
    )
    if not isinstance(inputs, tuple) or not all(isinstance(value, Tensor) for value in inputs):
        raise TypeError(f"inputs must be a tuple of tensors, such as (x,), got {type(inputs).__name__}")
    _refuse_types(inputs, format, tolerance)
    check_calibration(inputs, calibration)
    common: dict[str, Any] = {"dynamic_shapes": dynamic_shapes, "operator": operator, "output_names": output_names}
    with written(file) as partial:
        if format == "pt2":
            to_pt2(model, inputs, partial, dynamic_shapes=dynamic_shapes, compiled=compiled)
        elif format == "onnx":
            involutions = to_onnx(model, inputs, partial, opset_version=opset_version, **common)
        else:
            involutions = to_openvino(model, inputs, partial, **common)
        own_operators = _own_operators(format) if operator == "custom" else None
        if calibration:
            try:
                quantise(format, partial, involutions, calibration, own_operators)
            except ExportError as error:
                raise ExportError(f"{file} was not written: {error}; leave out calibration") from error
        try:
            engine, session = _opened(partial, format, own_operators)
        except MissingPackageError as error:
            return Parity(format, (), str(error))
        except ExportError as error:
            raise _unreadable(file, partial, format, inputs, error) from error
        parity = _compared(model, engine, session, [*(calibration or [_random_like(inputs)]), *others])
        limit, remedy = _tolerance(inputs), "report this as an error"
        if calibration:
            limit, remedy = _TOLERANCE_OF_INT8, "calibrate on other images, or leave it in floating point"
            if dynamic_shapes is not None:
                # OpenVINO 2026.4 computes RedNet of standard operators wrongly, and rightly once its sizes are fixed.
                remedy = f"export one size or operator 'custom', {remedy}"
            if format == "openvino":
                remedy = f"{remedy}, or export to ONNX"
        if tolerance is not None:
            limit = tolerance
        for shapes, value in parity.differences:
            if not value <= limit:
                raise ExportError(
                    f"{file} was not written: {parity.engine} differs from PyTorch by {value:.1e} of the largest output at "
                    f"{shapes}, more than {limit:.0e}; allow more with tolerance, or {remedy}"
                )
    return parity


def check_options(
    file: Path,
    format: Format,
    *,
    operator: str = "standard",
    opset_version: int | None = None,
    compiled: bool = True,
    output_names: Sequence[str] | None = None,
    calibrated: bool = False,
) -> None:
    """Refuse options of another format, before there is a net; arguments as in `export`.

    Raises:
        ValueError: ``format`` is unknown, or an option is of another one.
        MissingPackageError: what makes int8 of the format is missing.
        ExportError: ``file`` has the ending of another format.
    """
    if format not in ENDINGS:
        raise ValueError(f"format must be one of {', '.join(map(repr, ENDINGS))}, got {format!r}")
    if file.suffix != ENDINGS[format]:
        raise ExportError(
            f"cannot write {file}: a file of {format} is known by the ending {ENDINGS[format]}; name it so"
        )
    if opset_version is not None and format != "onnx":
        raise ValueError(f"an opset is of ONNX, not of {format}; leave it out")
    if not compiled and format != "pt2":
        raise ValueError(f"compiled is of pt2, not of {format}; leave it out")
    if operator != "standard" and format == "pt2":
        raise ValueError("operator is of ONNX and OpenVINO; a .pt2 file has this library's own, leave it out")
    if output_names is not None and format == "pt2":
        raise ValueError("output_names are of ONNX and OpenVINO; a .pt2 file has none, leave them out")
    if calibrated and format == "pt2":
        raise ValueError("calibration for int8 is of ONNX and OpenVINO; leave it out, or export to one of them")
    if calibrated and format == "onnx" and find_spec("onnxruntime") is None:
        raise missing_package("onnxruntime", "export")
    if calibrated and format == "openvino" and find_spec("nncf") is None:
        raise missing_package("nncf", "quantisation")


def check_folding(folded: nn.Module, model: nn.Module, images: Tensor) -> None:
    """Refuse a net whose folded norms change what it computes.

    Args:
        folded: what became of ``model``.
        model: the net itself, in evaluation.
        images: that both are called with; what the net cannot compute is left to the export to say.

    Raises:
        ExportError: they differ by more than rounding explains.
    """
    change = 0.0
    with suppress(RuntimeError, TypeError, ValueError), torch.no_grad():
        change = difference(flat(folded(images)), flat(model(images)))
    if not change <= _ROUNDING_OF_FOLDING:
        raise ExportError(
            f"folding changes what {type(model).__name__} computes, by {change:.1e} of the largest output: its forward uses "
            "layers otherwise than torch.fx sees; export it with --no-fold"
        )


def difference(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Return the largest difference of an output over the largest value of that output; infinite where shapes differ."""
    return _largest(_errors(actual, expected))


def _errors(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> list[tuple[float, float]]:
    """Return of each output the largest difference, infinite where it is of another kind, and its largest value."""
    if [value.shape for value in actual] != [value.shape for value in expected]:
        return [(math.inf, 1.0) for _ in expected or actual]
    found = []
    for one, other in zip(actual, expected, strict=True):
        one, other = one.double(), other.double()
        finite = one.isfinite() & other.isfinite()
        # Infinite and NaN where PyTorch's is.
        same = torch.allclose(one[~finite], other[~finite], equal_nan=True)
        one, other = one[finite], other[finite]
        error, scale = ((one - other).abs().max().item(), other.abs().max().item()) if one.numel() else (0.0, 0.0)
        found.append((error if same else math.inf, scale))
    return found


def _largest(errors: Sequence[tuple[float, float]]) -> float:
    return max((error / scale if scale else error for error, scale in errors), default=0.0)


def _refuse_types(inputs: tuple[Tensor, ...], format: Format, tolerance: float | None) -> None:
    """Refuse numbers that an engine cannot be handed here, or computes less precisely than PyTorch."""
    types = {value.dtype for value in inputs}
    if format != "pt2" and torch.bfloat16 in types:
        raise ExportError(
            f"inputs of bfloat16 cannot be compared with PyTorch: {_ENGINES[format]} is handed NumPy's arrays, which have "
            "no such numbers; export the model in float32 or float16"
        )
    if format == "openvino" and torch.float64 in types and tolerance is None:
        limit = _TOLERANCES[torch.float32]
        raise ExportError(
            f"OpenVINO computes float64 in float32; export the model in float32, or allow the difference with "
            f"tolerance={limit:.0e}"
        )


def _compared(model: nn.Module, engine: str, session: Session, tests: Sequence[tuple[Tensor, ...]]) -> Parity:
    # By shapes, of each output.
    errors: dict[str, list[tuple[float, float]]] = {}
    same, places = 0, 0
    for inputs in tests:
        shapes = ", ".join("×".join(map(str, value.shape)) for value in inputs)
        with in_evaluation(model), torch.no_grad():
            # Copies, for a model may write into its input.
            expected = flat(model(*[value.clone() for value in inputs]))
        try:
            actual = session([value.detach().clone() for value in inputs])
        except Exception as error:
            raise ExportError(
                f"{engine} wrote no output for inputs of {shapes}: {reason(error)}; export the model for other sizes"
            ) from error
        found = _errors(actual, expected)
        before = errors.get(shapes, found)
        errors[shapes] = [(max(a, b), max(c, d)) for (a, c), (b, d) in zip(before, found, strict=True)]
        for one, other in zip(actual[:1], expected[:1], strict=False):
            if one.shape == other.shape and one.dim() > 1 and one.shape[1] > 1:
                agree = one.argmax(1) == other.argmax(1)
                same, places = same + int(agree.sum()), places + agree.numel()
    differences = tuple((shapes, _largest(found)) for shapes, found in errors.items())
    return Parity(engine, differences, agreement=same / places if places else None)


def _own_operators(format: Format) -> Path:
    return library() if format == "onnx" else extension()


def _opened(file: Path, format: Format, own_operators: Path | None) -> tuple[str, Session]:
    name = _ENGINES[format]
    if format == "pt2":
        return f"{name} {torch.__version__}'s file", open_pt2(file)
    if format == "onnx":
        return f"{name} {metadata.version('onnxruntime')}", open_onnx(file, library=own_operators)
    return f"{name} {metadata.version('openvino')}", open_openvino(file, extension=own_operators)


def _unreadable(
    file: Path, partial: Path, format: Format, inputs: tuple[Tensor, ...], error: ExportError
) -> ExportError:
    """Return what is said of a file that its engine does not load; ``partial`` is the name it had until then."""
    words = reason(error.__cause__ or error).replace(str(partial), str(file))
    remedy = "replace in the model what that names"
    if any(value.dtype == torch.float64 for value in inputs):
        remedy = "export the model in float32 or float16"
    return ExportError(f"{file} was not written: {_ENGINES[format]} cannot load it: {words}; {remedy}")


def _random_like(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return other inputs of the same shapes; numbers that are no floats, such as indices, stay as they are."""
    generator = torch.Generator().manual_seed(0)
    return tuple(
        torch.empty_like(value).normal_(generator=generator) if value.is_floating_point() else value for value in inputs
    )


def _tolerance(inputs: tuple[Tensor, ...]) -> float:
    return max((_TOLERANCES.get(value.dtype, 0.0) for value in inputs), default=0.0) or _TOLERANCES[torch.float32]
