"""Nets with involution's own operators in OpenVINO, over this library's kernels and on OpenVINO's own threads."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from ..backends import native
from ..errors import ExportError, missing_package
from ..files import replaced_files
from .onnx import library

__all__ = ["extension"]

_SOURCES = Path(__file__).parent / "openvino_extension"
_HEADERS = Path(native.__file__).parent / "include"
_COMPILERS = ("c++", "g++", "clang++")
_INSTEAD = 'or export with operator="standard", which needs none'


def extension() -> Path:
    """Return the file that OpenVINO takes for nets with involution's own operators; compile it where there is none.

    ``Core.add_extension`` takes its name, in Python and in C++; ``Core.read_model`` then reads the files that
    `involution.export.to_onnx` writes with ``operator="custom"``. OpenVINO's interface of operators differs from version
    to version, so the file is compiled on this machine against the headers of the OpenVINO that is
    installed. It stays in the user's cache folder (``$XDG_CACHE_HOME/involution``, by default ``~/.cache/involution``) and
    is compiled anew where OpenVINO or this library changed. It needs a C++17 compiler (``$CXX``, or ``c++``, ``g++`` or
    ``clang++``) and loads this library's kernels from where they are installed.

    Raises:
        MissingPackageError: openvino is missing.
        ExportError: there is no compiler, the compiler failed, the file cannot be written, or the library was installed
            without its compiled kernels.

    Example:
        >>> import openvino, torch
        >>> from involution import Involution2d
        >>> from involution.export import to_onnx
        >>> from involution.export.openvino import extension
        >>> x = torch.randn(1, 16, 8, 8)
        >>> _ = to_onnx(Involution2d(16), (x,), "involution.onnx", operator="custom")
        >>> core = openvino.Core()
        >>> core.add_extension(str(extension()))
        >>> net = core.compile_model("involution.onnx", "CPU")
        >>> net([x.numpy()])[0].shape
        (1, 16, 8, 8)
    """
    kernels = library()
    command = [_compiler(), *_flags(kernels.resolve())]
    file = _cache() / f"openvino-{_digest(command)}.{'dylib' if sys.platform == 'darwin' else 'so'}"
    if not file.exists():
        try:
            with replaced_files(file.parent) as partial:
                _compile([*command, "-o", str(partial / file.name)])
        except OSError as error:
            raise ExportError(
                f"cannot write {file}: {error.strerror or error}; set XDG_CACHE_HOME to a folder that can be written"
            ) from error
    return file


def _flags(kernels: Path) -> list[str]:
    """Return what a compiler is told, but for the name of the result."""
    spec = find_spec("openvino")
    if spec is None or not spec.submodule_search_locations:
        raise missing_package("openvino", "export")
    package = Path(next(iter(spec.submodule_search_locations)))
    if not (package / "include/openvino/core/op_extension.hpp").exists():
        raise ExportError(
            f"the OpenVINO in {package} has no headers to compile involution's own operators with; install the package of "
            f"PyPI with: pip install openvino; {_INSTEAD}"
        )
    libraries = [_library(package / "libs", name) for name in ("openvino", "openvino_onnx_frontend", "tbb")]
    # OpenVINO's threads are TBB's where its package has that library.
    has_pool = libraries[-1] is not None and (package / "include/tbb/parallel_for.h").exists()
    pool = ["-DINVOLUTION_TBB"] if has_pool else []
    # GCC's library has two kinds of strings; OpenVINO tells CMake which one it was compiled with.
    targets = package / "cmake/OpenVINOTargets.cmake"
    strings = re.search(r"_GLIBCXX_USE_CXX11_ABI=[01]", targets.read_text("utf-8") if targets.exists() else "")
    folders = [kernels.parent, package / "libs"]
    return [
        *("-std=c++17", "-O2", "-shared", "-fPIC", *pool),
        *([f"-D{strings[0]}"] if strings else []),
        *(f"-I{folder}" for folder in (package / "include", _HEADERS)),
        str(_SOURCES / "extension.cpp"),
        *(str(library) for library in (*libraries, kernels) if library is not None),
        *(f"-Wl,-rpath,{folder}" for folder in folders),
        *([] if sys.platform == "darwin" else ["-Wl,--no-undefined"]),
    ]


def _library(folder: Path, name: str) -> Path | None:
    """Return the file of a library of OpenVINO's package, which has one of each, with its version in the name."""
    found = [path for ending in ("so*", "*.dylib", "dylib") for path in folder.glob(f"lib{name}.{ending}")]
    return min(found, key=lambda path: len(path.name), default=None)


def _compiler() -> str:
    chosen = os.environ.get("CXX")
    found = next(filter(None, map(shutil.which, [chosen] if chosen else _COMPILERS)), None)
    if found is None:
        looked = f"$CXX, {chosen!r}, is no program" if chosen else f"found none of {', '.join(_COMPILERS)}"
        raise ExportError(
            "OpenVINO's extension with involution's own operators is compiled on this machine and needs a C++17 compiler: "
            f"{looked}; install one, e.g. with: apt-get install g++; {_INSTEAD}"
        )
    return found


def _digest(command: list[str]) -> str:
    """Return a name for what the command makes of the sources and headers as they are."""
    digest = hashlib.sha256()
    parts = [metadata.version("openvino"), platform.machine(), *command]
    parts += [path.read_text(encoding="utf-8") for folder in (_SOURCES, _HEADERS) for path in sorted(folder.iterdir())]
    for part in parts:
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()[:24]


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "involution"


def _compile(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        reason = next((line for line in lines if "error" in line.lower()), lines[0] if lines else "it says no more")
        raise ExportError(
            f"OpenVINO's extension with involution's own operators could not be compiled by {command[0]}: {reason}; use "
            f"GCC 9 or Clang 10 or later ($CXX names another compiler), {_INSTEAD}"
        )
