"""The command ``involution export``: a net as a file for PyTorch without Python, ONNX Runtime or OpenVINO."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import CommandError

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.named import NamedNet

__all__ = ["export"]


def export(
    model: str,
    *,
    format: Literal["pt2", "onnx", "openvino"] = "onnx",
    output: Path | None = None,
    weights: str | None = None,
    size: list[int] | None = None,
    batch: int = 1,
    dynamic: bool = False,
    multiple: int = 1,
    operator: Literal["standard", "custom"] = "standard",
    fold: bool = True,
    calibration: Path | None = None,
    opset: int | None = None,
    compiled: bool = True,
    tolerance: float | None = None,
) -> None:
    """Write a trained net as a file for another engine, and compare what the engine gives with PyTorch.

    Of a detector, backbone and neck are exported. A file that gives something else than PyTorch is not left behind.

    Args:
        model: a folder that ``involution fit`` wrote (``runs/…/model``), a timm name such as ``rednet50``, or a hub
            address such as ``hf-hub:user/model``.
        format: ``pt2`` (a package that AOTInductor compiles for this processor; loading it needs this library), ``onnx``
            or ``openvino``.
        output: the file; by default the net's name with the format's ending, in the current folder.
        weights: a checkpoint for a net given by name, or ``random``.
        size: height and width of the images in pixels, one number for squares; those of the net by default, with --multiple
            the next ones that fit.
        batch: images that pass the net together.
        dynamic: let the file take any batch and any height and width; --batch and --size are then examples.
        multiple: with --dynamic, take heights and widths that are multiples of this alone, e.g. 32.
        operator: of ONNX and OpenVINO: ``standard`` operators, which run anywhere, or this library's own, ``custom``, which
            is faster and has to be registered where the file is loaded.
        fold: fold batch norms into the layers before them.
        calibration: of ONNX and OpenVINO: a folder of images such as the net will see; the file computes in int8, whose ranges
            are found on at most 64 of them, or one batch.
        opset: of ONNX.
        compiled: with pt2, let AOTInductor compile; without, it is a program of ``torch.export``.
        tolerance: largest difference from PyTorch over the largest output; 1e-4 by default, with --calibration 0.2.

    Raises:
        CommandError: an argument is out of range.
        CheckpointError: the net or its weights cannot be loaded.
        DataError: the images to calibrate with cannot be read, or are too few.
        ExportError: the net cannot be exported, or the file cannot be written.
    """
    import torch

    from ..export import checked, image_shapes
    from ..logs import compiling_for_the_cpu
    from ..models import named
    from ..surgery import fold_batch_norms

    for name, value in (("batch", batch), ("multiple", multiple)):
        if value < 1:
            raise CommandError(f"--{name} must be at least 1, got {value}")
    if multiple > 1 and not dynamic:
        raise CommandError("--multiple is of --dynamic; leave it out")
    place = Path(model.partition(":")[2] or model)
    # A folder has a name of its own, also where it is called ".".
    file = output or Path(f"{(place.resolve() if place.is_dir() else place).name}{checked.ENDINGS[format]}")
    options: dict[str, Any] = {"operator": operator, "opset_version": opset, "compiled": compiled}
    try:
        # Before the net is loaded and folded.
        checked.check_options(file, format, **options, calibrated=calibration is not None)
    except ValueError as error:
        raise CommandError(str(error)) from error
    if tolerance is not None and not tolerance >= 0:
        raise CommandError(f"--tolerance must be a number from 0 on, got {tolerance}")
    net = named.load(model, weights)
    # What is one step in an example would be one step for ever.
    least_side = 2 * multiple if multiple > 1 else 1
    height, width = _sides(size, net.size, multiple, least_side)
    if dynamic:
        # What is 1 in an example would be 1 for ever.
        batch = max(2, batch)
    images = torch.randn(batch, net.channels, height, width)
    calibrating = _calibration(calibration, net, images)
    module: Any = net.net
    if fold:
        module, report = fold_batch_norms(module)
        print(f"{len(report.folded)} of {len(report.folded) + len(report.left)} batch norms folded")
        checked.check_folding(module, net.net, images)
    if format == "pt2":
        # The layout that PyTorch's convolutions and the involutions are fastest in; load_pt2 copies images of another one.
        module = module.to(memory_format=torch.channels_last)
    names = _output_names(module, images)
    least = min(64, height, width) if multiple == 1 else least_side
    others = _of_other_sizes(calibrating, images, multiple) if dynamic else ()
    try:
        with compiling_for_the_cpu():
            parity = checked.export(
                module,
                (images,),
                file,
                format=format,
                dynamic_shapes=image_shapes(multiple=multiple, least=least) if dynamic else None,
                others=[(other,) for other in others],
                calibration=[(some,) for some in calibrating],
                tolerance=tolerance,
                output_names=None if format == "pt2" else names,
                **options,
            )
    except (TypeError, ValueError) as error:
        raise CommandError(str(error)) from error
    shape = f"{batch}×{net.channels}×{height}×{width}"
    if dynamic:
        steps = f", in steps of {multiple}" if multiple > 1 else ""
        shape = f"any batch, height and width from {least} pixels on{steps}"
    print("\n".join(_said(net, file, f"{shape}, in int8" if calibrating else shape, names)))
    print(parity)
    if calibrating and names == ["logits"] and parity.agreement is not None:
        print(f"{100 * parity.agreement:.1f} % of the classes found are PyTorch's")


def _said(net: NamedNet, file: Path, shape: str, names: list[str]) -> Iterator[str]:
    """Yield what somebody has to know who loads the file."""
    if net.left_out:
        yield net.left_out
    files = [file, *([file.with_suffix(".bin")] if file.suffix == ".xml" else [])]
    sizes = ", ".join(f"{path} ({path.stat().st_size / 1e6:.1f} MB)" for path in files)
    yield f"wrote {sizes} for images of {shape}"
    mean, deviation = (", ".join(f"{value:.4g}" for value in values) for values in (net.mean, net.std))
    yield f"pixels from 0 to 1, less the mean ({mean}), divided by the deviation ({deviation}); gives {', '.join(names)}"


def _calibration(folder: Path | None, net: NamedNet, images: Tensor) -> list[Tensor]:
    """Return batches like ``images`` of the photographs in a folder; none where none is given."""
    if folder is None:
        return []
    from ..data.calibration import calibration_batches

    batch, _, height, width = images.shape
    return calibration_batches(folder, size=(height, width), batch=batch, mean=net.mean, std=net.std)


def _output_names(module: Any, images: Tensor) -> list[str]:
    """Return what the outputs of a net are called: the levels of a detector's neck by their names, else logits."""
    import torch

    given = None
    # What the net cannot compute is left to the export to say.
    with suppress(RuntimeError, TypeError, ValueError), torch.no_grad():
        given = module(images)
    return [f"level_{name}" for name in given] if isinstance(given, Mapping) else ["logits"]


def _sides(size: list[int] | None, default: tuple[int, int], multiple: int, least: int) -> tuple[int, int]:
    """Return height and width of the example images."""
    if not size:
        # The net's own size is an example as good as the next larger one of the file's steps.
        height, width = _rounded_up(default, multiple)
        return max(height, least), max(width, least)
    if len(size) > 2 or min(size) < 1:
        raise CommandError(f"--size must be a height and a width of at least 1 pixel, got {','.join(map(str, size))}")
    height, width = size[0], size[-1]
    if height % multiple or width % multiple:
        nearest = " ".join(map(str, _rounded_up((height, width), multiple)))
        raise CommandError(f"--size must have multiples of {multiple}, such as {nearest}, got {height} {width}")
    if min(height, width) < least:
        raise CommandError(f"with --multiple {multiple}, --size must be at least {least}, got {height} {width}")
    return height, width


def _rounded_up(size: tuple[int, int], multiple: int) -> tuple[int, int]:
    return -(-size[0] // multiple) * multiple, -(-size[1] // multiple) * multiple


def _of_other_sizes(calibrating: list[Tensor], images: Tensor, multiple: int) -> Iterator[Tensor]:
    """Yield what a file for any size is tried with: one larger image, and three of odd sides where any side is allowed.

    They are random, and the first of those that int8 was calibrated on where it was: beyond its ranges it is nothing.
    """
    import torch

    channels, height, width = images.shape[1:]
    step = multiple if multiple > 1 else 32
    shapes = [(1, height + step, width + 2 * step)]
    if multiple == 1:
        shapes.append((3, height + 5, width + 1))
    for batch, *sides in shapes:
        if calibrating:
            yield torch.nn.functional.interpolate(
                torch.cat(calibrating[:batch])[:batch], sides, mode="bilinear", align_corners=False
            )
        else:
            yield torch.randn(batch, channels, *sides)
