"""Times on the GPU."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from statistics import quantiles
from typing import Any

import torch

# Cycles per second, at least: no GPU runs faster.
_CLOCK = 3e9
# More than any cache holds.
_FLUSH_BYTES = 256 << 20


@lru_cache(maxsize=1)
def _flush() -> torch.Tensor:
    return torch.empty(_FLUSH_BYTES, dtype=torch.uint8, device="cuda")


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)


def measure(function: Callable[[], Any], milliseconds: float = 60, warm_ups: int = 3) -> dict[str, float]:
    """Return median and quartiles of a call's time on the GPU, in µs, with cold caches.

    Before each call caches are overwritten, and the GPU is kept busy for longer than the call costs the CPU: its work
    lies ready when its turn comes, and what is timed is the GPU's time alone.
    """
    for _ in range(warm_ups):
        function()
    torch.cuda.synchronize()
    host, device = [], []
    for _ in range(3):
        start, end = _event(), _event()
        begin = time.perf_counter()
        start.record()
        function()
        end.record()
        host.append(time.perf_counter() - begin)
        torch.cuda.synchronize()
        device.append(start.elapsed_time(end))
    repeats = int(min(200, max(8, milliseconds / max(min(device), 1e-3))))
    # A call that waits for the GPU itself cannot be hidden.
    wait = int(_CLOCK * min(2 * max(host), 2e-3))
    flush, events = _flush(), [(_event(), _event()) for _ in range(repeats)]
    for start, end in events:
        flush.zero_()
        torch.cuda._sleep(wait)
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


def forget_peak() -> None:
    """Let the peak of allocated memory start from what is in use now, without what `measure` holds."""
    _flush.cache_clear()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


def throughput(step: Callable[[], Any], images: int, seconds: float = 1.5, warm_ups: int = 3) -> dict[str, float]:
    """Return images per second over many steps back to back, and the peak of allocated memory in MiB.

    The peak counts from `forget_peak`, so that it holds what a CUDA graph allocated when it was captured.
    """
    for _ in range(warm_ups):
        step()
    start, end = _event(), _event()
    start.record()
    step()
    end.record()
    torch.cuda.synchronize()
    repeats = int(min(200, max(5, 1e3 * seconds / max(start.elapsed_time(end), 1e-3))))
    start.record()
    for _ in range(repeats):
        step()
    end.record()
    torch.cuda.synchronize()
    milliseconds = max(start.elapsed_time(end), 1e-6)
    return {
        "images_per_s": round(1e3 * images * repeats / milliseconds, 1),
        "step_ms": round(milliseconds / repeats, 3),
        "peak_mib": torch.cuda.max_memory_allocated() >> 20,
        "runs": repeats,
    }
