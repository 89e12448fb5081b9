"""What a package of AOTInductor takes: its machine code reads memory by the example's sizes, and checks nothing itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from ..errors import ExportError

__all__ = ["METADATA", "CheckedPackage", "forms_of"]

# Under which a package keeps `forms_of` its inputs.
METADATA = "involution_inputs"


def forms_of(program: ExportedProgram, inputs: Sequence[Tensor]) -> str:
    """Return dtype, order of dimensions in memory and sizes of every input of a program, as JSON.

    A size is a number, or of a dynamic dimension its name and which sizes it may have.

    Args:
        program: what is compiled.
        inputs: the examples, dense in memory.
    """
    places = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    forms = []
    for name, example in zip(program.graph_signature.user_inputs, inputs, strict=True):
        strides, dtype = example.stride(), str(example.dtype).removeprefix("torch.")
        order = sorted(range(example.ndim), key=lambda axis: -strides[axis])
        sizes = [_size(program, size) for size in places[name].shape]
        forms.append({"dtype": dtype, "order": order, "sizes": sizes})
    return json.dumps(forms)


class CheckedPackage:
    """A package of AOTInductor that refuses what it was not compiled for, and takes images in any memory layout.

    Args:
        package: the loaded package.
        file: where it is from, for messages.

    Raises:
        ExportError: the package does not say what it takes.
    """

    def __init__(self, package: Any, file: str) -> None:
        text = package.get_metadata().get(METADATA)
        if text is None:
            raise ExportError(f"{file} does not say what inputs it takes; write it anew with involution export")
        self._package: Callable[..., Any] = package
        self._forms: list[dict[str, Any]] = json.loads(text)

    def __call__(self, *inputs: Tensor) -> Any:
        """Return what the model returns of ``inputs``.

        Raises:
            TypeError: another number of inputs, no tensor, or one of another dtype or device.
            ValueError: a size that the file was not made for.
        """
        if len(inputs) != len(self._forms):
            raise TypeError(f"the file takes {len(self._forms)} inputs, got {len(inputs)}")
        sizes: dict[str, int] = {}
        return self._package(*[_fitting(i, x, form, sizes) for i, (x, form) in enumerate(zip(inputs, self._forms))])


def _fitting(place: int, x: Tensor, form: Mapping[str, Any], sizes: dict[str, int]) -> Tensor:
    """Return an input as the package reads it; ``sizes`` are those that dynamic dimensions have so far."""
    if not isinstance(x, Tensor) or x.device.type != "cpu":
        got = f"one on {x.device}" if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"input {place} must be a tensor on the CPU, got {got}")
    dtype = getattr(torch, form["dtype"])
    if x.dtype != dtype:
        raise TypeError(f"input {place} must be of {dtype}, got {x.dtype}; convert it with .to({dtype})")
    if x.ndim != len(form["sizes"]) or not all(_fits(n, size, sizes) for n, size in zip(x.shape, form["sizes"])):
        expected = ", ".join(map(_in_words, form["sizes"]))
        raise ValueError(
            f"input {place} must have the sizes ({expected}), got {tuple(x.shape)}; export the model for others, with "
            "dynamic_shapes or --dynamic for any"
        )
    order: list[int] = form["order"]
    return x.permute(order).contiguous().permute([order.index(axis) for axis in range(x.ndim)])


def _size(program: ExportedProgram, size: Any) -> int | dict[str, Any]:
    if isinstance(size, int):
        return size
    expression = size.node.expr
    symbols = expression.free_symbols
    symbol = next(iter(symbols))
    multiple = expression.coeff(symbol)
    if len(symbols) > 1 or expression != multiple * symbol:
        raise ExportError(
            f"a dynamic size is {expression}; a package takes sizes that are a dimension or a multiple of one"
        )
    allowed = program.range_constraints[symbol]
    return {
        "name": str(symbol),
        "multiple": int(multiple),
        "least": int(allowed.lower),
        "most": int(allowed.upper) if allowed.upper.is_Integer else None,
    }


def _fits(n: int, size: int | Mapping[str, Any], sizes: dict[str, int]) -> bool:
    if isinstance(size, int):
        return n == size
    units, rest = divmod(n, size["multiple"])
    at_most = size["most"] is None or units <= size["most"]
    return not rest and size["least"] <= units and at_most and sizes.setdefault(size["name"], units) == units


def _in_words(size: int | Mapping[str, Any]) -> str:
    if isinstance(size, int):
        return str(size)
    multiple = size["multiple"]
    words = f"{size['name']} from {size['least'] * multiple}"
    words += "" if size["most"] is None else f" to {size['most'] * multiple}"
    return words if multiple == 1 else f"{words} in steps of {multiple}"
