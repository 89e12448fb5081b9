"""Finds, loads and describes the compiled kernels."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

# The kernels share libgomp with torch, which has to be the first to load it.
import torch  # noqa: F401

_SUFFIXES = {"win32": "dll", "darwin": "dylib"}
_VARIABLE = "INVOLUTION_NATIVE_ISA"
# As in csrc/problem.h.
_INTERFACE = 3
_REBUILD = "install a C++17 compiler (GCC or Clang) and reinstall involution from its sources"


class Kernels(NamedTuple):
    """The entry points of the compiled kernels.

    Attributes:
        contract: one of the three contractions; see csrc/dispatch.cpp.
        span_and_contract: the forward with its kernel field made on the way.
        span_gradients: its derivatives.
        isa: number of the instruction set in use.
        name: its name.
        names: all that were compiled and this machine has, best last.
    """

    contract: Callable[..., int]
    span_and_contract: Callable[..., int]
    span_gradients: Callable[..., int]
    isa: int
    name: str
    names: tuple[str, ...]


@lru_cache(maxsize=1)
def kernels() -> Kernels:
    """Return the loaded kernels.

    Raises:
        RuntimeError: they cannot be had; the message says why and what to do.
    """
    loaded = _load()
    if isinstance(loaded, str):
        raise RuntimeError(loaded)
    return loaded


def missing() -> str | None:
    """Return why the kernels cannot be used, or None if they can."""
    loaded = _load()
    return loaded if isinstance(loaded, str) else None


def instruction_set() -> str | None:
    """Return the name of the instruction set in use, None where the kernels cannot be used."""
    loaded = _load()
    return None if isinstance(loaded, str) else loaded.name


def instruction_sets() -> tuple[str, ...]:
    """Return the names of all instruction sets that were compiled and that this machine has, best last."""
    loaded = _load()
    return () if isinstance(loaded, str) else loaded.names


def _file() -> Path | None:
    from . import __path__ as folders

    if chosen := os.environ.get("INVOLUTION_NATIVE_LIBRARY"):
        return Path(chosen)
    prefix = "" if sys.platform == "win32" else "lib"
    filename = f"{prefix}involution_native.{_SUFFIXES.get(sys.platform, 'so')}"
    # An editable install has the sources in one folder of the package and what was built in another.
    return next((path for folder in folders if (path := Path(folder, filename)).exists()), None)


@lru_cache(maxsize=1)
def _load() -> Kernels | str:
    path = _file()
    if path is None:
        return f"its kernels were not built when involution was installed; {_REBUILD}"
    return load(path)


def load(path: Path) -> Kernels | str:
    """Return the kernels of a file, or why they cannot be used."""
    try:
        handle = ctypes.CDLL(str(path))
    except OSError as error:
        return f"its kernels could not be loaded ({error}); {_REBUILD}"
    if not hasattr(handle, "involution_interface") or handle.involution_interface() != _INTERFACE:
        return f"its kernels ({path}) were built from other sources than these; {_REBUILD}"
    handle.involution_isa_name.restype = ctypes.c_char_p
    built = [handle.involution_isa_name(i).decode() for i in range(handle.involution_isa_count())]
    names = tuple(name for i, name in enumerate(built) if handle.involution_isa_available(i))
    wanted = os.environ.get(_VARIABLE) or names[-1]
    if wanted not in names:
        return (
            f"the environment variable {_VARIABLE} asks for {wanted!r}; this machine and build have "
            f"{', '.join(map(repr, names))}: set it to one of them, or unset it"
        )
    number, text, pointer = ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p
    signatures: dict[str, tuple[Any, ...]] = {
        "contract": (number, number, text, *(pointer,) * 3, number),
        "span_and_contract": (number, text, text, *(pointer,) * 4, text, pointer, number),
        "span_gradients": (number, text, text, *(pointer,) * 9, number),
    }
    for function, arguments in signatures.items():
        getattr(handle, f"involution_{function}").argtypes = arguments
    return Kernels(
        handle.involution_contract,
        handle.involution_span_and_contract,
        handle.involution_span_gradients,
        built.index(wanted),
        wanted,
        names,
    )
