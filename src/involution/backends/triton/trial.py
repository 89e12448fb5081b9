"""The smallest kernel: what it takes to compile and launch it is what all others take."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def write_one(Out):
    """Write 1 to the first element."""
    tl.store(Out, 1)
