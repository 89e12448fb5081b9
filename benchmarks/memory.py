"""Peak memory of a piece of work, in a process of its own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

from involution.studies.latency.clock import peak_mib


def resident_peak_mib() -> float:
    peak = peak_mib()
    if peak is None:
        raise RuntimeError("this system does not say how much memory a process takes; measure on Linux")
    return peak


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
