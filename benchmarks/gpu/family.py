"""Involution and its relatives as layers: forward and backward time and peak memory at RedNet-50's four stage shapes."""

from __future__ import annotations

from typing import Any

import torch

from . import operators
from .records import Records
from .timing import forget_peak, measure


def run(records: Records, seconds: float) -> None:
    """Time every layer of `benchmarks.family` at the first batch and dtype of the operators, as far as the time goes."""
    from ..family import LAYERS

    end = records.left() - seconds
    dtype, batch = operators.FIRST
    for stage, (channels, size) in enumerate(operators.SHAPES, start=1):
        for name in LAYERS:
            row: dict[str, Any] = {"layer": name, "at_stage": stage, "batch": batch}
            if records.left() < end:
                records.add(**row, stopped="the time was over")
                return
            try:
                records.add(**row, **_times(name, channels, size, batch, dtype))
            except Exception as error:
                # One layer that does not run must not cost the others' numbers.
                records.add(**row, failed=f"{type(error).__name__}: {str(error)[:300]}")


def _times(name: str, channels: int, size: int, batch: int, dtype: torch.dtype) -> dict[str, float]:
    """Return the times of a layer's forward and backward pass in µs, and the peak of both in MiB."""
    from ..family import layer

    module = layer(name, channels, size).cuda().to(dtype)
    x = torch.randn(batch, channels, size, size, device="cuda", dtype=dtype).to(memory_format=torch.channels_last)
    x.requires_grad_()
    forget_peak()
    y = module(x)
    dy = torch.randn_like(y)
    inputs = [x, *module.parameters()]
    torch.autograd.grad(y, inputs, dy, retain_graph=True)
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() >> 20
    backward = measure(lambda: torch.autograd.grad(y, inputs, dy, retain_graph=True), milliseconds=20)
    with torch.no_grad():
        forward = measure(lambda: module(x), milliseconds=20)
    return {"forward_us": forward["median_us"], "backward_us": backward["median_us"], "peak_mib": peak}
