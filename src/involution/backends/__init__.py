"""The implementations of the operator: which there are, which one serves a call, and why another one does not."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch
from torch import Tensor

from ..geometry import IntOrTuple, Padding, Window, to_window
from . import native, reference, triton
from .request import Backend, Epilogue, Fault, Request

__all__ = [
    "Backend",
    "Epilogue",
    "Fault",
    "Request",
    "Window",
    "available",
    "choose",
    "choose_for",
    "explain",
    "register",
    "use",
]

_BACKENDS: dict[str, Backend] = {}
_preferred: str | None = os.environ.get("INVOLUTION_BACKEND", "auto")
if _preferred in ("", "auto"):
    _preferred = None


def register(backend: Backend, first: bool = True) -> None:
    """Add a backend, before (or behind) those already there in the order in which ``"auto"`` asks them.

    Raises:
        ValueError: its name is taken.
    """
    global _BACKENDS
    if backend.name in _BACKENDS or backend.name == "auto":
        raise ValueError(f"a backend named {backend.name!r} is already registered")
    new = {backend.name: backend}
    _BACKENDS = new | _BACKENDS if first else _BACKENDS | new
    _tell_native()


def available() -> tuple[str, ...]:
    """Return the names of all backends in the order in which ``"auto"`` asks them."""
    return tuple(backend.name for backend in _order())


def check_name(name: str) -> None:
    """Refuse the name of a backend that does not exist.

    Raises:
        ValueError: no backend of this name is registered.
    """
    if name != "auto" and name not in _BACKENDS:
        raise ValueError(f"unknown backend {name!r}; expected 'auto' or one of {', '.join(map(repr, _BACKENDS))}")


def _order() -> list[Backend]:
    """Return all backends in the order in which ``"auto"`` asks them now."""
    return sorted(_BACKENDS.values(), key=lambda backend: backend.name != _preferred)


def _check_preference() -> None:
    """Refuse a preferred backend that does not exist; one may be registered later than the preference was read.

    Raises:
        ValueError: no backend of this name is registered.
    """
    if _preferred is not None and _preferred not in _BACKENDS:
        known = ", ".join(map(repr, _BACKENDS))
        raise ValueError(f"INVOLUTION_BACKEND names an unknown backend {_preferred!r}; expected one of {known}")


def _tell_native() -> None:
    """Let the operators of the CPU go straight to the native kernels as long as these are asked first."""
    native.serve_auto(_preferred in (None, native.name) and _order()[0] is native)


def choose(name: str, request: Request) -> Backend:
    """Return the backend that serves ``request``: the named one, or for ``"auto"`` the first one that can.

    Raises:
        ValueError: the name is unknown.
        RuntimeError: the named backend cannot serve the request; the message gives its reason.
    """
    check_name(name)
    if name == "auto":
        _check_preference()
        for backend in _order():
            reason = backend.unsupported(request)
            if reason is None:
                return backend
            if isinstance(reason, Fault):
                _warn(backend.name, reason)
        raise RuntimeError(f"no backend serves this call: {request}; keep the reference registered")
    backend = _BACKENDS[name]
    reason = backend.unsupported(request)
    if reason is not None:
        raise RuntimeError(f"the {name} backend cannot serve this call: {reason}; use backend='auto'")
    return backend


def choose_for(name: str, input: Tensor, groups: int, window: Window) -> Backend:
    """Return the backend that serves a call; raises as `choose`.

    Args:
        name: of a backend, or ``"auto"``.
        input: ``(B, C, ...)``; its device and dtype decide.
        groups: G.
        window: kernel size, stride, padding and dilation.
    """
    return choose(name, Request(input.device, input.dtype, input.shape[1] // groups, window))


@lru_cache(maxsize=64)
def _warn(name: str, reason: str) -> None:
    """Warn of each fault once in a process."""
    warnings.warn(f"the {name} backend cannot serve, a slower one takes its place: {reason}", stacklevel=2)


@contextmanager
def use(name: str) -> Iterator[None]:
    """Let ``"auto"`` prefer one backend for a while (process-wide); where it cannot serve, the usual order decides.

    The environment variable ``INVOLUTION_BACKEND`` does the same for a whole process.

    Raises:
        ValueError: no backend of this name is registered.
    """
    global _preferred
    check_name(name)
    before, _preferred = _preferred, None if name == "auto" else name
    _tell_native()
    try:
        yield
    finally:
        _preferred = before
        _tell_native()


def explain(
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    dims: int = 2,
    group_channels: int = 16,
    kernel_size: IntOrTuple = 7,
    stride: IntOrTuple = 1,
    padding: Padding = "same",
    dilation: IntOrTuple = 1,
) -> dict[str, str | None]:
    """Say for every backend why it could not serve such a call, in the order in which ``"auto"`` asks them.

    Returns:
        The reason by the backend's name, None where it can serve; ``"auto"`` takes the first None.

    Raises:
        ValueError: an argument is out of range, or ``INVOLUTION_BACKEND`` names an unknown backend.
    """
    _check_preference()
    window = to_window(kernel_size, stride, padding, dilation, dims)
    request = Request(torch.device(device), dtype, group_channels, window)
    return {backend.name: backend.unsupported(request) for backend in _order()}


# Those behind native do not serve the CPU, or more slowly.
register(reference)
register(triton)
register(native)
