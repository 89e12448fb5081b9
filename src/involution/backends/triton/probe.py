"""Whether Triton works here, and the sentence that says why not."""

from __future__ import annotations

import os
import subprocess
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

    Raises:
        torch.OutOfMemoryError: no memory is left on the GPU to try it, which says nothing about Triton.
    """
    if find_spec("triton") is None:
        return Fault("Triton is not installed; install it with: pip install triton (on Windows: triton-windows)")
    if device.type == "cpu":
        return None
    try:
        if torch.version.hip is None:
            capability = torch.cuda.get_device_capability(device)
            if capability < _OLDEST_CAPABILITY:
                have, need = (".".join(map(str, version)) for version in (capability, _OLDEST_CAPABILITY))
                return Fault(f"the GPU {device} has compute capability {have}; its kernels need {need} or newer")
        _launch(device)
    except torch.OutOfMemoryError:
        # Whoever asks now has too little memory for anything else; the answer must not outlive that.
        raise
    except Exception as error:
        # PyTorch raises what the driver raises, Triton whatever its compilers or the launcher's build raise.
        return Fault(f"Triton cannot launch a kernel on {device}: {_words(error)}")
    return None


def _words(error: Exception) -> str:
    """Return what went wrong, and what to do where that is known."""
    if isinstance(error, (subprocess.CalledProcessError, FileNotFoundError)):
        tool = error.cmd[0] if isinstance(error, subprocess.CalledProcessError) else error.filename
        return (
            f"{tool} did not build its launcher; install a C compiler and Python's headers "
            "(Debian: apt install gcc python3-dev), or name another compiler in CC"
        )
    words = (str(error).strip() or type(error).__name__).splitlines()[0]
    if "C compiler" in words:
        words += "; install a C compiler (Debian: apt install gcc) or name one in CC"
    return words


def _launch(device: torch.device) -> None:
    from .trial import write_one

    with torch.cuda.device(device):
        write_one[(1,)](torch.empty(1, dtype=torch.int32, device=device))
