"""Times on the GPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from statistics import quantiles
from typing import Any

import torch


@lru_cache(maxsize=1)
def _flush() -> torch.Tensor:
    """Return more memory than any cache holds."""
    return torch.empty(256 << 20, dtype=torch.uint8, device="cuda")


def measure(function: Callable[[], Any], milliseconds: float = 60, warm_ups: int = 3) -> dict[str, float]:
    """Return median and quartiles of a call's time on the GPU, in µs, with cold caches.

    Caches are overwritten before each call, which also hides what the call costs the CPU.
    """
    for _ in range(warm_ups):
        function()
    flush, start, end = _flush(), torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    function()
    end.record()
    torch.cuda.synchronize()
    repeats = int(min(200, max(8, milliseconds / max(start.elapsed_time(end), 1e-3))))
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
    for start, end in events:
        flush.zero_()
        start.record()
        function()
        end.record()
    torch.cuda.synchronize()
    low, median, high = quantiles([1e3 * start.elapsed_time(end) for start, end in events], n=4)
    return {
        "median_us": round(median, 2),
        "quartile1_us": round(low, 2),
        "quartile3_us": round(high, 2),
        "runs": repeats,
    }


def throughput(step: Callable[[], Any], images: int, seconds: float = 1.5, warm_ups: int = 3) -> dict[str, float]:
    """Return images per second over many steps back to back, and the peak of allocated memory in MiB."""
    for _ in range(warm_ups):
        step()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    step()
    end.record()
    torch.cuda.synchronize()
    repeats = int(min(200, max(5, 1e3 * seconds / start.elapsed_time(end))))
    start.record()
    for _ in range(repeats):
        step()
    end.record()
    torch.cuda.synchronize()
    return {
        "images_per_s": round(1e3 * images * repeats / start.elapsed_time(end), 1),
        "step_ms": round(start.elapsed_time(end) / repeats, 3),
        "peak_mib": torch.cuda.max_memory_allocated() >> 20,
        "runs": repeats,
    }
