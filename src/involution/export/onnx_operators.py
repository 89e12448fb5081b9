"""Involution's own ONNX operators, of the domain ``involution``, which engines compute by this library's kernels.

They are those of backends/native/include/involution_engine.h: one node per call, whatever its numbers. The functions here
run while `torch.onnx.export` translates a program, as those of `involution.export.onnx_nodes` do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnx.defs import OpSchema
from onnxscript.values import Op, Opset

DOMAIN, VERSION = "involution", 1

_TYPES = ["tensor(float)", "tensor(float16)", "tensor(bfloat16)", "tensor(double)"]
_WINDOW = ("stride", "padding", "dilation")


def _operator(
    name: str, inputs: Sequence[str], optional: Sequence[str], lists: Sequence[str], numbers: Sequence[str]
) -> Op:
    """Return an operator of the domain: its inputs, and its attributes that are lists of integers or integers."""
    kinds = [(inputs, OpSchema.FormalParameterOption.Single), (optional, OpSchema.FormalParameterOption.Optional)]
    parameters = [OpSchema.FormalParameter(n, "T", param_option=option) for names, option in kinds for n in names]
    attributes = [OpSchema.Attribute(n, OpSchema.AttrType.INTS, n) for n in lists]
    attributes += [OpSchema.Attribute(n, OpSchema.AttrType.INT, n) for n in numbers]
    schema = OpSchema(
        name,
        DOMAIN,
        VERSION,
        inputs=parameters,
        outputs=[OpSchema.FormalParameter("output", "T")],
        type_constraints=[("T", _TYPES, "the type of all numbers")],
        attributes=attributes,
    )
    return Op(Opset(DOMAIN, VERSION), name, schema)


_INVOLUTION = _operator(
    "Involution",
    ("value", "hidden", "weight"),
    ("bias", "scale", "offset"),
    ("kernel_size", *_WINDOW),
    ("groups", "relu"),
)
_INVOLUTION_OF_FIELD = _operator("InvolutionOfField", ("input", "field"), (), _WINDOW, ())
_CORRELATION = _operator("Correlation", ("query", "key"), (), ("kernel_size", *_WINDOW), ("groups",))


def forward(
    input: Any,
    kernel: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    backend: str,
) -> Any:
    """Translate ``involution::forward``."""
    return _INVOLUTION_OF_FIELD(input, kernel, stride=[*stride], padding=[*padding], dilation=[*dilation])


def forward_of_span(
    value: Any,
    hidden: Any,
    weight: Any,
    bias: Any,
    groups: int,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    backend: str,
    scale: Any = None,
    offset: Any = None,
    relu: bool = False,
) -> Any:
    """Translate ``involution::forward_of_span``."""
    return _INVOLUTION(
        value,
        hidden,
        weight,
        bias,
        scale,
        offset,
        kernel_size=[*kernel_size],
        stride=[*stride],
        padding=[*padding],
        dilation=[*dilation],
        groups=groups,
        relu=int(relu),
    )


def kernel_gradient(
    grad_output: Any,
    input: Any,
    groups: int,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    backend: str,
) -> Any:
    """Translate ``involution::kernel_gradient``, the correlation of attention."""
    return _CORRELATION(
        grad_output,
        input,
        kernel_size=[*kernel_size],
        stride=[*stride],
        padding=[*padding],
        dilation=[*dilation],
        groups=groups,
    )
