"""Where the time of a run goes, operator by operator, as each engine's own profiler says."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, record_function

from ...export import sessions

__all__ = ["of_onnxruntime", "of_openvino", "of_pytorch"]

# What no operator takes: Python, and kernels that Inductor generates, of which PyTorch's profiler knows nothing.
_OUTSIDE = "outside of operators"

_WARM_UP, _RUNS = 3, 10


def of_pytorch(run: Callable[[], Any]) -> dict[str, float]:
    """Return the milliseconds of a run by operator, what each calls in turn left out.

    Args:
        run: calls a module of PyTorch's, a compiled one or a package of AOTInductor.
    """
    # Or it prints that there is no GPU, where there is none.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    for _ in range(_WARM_UP):
        run()
    with torch.profiler.profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(_RUNS):
            with record_function(_OUTSIDE):
                run()
    return {event.key: event.self_cpu_time_total / 1e3 / _RUNS for event in profiler.key_averages()}


def of_onnxruntime(file: Path, inputs: Sequence[Tensor], *, threads: int, library: Path | None) -> dict[str, float]:
    """Return the milliseconds of a run by operator of ONNX Runtime.

    Args:
        file: what `to_onnx` wrote.
        inputs: in their order.
        threads: of the session.
        library: of custom operators, for a file that holds some.
    """
    with TemporaryDirectory(prefix="involution-") as folder:
        session = sessions.onnx_session(file, threads=threads, library=library, profile=Path(folder) / "profile")
        arrays = dict(zip((value.name for value in session.get_inputs()), (t.numpy() for t in inputs), strict=True))
        for _ in range(_WARM_UP + _RUNS):
            session.run(None, arrays)
        events = json.loads(Path(session.end_profiling()).read_text())
    # Each node once a run, in the order of the runs.
    durations: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            durations[event["args"]["op_name"], event["name"]].append(event["dur"] / 1e3)
    return _added((operator, sum(times[_WARM_UP:]) / _RUNS) for (operator, _), times in durations.items())


def of_openvino(
    file: Path, inputs: Sequence[Tensor], *, threads: int, precision: str, extension: Path | None
) -> dict[str, float]:
    """Return the milliseconds of a run by operator of OpenVINO.

    Args:
        file: what `to_openvino` wrote.
        inputs: in their order.
        threads: of the engine.
        precision: ``"f32"`` or ``"bf16"``.
        extension: with operators that are not OpenVINO's, for a file that holds some.
    """
    request = sessions.openvino_request(file, threads=threads, precision=precision, extension=extension, profiled=True)
    arrays = [tensor.numpy() for tensor in inputs]
    nodes: list[tuple[str, float]] = []
    for number in range(_WARM_UP + _RUNS):
        request.infer(arrays, share_inputs=True, share_outputs=True)
        if number >= _WARM_UP:
            nodes += [(node.node_type, node.real_time.total_seconds() * 1e3 / _RUNS) for node in request.profiling_info]
    return _added(nodes)


def _added(times: Any) -> dict[str, float]:
    sums: dict[str, float] = defaultdict(float)
    for operator, milliseconds in times:
        sums[operator] += milliseconds
    return dict(sums)
