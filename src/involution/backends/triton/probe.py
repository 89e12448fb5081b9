"""Whether Triton works here, and the sentence that says why not."""

from __future__ import annotations

import os
from functools import lru_cache
from importlib.util import find_spec

import torch

from ..request import Fault

_OLDEST_CAPABILITY = (8, 0)


def interpreting() -> bool:
    """Whether Triton's interpreter runs the kernels, on the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@lru_cache(maxsize=64)
def fault(device: torch.device) -> Fault | None:
    """Return why Triton cannot run kernels on ``device``, or None if it can.

    The first call for a GPU compiles and launches a kernel of one instruction, which needs all that the others need:
    a compiler for the GPU, a C compiler for the launcher, a driver that takes the code.
    """
    if find_spec("triton") is None:
        return Fault("Triton is not installed; install it with: pip install triton (on Windows: triton-windows)")
    if device.type == "cpu":
        return None
    if torch.version.hip is None:
        capability = torch.cuda.get_device_capability(device)
        if capability < _OLDEST_CAPABILITY:
            have, need = (".".join(map(str, version)) for version in (capability, _OLDEST_CAPABILITY))
            return Fault(f"the GPU {device} has compute capability {have}; its kernels need {need} or newer")
    try:
        _launch(device)
    except Exception as error:
        # Triton raises whatever its compilers, the launcher's build or the driver raise.
        words = (str(error).strip() or type(error).__name__).splitlines()[0]
        advice = "; install a C compiler (Debian: apt install gcc) or name one in CC" if "compiler" in words else ""
        return Fault(f"Triton cannot launch a kernel on {device}: {words}{advice}")
    return None


def _launch(device: torch.device) -> None:
    from .trial import write_one

    with torch.cuda.device(device):
        write_one[(1,)](torch.empty(1, dtype=torch.int32, device=device))
