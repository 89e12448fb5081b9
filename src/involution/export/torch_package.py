"""Nets as ``.pt2`` files: packages that AOTInductor compiles for this processor, or programs that run anywhere."""

from __future__ import annotations

import os
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ExportError
from .package_inputs import METADATA, CheckedPackage, forms_of
from .programs import captured, refusal, written

__all__ = ["load_pt2", "to_pt2"]

# What lies in the archive of each kind.
_PACKAGE, _PROGRAM = "data/aotinductor/", "models/"


def to_pt2(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    file: str | Path,
    *,
    dynamic_shapes: Any = None,
    compiled: bool = True,
) -> None:
    """Write ``model`` as a ``.pt2`` file, whole or not at all; `load_pt2` reads it.

    Compiled, it is a package of AOTInductor: machine code for processors with the instruction set of this one, with
    norms folded and weights arranged for the matrix products (Inductor's freezing). Not compiled, it is a program of
    ``torch.export``, which any machine runs, as fast as the model itself. Either calls involution's operators, so loading
    needs this library: ``import involution`` in Python, its shared library in a program without Python.

    Args:
        model: any module; it is exported in eval mode for inference, each module is left in the mode it had.
        inputs: example inputs. The machine code of a package reads its inputs in their memory layout: give those of a
            ``channels_last`` model in ``channels_last``. What `load_pt2` returns takes others and copies them; a program
            without Python has to bring its inputs into that layout and these sizes, for nothing checks them there.
        file: where to write, ``*.pt2``.
        dynamic_shapes: as ``torch.export.export`` takes them, e.g. ``({0: Dim("batch"), 2: Dim("height")},)``.
        compiled: whether AOTInductor compiles it, which needs a C++ compiler and takes a minute for a net.

    Raises:
        ExportError: ``model`` cannot be exported, ``file`` cannot be written, or there is no C++ compiler.

    Example:
        >>> import torch
        >>> from involution import Involution2d
        >>> from involution.export import load_pt2, to_pt2
        >>> layer, x = Involution2d(16, kernel_size=3).eval(), torch.randn(1, 16, 8, 8)
        >>> to_pt2(layer, (x,), "involution.pt2", compiled=False)
        >>> torch.equal(load_pt2("involution.pt2")(x), layer(x))
        True
    """
    file = Path(file)
    if file.suffix != ".pt2":
        raise ExportError(f"cannot write {file}: PyTorch reads such a file only by the ending .pt2; name it *.pt2")
    if compiled:
        compiler = _compiler()
        if shutil.which(compiler) is None:
            raise ExportError(
                f"AOTInductor needs a C++ compiler, and there is no {compiler}; install one, name one in the variable CXX, "
                "or write a program that is not compiled (compiled=False, --compiled false)"
            )
    with written(file) as partial:
        try:
            # Dense: machine code is made for the strides of the example.
            inputs = tuple(value.clone() for value in inputs)
            program = captured(model, inputs, dynamic_shapes)
            if compiled:
                options = {"freezing": True, "aot_inductor.metadata": {METADATA: forms_of(program, inputs)}}
                with torch.no_grad():
                    torch._inductor.aoti_compile_and_package(
                        program, package_path=str(partial), inductor_configs=options
                    )
            else:
                torch.export.save(program, partial)
        except (TypeError, ValueError, ExportError):
            # What the model itself says of its inputs.
            raise
        except Exception as error:
            raise refusal(model, "a package of AOTInductor" if compiled else "a program of PyTorch", error) from error


def load_pt2(file: str | Path) -> Callable[..., Any]:
    """Load what `to_pt2` wrote; the result is called as the model was, with tensors by position.

    A package takes inputs of the example's dtype, of its sizes where they are not dynamic, and of any memory layout; all
    others are refused. It holds machine code that runs when it is called: load only files that you trust.

    Raises:
        ExportError: the file is missing or damaged, is of another kind, or was compiled for another processor.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            names = [name.partition("/")[2] for name in archive.namelist()]
            broken = archive.testzip()
    except (OSError, zipfile.BadZipFile) as error:
        raise ExportError(f"{file} cannot be read: {error}; write it anew with involution export") from error
    if broken is not None:
        raise ExportError(f"{file} is damaged in {broken}; write it anew with involution export")
    try:
        if any(name.startswith(_PACKAGE) for name in names):
            return CheckedPackage(torch._inductor.aoti_load_package(str(file)), str(file))
        if any(name.startswith(_PROGRAM) for name in names):
            return torch.export.load(file).module()
    except RuntimeError as error:
        words = str(error).strip().splitlines()[0]
        raise ExportError(f"{file} cannot be loaded here: {words}; export the model on this machine") from error
    raise ExportError(f"{file} is no .pt2 file of PyTorch; write one with involution export")


def _compiler() -> str:
    """Return the name of the compiler that Inductor calls."""
    by_system = {"darwin": "clang++", "win32": "cl"}
    return os.environ.get("CXX") or by_system.get(sys.platform, "g++")
