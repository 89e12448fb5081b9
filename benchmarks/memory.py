"""Peak memory of a piece of work, in a process of its own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any


def resident_peak_mib() -> float:
    # Not getrusage's, which a new process takes over from the one that started it.
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM:")).split()[1]) / 1024


def in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what ``function``, of a module's top level, returns in a new process."""
    context = multiprocessing.get_context("spawn")
    queue: multiprocessing.Queue = context.Queue()
    process = context.Process(target=_put, args=(queue, function, arguments))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"the process for {function.__name__}{arguments} ended with {process.exitcode}")
    return queue.get()


def _put(queue: multiprocessing.Queue, function: Callable[..., Any], arguments: tuple) -> None:
    queue.put(function(*arguments))
