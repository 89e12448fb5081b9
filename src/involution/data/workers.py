"""The processes that read images: how they are started, and that they end with their training."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from typing import Any

__all__ = ["end_with_the_training", "worker_options"]

# What worker processes need imported: once, where they are forked from.
_PRELOADED = ["torch", "torchvision", "timm.data", __package__, f"{__package__}.worker_server"]


def worker_options(num_workers: int, processes: int, modules: Sequence[str] = ()) -> dict[str, Any]:
    """Return how a loader starts its worker processes.

    Args:
        num_workers: of the loader.
        processes: of the training. Where there are several, each has threads that speak with the others, and a process
            that is forked while threads run can hang at its first step (CPython's own clean-up after a fork waits for a
            lock that no thread of the copy will give back). Workers are forked from a server without threads then.
        modules: what its data set imports beside what every data set does, so that no worker has to import it anew.
    """
    options: dict[str, Any] = {"num_workers": num_workers}
    if num_workers > 0 and processes > 1 and "forkserver" in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([*_PRELOADED, *modules])
        _start_server()
        options |= {"multiprocessing_context": context, "worker_init_fn": end_with_the_training}
    return options


def end_with_the_training(worker: int) -> None:
    """Let this worker end when the process that started it is gone, however that ended.

    PyTorch's workers look for their parent to be gone. That of a worker from a server is the server, which in turn waits
    for its workers: without this, those of a killed training stay for ever.

    Args:
        worker: its number, which PyTorch gives.
    """
    # Never None in a worker.
    training: Any = multiprocessing.parent_process()

    def wait() -> None:
        training.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _start_server() -> None:
    """Start the process that workers are forked from, where it does not run, deaf to Ctrl-C, and so they are.

    In a terminal Ctrl-C reaches every process. One that is still being made would say so with a traceback.
    """
    from multiprocessing import forkserver, resource_tracker

    # By itself, for it lets Ctrl-C through again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
