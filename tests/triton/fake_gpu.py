"""A GPU that is not there: what asks for one gets CPU tensors, clocks of the CPU, and graphs that replay nothing."""

import time
from contextlib import nullcontext
from types import SimpleNamespace

import torch
from torch.overrides import TorchFunctionMode


class OnTheCpu(TorchFunctionMode):
    """Puts on the CPU what is asked for on the GPU."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if str(kwargs.get("device", "")).startswith("cuda"):
            kwargs["device"] = "cpu"
        if function is torch.Tensor.cuda:
            return args[0]
        return function(*args, **kwargs)


class Event:
    def __init__(self, enable_timing=False):
        self.time = None

    def record(self, stream=None):
        self.time = time.perf_counter()

    def elapsed_time(self, end):
        return 1e3 * (end.time - self.time)


class Stream:
    cuda_stream = 0

    def wait_stream(self, other):
        pass


class Graph:
    def replay(self):
        pass


def pretend(monkeypatch):
    """Let ``torch.cuda`` be there for the rest of a test; return the mode to create tensors in."""
    properties = SimpleNamespace(name="NVIDIA Nothing 1", total_memory=1 << 34, multi_processor_count=1)
    autocast = torch.autocast
    for name, value in {
        "Event": Event,
        "Stream": Stream,
        "CUDAGraph": Graph,
        "graph": lambda graph: nullcontext(),
        "stream": lambda stream: nullcontext(),
        "current_stream": lambda: Stream(),
        "get_device_properties": lambda device: properties,
        "get_device_name": lambda device: properties.name,
        "synchronize": lambda: None,
        "empty_cache": lambda: None,
        "reset_peak_memory_stats": lambda: None,
        "max_memory_allocated": lambda: 3 << 20,
        "_sleep": lambda cycles: None,
    }.items():
        # What a version of PyTorch does not have cannot be called there either.
        assert hasattr(torch.cuda, name)
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch.nn.Module, "cuda", lambda module: module)
    monkeypatch.setattr(torch, "autocast", lambda kind, *rest, **named: autocast("cpu", *rest, **named))
    return OnTheCpu()
