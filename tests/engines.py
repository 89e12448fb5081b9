"""Nets and single nodes for the engines that nets are exported to: every geometry and operator in one program, and others."""

from math import prod

import torch
from cases import CASES, Case
from torch import nn

from involution import functional, involution2d, involution_of_span

# Groups of 1 to 64 channels, batches of 0 to 3, every vector length with what is left over.
ENGINE_CASES = [
    *CASES,
    Case((6, 7), channels=64, groups=1, batch=3),
    Case((5, 9), channels=128, groups=2, kernel=5, batch=1),
    Case((5, 9), channels=90, groups=2, kernel=(5, 3)),
    Case((29, 31), channels=32, kernel=7),
]


class EveryCase(nn.Module):
    """Involution, fused generation and correlation over all geometries, in one graph: exporting takes longer than running."""

    def __init__(self, cases=ENGINE_CASES):
        super().__init__()
        self.cases = cases

    def forward(self, *tensors):
        results = []
        for case, (x, h, dy, hidden, weight, bias, scale, offset) in zip(
            self.cases, zip(*[iter(tensors)] * 8), strict=True
        ):
            correlation = getattr(functional, f"correlation{case.dims}d")
            results += [
                case.involution(x, h),
                involution_of_span(
                    x,
                    hidden,
                    weight,
                    bias,
                    groups=case.groups,
                    kernel_size=case.kernel_size,
                    scale=scale,
                    offset=offset,
                    relu=True,
                    **case.parameters,
                ),
                involution_of_span(
                    x, hidden, weight, groups=case.groups, kernel_size=case.kernel_size, **case.parameters
                ),
                involution_of_span(
                    x,
                    hidden,
                    weight,
                    offset=offset,
                    groups=case.groups,
                    kernel_size=case.kernel_size,
                    **case.parameters,
                ),
                correlation(dy, x, case.kernel_size, groups=case.groups, **case.parameters),
            ]
        return results


RESULTS = 5


def tensors_of(case):
    """Return what `EveryCase` takes of a case."""
    x, h, dy = case.tensors(torch.float32)
    rows = case.groups * prod(case.kernel_size)
    return (
        x,
        h,
        dy,
        torch.randn(case.batch, 3, *case.output_size),
        torch.randn(rows, 3, *[1] * case.dims),
        torch.randn(rows),
        torch.randn(case.channels),
        torch.randn(case.channels),
    )


def by_case(results):
    """Return the results of `EveryCase` by case."""
    return dict(zip(ENGINE_CASES, zip(*[iter(results)] * RESULTS), strict=True))


class Operator(nn.Module):
    """The operator in another dtype than its inputs: onnxruntime's Python takes no bfloat16."""

    def __init__(self, dtype):
        super().__init__()
        self.dtype = dtype

    def forward(self, x, h):
        return involution2d(x.to(self.dtype), h.to(self.dtype)).float()


def small_rednet():
    """Return a RedNet-26 whose norms do something."""
    from involution.models import rednet26

    torch.manual_seed(0)
    net = rednet26(num_classes=10).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 1.2)
            nn.init.uniform_(module.weight, 0.2, 0.6)
            nn.init.normal_(module.bias, 0, 0.1)
    return net


# A single node.

INVOLUTION = {
    "kernel_size": [3, 3],
    "stride": [1, 1],
    "padding": [1, 1],
    "dilation": [1, 1],
    "groups": 2,
    "relu": 0,
}
WINDOW = {name: INVOLUTION[name] for name in ("stride", "padding", "dilation")}
CORRELATION = {name: INVOLUTION[name] for name in ("kernel_size", "groups", *WINDOW)}


def of(attributes, **changes):
    """Return attributes with changes; None removes one."""
    return {name: value for name, value in (attributes | changes).items() if value is not None}


def model_of(op, inputs, attributes):
    """Return a model of one node whose inputs have any sizes."""
    import onnx

    names = ["abcdef"[i] if rank is not None else "" for i, rank in enumerate(inputs)]
    node = onnx.helper.make_node(op, names, ["y"], domain="involution", **attributes)
    kinds = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None] * rank)
        for name, rank in zip(names, inputs, strict=True)
        if name
    ]
    output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    graph = onnx.helper.make_graph([node], "g", kinds, [output])
    imports = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("involution", 1)]
    return onnx.helper.make_model(graph, opset_imports=imports, ir_version=10).SerializeToString()


# How its refusals end.
AGAIN = "write the file again with involution.export.to_onnx"
SIZES = "; hand the net inputs of the sizes that it was exported for"
