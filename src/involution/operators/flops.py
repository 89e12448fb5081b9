"""PyTorch's register of FLOP formulas, imported so that the process lives on where TensorFlow was loaded before."""

from __future__ import annotations

import os
import sys


def _load_triton_apart() -> None:
    """Let Triton's library, which the register looks for, keep to its own symbols.

    It holds LLVM, as TensorFlow's does, whose symbols are found first by all that is loaded after it: LLVM would be told
    its options a second time and end the process. The other order needs nothing, for Triton shows its symbols to nobody.
    """
    deep = getattr(os, "RTLD_DEEPBIND", None)
    if deep is None or "tensorflow" not in sys.modules or "triton" in sys.modules:
        return
    flags = sys.getdlopenflags()
    sys.setdlopenflags(os.RTLD_NOW | deep)
    try:
        import triton  # noqa: F401
    except ImportError:
        # PyTorch's builds for CPUs need none.
        return
    finally:
        sys.setdlopenflags(flags)


_load_triton_apart()

from torch.utils.flop_counter import register_flop_formula  # noqa: E402

__all__ = ["register_flop_formula"]
