"""A net that a description names, made without memory for its weights and compared with the file that has them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as modules
from torch.nn.parameter import UninitializedParameter

from ..errors import CheckpointError

__all__ = ["blueprint", "size_of_weights"]

# What a file of weights takes for the name of a part at least, and what a net may have beyond all that (heads that are
# made and replaced, parts without weights).
_BYTES_OF_A_NAME, _PARTS_BESIDE, _NUMBERS_BESIDE = 16, 1000, 2**20


def size_of_weights(folder: Path) -> int:
    """Return the bytes of all files of weights in a folder, 0 where there are none."""
    endings = (".safetensors", ".bin", ".pth")
    return sum(path.stat().st_size for path in folder.glob("*") if path.suffix in endings and path.is_file())


def blueprint(make: Callable[[], nn.Module], size: int) -> nn.Module:
    """Make a net on the device ``meta``, and stop where it becomes larger than its weights can be.

    Args:
        make: makes the net.
        size: of its weights, in bytes. A number takes one at least; a net twice as large is let pass.

    Raises:
        CheckpointError: the net has more numbers, or more parts, than fit into the weights.
    """
    numbers = parts = 0

    def refuse() -> None:
        raise CheckpointError(
            f"the net would have more than {numbers - 1:,} numbers in {parts:,} parts, and its weights have {size:,} bytes"
        )

    def count_numbers(module: nn.Module, name: str, parameter: Any) -> None:
        nonlocal numbers
        if parameter is not None and not isinstance(parameter, UninitializedParameter):
            numbers += parameter.numel()
        if numbers > 2 * size + _NUMBERS_BESIDE:
            refuse()

    def count_parts(module: nn.Module, name: str, part: Any) -> None:
        nonlocal parts
        parts += 1
        if parts > size // _BYTES_OF_A_NAME + _PARTS_BESIDE:
            refuse()

    handles = [
        modules.register_module_parameter_registration_hook(count_numbers),
        modules.register_module_module_registration_hook(count_parts),
    ]
    try:
        with torch.device("meta"):
            return make()
    finally:
        for handle in handles:
            handle.remove()
