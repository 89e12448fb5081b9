"""Peak memory of a piece of work, in a process of its own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from involution.studies.latency.clock import peak_mib


def resident_peak_mib() -> float:
    peak = peak_mib()
    if peak is None:
        raise RuntimeError("this system does not say how much memory a process takes; measure on Linux")
    return peak


def saved_mib(model: nn.Module, x: Tensor) -> float:
    """Return the memory of the distinct tensors that a forward pass of ``x`` keeps for the backward pass, weights aside."""
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    storages: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        storages.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = model(x)
    total = sum(t.untyped_storage().nbytes() for address, t in storages.items() if address not in parameters)
    del y
    return total / 2**20


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
