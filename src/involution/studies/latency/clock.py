"""Time and memory of a call."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["call_ms", "forget_peak", "peak_mib", "resident_mib"]

# Frames of `_below` that fill a block of CPython's stack, and how far one round lies from the next: prime to it.
_DEPTHS, _STEP = 160, 37

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def call_ms(function: Callable[[], Any], number: int) -> float:
    """Return the milliseconds of a call, made from another depth of Python's stack for every ``number``.

    CPython takes memory for frames from the system in blocks of 16 KiB and gives a block back when its first frame
    returns: at one depth in ten or so, a function that makes many calls (those of a compiled graph) pays two system calls
    for each of them. The median over numbers that follow one another is that of the other depths.
    """
    return _below(number * _STEP % _DEPTHS, function)


def _below(frames: int, function: Callable[[], Any]) -> float:
    """Return the milliseconds of ``function``, called with so many frames more on the stack."""
    if frames:
        return _below(frames - 1, function)
    start = time.perf_counter()
    function()
    return (time.perf_counter() - start) * 1e3


def peak_mib() -> float | None:
    """Return the peak of this process's resident memory, since `forget_peak`; None where the system does not say."""
    # Not getrusage's, which a new process takes over from the one that started it.
    return _status("VmHWM:")


def resident_mib() -> float | None:
    """Return this process's resident memory; None where the system does not say."""
    return _status("VmRSS:")


def forget_peak() -> None:
    """Let the peak begin anew with what is resident now, where the system can."""
    with suppress(OSError):
        _RESET.write_text("5")


def _status(field: str) -> float | None:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(field)), None)
