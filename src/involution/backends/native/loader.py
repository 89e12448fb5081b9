"""Finds the compiled kernels, loads them and has them registered with PyTorch."""

from __future__ import annotations

import ctypes
import os
import sys
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

# The kernels share libgomp with torch, which has to be the first to load it.
import torch

_SUFFIXES = {"win32": "dll", "darwin": "dylib"}
_VARIABLE = "INVOLUTION_NATIVE_ISA"
# As in include/involution_engine.h.
_INTERFACE = 7
_REBUILD = "install a C++17 compiler (GCC or Clang) and reinstall involution from its sources"


class Library(NamedTuple):
    """The compiled kernels.

    Attributes:
        path: the file.
        handle: what ctypes loaded; csrc/dispatch.cpp, csrc/operators.cpp and csrc/engine.h say what it exports.
        name: the instruction set in use.
        names: all that were compiled and this machine has, best last.
    """

    path: Path
    handle: ctypes.CDLL
    name: str
    names: tuple[str, ...]


def missing() -> str | None:
    """Return why the kernels cannot be used, or None if they can."""
    loaded = registered()
    return loaded if isinstance(loaded, str) else None


def instruction_set() -> str | None:
    """Return the name of the instruction set in use, None where the kernels cannot be used."""
    loaded = registered()
    return None if isinstance(loaded, str) else loaded.name


def instruction_sets() -> tuple[str, ...]:
    """Return the names of all instruction sets that were compiled and that this machine has, best last."""
    loaded = registered()
    return () if isinstance(loaded, str) else loaded.names


@lru_cache(maxsize=1)
def registered() -> Library | str:
    """Return the kernels after they were registered as PyTorch's operators on the CPU, or why they cannot be used."""
    loaded = found()
    if isinstance(loaded, str):
        return loaded
    missing = loaded.handle.involution_register_operators(os.fsencode(_libtorch()), 0)
    if missing:
        return (
            f"this PyTorch, {torch.__version__}, does not take its kernels ({missing.decode()}); install torch >= 2.11"
        )
    return loaded


def found() -> Library | str:
    """Return the kernels that were built with the library, or why they cannot be used."""
    path = file()
    if path is None:
        return f"its kernels were not built when involution was installed; {_REBUILD}"
    return load(path)


def load(path: Path) -> Library | str:
    """Return the kernels of a file, or why they cannot be used."""
    try:
        handle = ctypes.CDLL(str(path))
    except OSError as error:
        return f"its kernels could not be loaded ({error}); {_REBUILD}"
    if not hasattr(handle, "involution_interface") or handle.involution_interface() != _INTERFACE:
        return f"its kernels ({path}) were built from other sources than these; {_REBUILD}"
    for name in ("isa_name", "operator_name", "operator_schema", "register_operators"):
        getattr(handle, f"involution_{name}").restype = ctypes.c_char_p
    handle.involution_kernels.restype = ctypes.c_void_p
    handle.involution_use_kernels.argtypes = [ctypes.c_void_p]
    names = tuple(
        handle.involution_isa_name(i).decode()
        for i in range(handle.involution_isa_count())
        if handle.involution_isa_available(i)
    )
    wanted = os.environ.get(_VARIABLE) or names[-1]
    if wanted not in names:
        return (
            f"the environment variable {_VARIABLE} asks for {wanted!r}; this machine and build have "
            f"{', '.join(map(repr, names))}: set it to one of them, or unset it"
        )
    return Library(path, handle, wanted, names)


def file() -> Path | None:
    """Return the file of the compiled kernels, None where they were not built."""
    from . import __path__ as folders

    if chosen := os.environ.get("INVOLUTION_NATIVE_LIBRARY"):
        return Path(chosen)
    # An editable install has the sources in one folder of the package and what was built in another.
    filename = _filename("involution_native")
    return next((path for folder in folders if (path := Path(folder, filename)).exists()), None)


def _libtorch() -> Path:
    return Path(torch.__file__).parent / "lib" / _filename("torch_cpu")


def _filename(library: str) -> str:
    prefix = "" if sys.platform == "win32" else "lib"
    return f"{prefix}{library}.{_SUFFIXES.get(sys.platform, 'so')}"
