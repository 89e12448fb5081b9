"""What serves an involution on this machine, and why something else does not."""

from __future__ import annotations

import platform
import sys
from importlib.util import find_spec

import torch

from .. import __version__, backends

_EXTRAS = {
    "models": ("timm", "torchvision", "safetensors"),
    "train": (
        "jinja2",
        "jsonargparse",
        "lightning",
        "matplotlib",
        "scipy",
        "shtab",
        "sklearn",
        "tensorboard",
        "torchmetrics",
        "transformers",
    ),
    "detection": ("faster_coco_eval",),
    "streaming": ("datasets",),
    "keras": ("h5py", "keras"),
    "search": ("optuna",),
    "export": ("onnx", "onnxruntime", "onnxscript", "openvino"),
    "quantisation": ("nncf",),
}
_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def doctor() -> None:
    """Say which backend serves each device and dtype here, why the others do not, and which extras are missing."""
    print(report())


def report() -> str:
    """Return what `doctor` prints."""
    devices = [torch.device("cpu")]
    if torch.accelerator.is_available():
        kind = torch.accelerator.current_accelerator()
        if kind is not None:
            devices += [torch.device(kind.type, index) for index in range(torch.accelerator.device_count())]
    lines = [
        f"involution {__version__}, PyTorch {torch.__version__}, Python {sys.version.split()[0]}, {platform.platform()}",
        f"{torch.get_num_threads()} CPU threads, {torch.backends.cpu.get_cpu_capability()}",
    ]
    for device in devices:
        name = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
        lines += ["", f"{device}{name}"]
        try:
            reasons = {dtype: backends.explain(device, dtype) for dtype in _DTYPES}
        except torch.OutOfMemoryError:
            lines.append("  no memory is left on it to try a kernel; end what holds it, then ask again")
            continue
        for dtype, by_backend in reasons.items():
            serving = next(backend for backend, reason in by_backend.items() if reason is None)
            lines.append(f"  {str(dtype).removeprefix('torch.'):<9} served by {serving}")
        for backend in backends.available():
            words = {by_backend[backend] for by_backend in reasons.values()}
            for reason in sorted(filter(None, words)):
                dtypes = [
                    str(d).removeprefix("torch.") for d, by_backend in reasons.items() if by_backend[backend] == reason
                ]
                scope = "" if len(dtypes) == len(reasons) else f" for {', '.join(dtypes)}"
                lines.append(f"  {backend} does not serve{scope}: {reason}")
    lines.append("")
    for extra, modules in _EXTRAS.items():
        missing = [module for module in modules if find_spec(module) is None]
        advice = f'missing {", ".join(missing)}; pip install "involution[{extra}]"' if missing else "complete"
        lines.append(f"extra {extra}: {advice}")
    return "\n".join(lines)
