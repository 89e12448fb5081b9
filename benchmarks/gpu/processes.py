"""Work spread over several processes: compiling takes most of the time of everything that runs for the first time."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any

Task = tuple[Callable[[Any], Any], Any]


def spread(tasks: Sequence[Task], seconds: float) -> Iterator[tuple[Task, Any]]:
    """Yield each task, a function and its argument, with its result or the exception it raised, as they are done.

    Raises:
        TimeoutError: some were not done in time; those not begun are given up, the others stopped.
    """
    # Processes of their own: each imports torch, so no more than there are cores, and few on a small GPU.
    workers = max(1, min(12, (os.cpu_count() or 2) - 2))
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    futures = {pool.submit(*task): task for task in tasks}
    try:
        for future in as_completed(futures, timeout=seconds):
            error = future.exception()
            yield futures[future], future.result() if error is None else error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()
