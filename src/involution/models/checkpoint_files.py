"""Files of weights, whoever wrote them, read without running code from them.

safetensors, PyTorch's ``weights_only`` unpickler, and for PaddleClas a reader that knows arrays and nothing else.
"""

from __future__ import annotations

import pickle
import pickletools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from ..errors import CheckpointError, in_one_line

__all__ = ["content", "metadata", "of_their_own", "refuse_not_plain", "unpickled", "without_wrappers"]

# What DataParallel and torch.compile put in front of every name of the net that they wrap.
_WRAPPERS = ("module.", "_orig_mod.")
# What AveragedModel, which wraps as DataParallel does, has beside the net.
_COUNTER = "n_averaged"


def content(path: Path) -> Any:
    """Return what lies in ``.safetensors``, ``.pdparams`` or, with any other ending, what ``torch.save`` wrote.

    Raises:
        CheckpointError: the file is missing, damaged, or a pickle that wants to run code.
    """
    _refuse_missing(path)
    readers: dict[str, Callable[[Path], Any]] = {".safetensors": _read_safetensors, ".pdparams": _read_paddle}
    return readers.get(path.suffix, unpickled)(path)


def metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a ``.safetensors`` file; those of any other are none.

    Raises:
        CheckpointError: as `content`.
    """
    if path.suffix != ".safetensors":
        return {}
    _refuse_missing(path)
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except Exception as error:
        raise _no_safetensors(path, error) from error


def unpickled(path: Path) -> Any:
    """Return what ``torch.save`` wrote.

    Raises:
        CheckpointError: as `content`.
    """
    _refuse_missing(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        text = str(error)
        wanted = re.search(r"GLOBAL ([\w.]+)", text)
        if not wanted and not re.search("allowlisted|unrecognized function", text):
            # What no pickle contains, neither a harmless nor a harmful one.
            said = re.search(r"WeightsUnpickler error: (.+)", text)
            reason = said[1] if said else "its pickle cannot be read"
            raise CheckpointError(f"{path} is damaged or no checkpoint: {reason}; copy or save it anew") from error
        what = f"it asks for {wanted[1]}" if wanted else "it holds more than weights"
        raise CheckpointError(
            f"{path} was refused, because loading it could run code ({what}); save its state_dict alone, "
            "best as safetensors, where you trust it"
        ) from error
    except Exception as error:
        # Damaged pickles make the unpickler raise anything.
        reason = in_one_line(error).partition(". This is an internal miniz error")[0]
        raise CheckpointError(f"{path} is damaged or no checkpoint: {reason}; copy or save it anew") from error


def without_wrappers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of the net inside ``DataParallel``, ``AveragedModel`` and ``torch.compile``, in any order.

    A name changes where all begin so: a net may well have one part of the name ``module``.
    """
    named = {key: value for key, value in state.items() if key != _COUNTER}
    for prefix in _WRAPPERS:
        if named and all(key.startswith(prefix) for key in named):
            return without_wrappers({key.removeprefix(prefix): value for key, value in named.items()})
    return dict(state)


def refuse_not_plain(state: Mapping[str, Tensor], path: Path) -> None:
    """Refuse tensors that are no plain tables of numbers: nets have none such, and other formats no place for them.

    Raises:
        CheckpointError: a tensor is quantised, sparse or on the device ``meta``; the message names it and the remedy.
    """
    for name, value in state.items():
        problem = (
            ("is on the device meta and has no numbers", "save the net again once it has weights")
            if value.is_meta
            else ("is quantised", "save value.dequantize() in its place")
            if value.is_quantized
            else ("is sparse", "save value.to_dense() in its place")
            if value.layout != torch.strided
            else None
        )
        if problem:
            raise CheckpointError(f"{path}: expected plain tensors, but {name} {problem[0]}; {problem[1]}")


def of_their_own(state: Mapping[str, Tensor], *, tied: bool) -> dict[str, Tensor]:
    """Return the tensors with as much memory as they have numbers: of a view, the whole would be saved.

    Args:
        state: whose tensors may be views of larger ones, or the same under several names.
        tied: whether those that share their memory go on doing so; they are copied where not.
    """
    new, seen = {}, set()
    for name, value in state.items():
        memory = value.untyped_storage()
        is_copied = memory.nbytes() > value.nbytes or (not tied and memory.data_ptr() in seen)
        seen.add(memory.data_ptr())
        new[name] = value.detach().clone() if is_copied else value
    return new


def _refuse_missing(path: Path) -> None:
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint at {path}")


def _read_safetensors(path: Path) -> Any:
    try:
        return load_file(path)
    except Exception as error:
        raise _no_safetensors(path, error) from error


def _no_safetensors(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path} is damaged or no safetensors file: {in_one_line(error)}; copy or save it anew")


class _ForbiddenGlobalError(Exception):
    pass


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles NumPy arrays in plain containers."""

    _ALLOWED = {
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("_codecs", "encode"),
        ("collections", "OrderedDict"),
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise _ForbiddenGlobalError(f"{module}.{name}")
        return super().find_class(module, name)


def _check_numbers_of_objects(path: Path) -> None:
    """Refuse a pickle that gives an object a number beyond its bytes: the unpickler would make a table of that length."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument is not None and argument > size:
                raise ValueError(f"it numbers an object {argument} and has {size} bytes")


def _read_paddle(path: Path) -> Any:
    import numpy as np

    try:
        _check_numbers_of_objects(path)
        with path.open("rb") as stream:
            content = _ArrayUnpickler(stream, encoding="latin1").load()
        arrays = {k: v for k, v in content.items() if isinstance(v, np.ndarray)} if isinstance(content, dict) else {}
        return {key: torch.from_numpy(np.array(value)) for key, value in arrays.items()}
    except _ForbiddenGlobalError as error:
        raise CheckpointError(
            f"{path} was refused, because loading it could run code (it asks for {error}); expected arrays by name"
        ) from error
    except Exception as error:
        raise CheckpointError(
            f"{path} is damaged or no PaddlePaddle checkpoint: {in_one_line(error)}; copy it anew"
        ) from error
