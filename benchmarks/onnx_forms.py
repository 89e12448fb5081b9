"""How involution is best said in standard ONNX operators: forms of it against one another, in the engines that run them.

The operator alone, on the shapes of RedNet-50's stages, and the whole net: export time, size of the graph, nodes and
latency. ``library`` is what `involution.export.to_onnx` writes; the other forms live here only. Every form is checked
against PyTorch before it is timed, and all forms are timed once per round in one process.

    python -m benchmarks.onnx_forms [--threads 1 2] [--batch 1 8] [--rounds 30] [--forms NAME …] [--nets NAME …]
                                    [--engines onnxruntime openvino] [--output results]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import numpy
import onnxruntime
import timm
import torch
import torchvision
from onnxscript import opset18 as op
from onnxscript import opset19
from torch import Tensor, nn

import involution.models  # noqa: F401
from involution import involution2d, records
from involution.export import onnx_nodes, translations
from involution.export.onnx_nodes import contract, neighbours, reshape, shifts, sizes
from involution.geometry import Window

from .timing import medians

IMAGE, KERNEL, GROUP_CHANNELS = 224, 7, 16
STAGES = ((64, 56), (128, 28), (256, 14), (512, 7))


# The forms: each returns the involution of a map (B, C, H, W) with a field (B, G, K_h, K_w, H', W').


def padded(x: Any, window: Window) -> Any:
    pads = [0, 0, *window.padding]
    return op.Pad(x, [*pads, *pads])


def slices(x: Any, kernel: Any, channels: int, groups: int, window: Window) -> Any:
    """Slice, multiply and add K² times."""
    taps, grid = prod(window.kernel_size), op.Shape(kernel, start=4)
    x = padded(x, window)
    x = reshape(x, [0, groups, channels // groups], sizes(x))
    kernels = op.Split(reshape(kernel, [0, groups, taps], grid), axis=2, num_outputs=taps)
    terms = [op.Mul(pixels, k) for pixels, k in zip(shifts(x, [3, 4], window), kernels, strict=True)]
    total = terms[0]
    for term in terms[1:]:
        total = op.Add(total, term)
    return reshape(total, [0, channels], grid)


def two_steps(x: Any, kernel: Any, channels: int, groups: int, window: Window) -> Any:
    """Slice columns K times and rows of those K² times, whose pixels lie one after the other; multiply and add."""
    taps, grid = prod(window.kernel_size), op.Shape(kernel, start=4)
    x = padded(x, window)
    x = reshape(x, [0, groups, channels // groups], sizes(x))
    rows, columns = (Window(*(numbers[axis : axis + 1] for numbers in window)) for axis in (0, 1))
    pixels = [shifts(column, [3], rows) for column in shifts(x, [4], columns)]
    kernels = op.Split(reshape(kernel, [0, groups, taps], grid), axis=2, num_outputs=taps)
    total = None
    for k, (u, v) in zip(kernels, product(*map(range, window.kernel_size)), strict=True):
        term = op.Mul(pixels[v][u], k)
        total = term if total is None else op.Add(total, term)
    return reshape(total, [0, channels], grid)


def summed_rows(x: Any, kernel: Any, channels: int, groups: int, window: Window) -> Any:
    """Put K slices of columns into one tensor, slice K rows of that, multiply and sum each."""
    grid = op.Shape(kernel, start=4)
    rows = window.kernel_size[0]
    kernels = op.Split(reshape(kernel, [0, groups, *window.kernel_size], grid), axis=2, num_outputs=rows)
    total = None
    for row, weights in zip(neighbours(x, channels, groups, window), kernels, strict=True):
        term = op.ReduceSum(op.Mul(row, weights), [3], keepdims=0)
        total = term if total is None else op.Add(total, term)
    return reshape(total, [0, channels], grid)


def added_rows(x: Any, kernel: Any, channels: int, groups: int, window: Window) -> Any:
    """Put K slices of columns into one tensor, slice K rows of that, multiply and add; sum last."""
    grid = op.Shape(kernel, start=4)
    rows = window.kernel_size[0]
    kernels = op.Split(reshape(kernel, [0, groups, *window.kernel_size], grid), axis=2, num_outputs=rows)
    total = None
    for row, weights in zip(neighbours(x, channels, groups, window), kernels, strict=True):
        term = op.Mul(row, weights)
        total = term if total is None else op.Add(total, term)
    return reshape(op.ReduceSum(total, [3], keepdims=0), [0, channels], grid)


def unfolded(x: Any, kernel: Any, channels: int, groups: int, window: Window) -> Any:
    """Put the K² slices into one tensor, multiply and sum once."""
    taps, grid = prod(window.kernel_size), op.Shape(kernel, start=4)
    x = padded(x, window)
    x = reshape(x, [0, groups, channels // groups, 1], sizes(x))
    columns = op.Concat(*shifts(x, [4, 5], window), axis=3)
    products = op.Mul(columns, reshape(kernel, [0, groups, 1, taps], grid))
    return reshape(op.ReduceSum(products, [3], keepdims=0), [0, channels], grid)


def gathered(x: Any, kernel: Any, channels: int, groups: int, window: Window) -> Any:
    """Gather the rows and the columns of every window, multiply and sum once."""
    x, grid = padded(x, window), op.Shape(kernel, start=4)
    x = reshape(x, [0, groups, channels // groups], sizes(x))
    for axis in (0, 1):
        count = op.Squeeze(op.Shape(kernel, start=4 + axis, end=5 + axis), [0])
        pixels = op.Mul(op.Range(0, count, 1), op.Constant(value_int=window.stride[axis]))
        taps = op.Constant(value_ints=[t * window.dilation[axis] for t in range(window.kernel_size[axis])])
        x = op.Gather(x, op.Add(op.Unsqueeze(taps, [1]), pixels), axis=3 + 2 * axis)
    # (B, G, C/G, K_h, H', K_w, W')
    kernel = op.Unsqueeze(op.Transpose(kernel, perm=[0, 1, 2, 4, 3, 5]), [2])
    return reshape(op.ReduceSum(op.Mul(x, kernel), [3, 5], keepdims=0), [0, channels], grid)


def one_hot(x: Any, kernel: Any, channels: int, groups: int, window: Window) -> Any:
    """Unfold by a convolution of K² one-hot filters per channel, multiply and sum once."""
    taps, grid = prod(window.kernel_size), op.Shape(kernel, start=4)
    filters = numpy.eye(taps, dtype=numpy.float32).reshape(taps, 1, *window.kernel_size)
    filters = torch.from_numpy(numpy.tile(filters, (channels, 1, 1, 1)))
    pads = [*window.padding, *window.padding]
    x = op.Conv(x, constant(filters), group=channels, pads=pads, strides=window.stride, dilations=window.dilation)
    products = op.Mul(
        reshape(x, [0, groups, channels // groups, taps], grid), reshape(kernel, [0, groups, 1, taps], grid)
    )
    return reshape(op.ReduceSum(products, [3], keepdims=0), [0, channels], grid)


def deformable(x: Any, kernel: Any, channels: int, groups: int, window: Window) -> Any:
    """A deformable convolution of ones that moves no tap and takes the field as its mask: one node."""
    taps, grid = prod(window.kernel_size), op.Shape(kernel, start=4)
    batch = op.Shape(kernel, start=0, end=1)
    offsets = op.Concat(batch, op.Constant(value_ints=[2 * groups * taps]), grid, axis=0)
    return opset19.DeformConv(
        x,
        constant(torch.ones(channels, 1, *window.kernel_size)),
        op.Expand(op.Constant(value_float=0.0), offsets),
        None,
        reshape(kernel, [0, groups * taps], grid),
        group=channels,
        offset_group=groups,
        kernel_shape=window.kernel_size,
        pads=[*window.padding, *window.padding],
        strides=window.stride,
        dilations=window.dilation,
    )


def bands(x: Any, kernel: Any, channels: int, groups: int, window: Window) -> Any:
    """Matrix products: K neighbouring pixels of a row see 2K columns, through a matrix with the field on its diagonals.

    It takes windows of stride and dilation 1 alone. Row j of a band is the kernel of pixel j, moved right by j: rows of
    one number more, read as rows of one less.
    """
    (rows, tile), width = window.kernel_size, 2 * window.kernel_size[1]
    if any(s != 1 for s in (*window.stride, *window.dilation)):
        raise ValueError(f"bands need stride and dilation 1, got {window}")
    height, columns = op.Shape(kernel, start=4, end=5), op.Shape(kernel, start=5, end=6)
    tiles = op.Div(op.Add(columns, [tile - 1]), [tile])
    whole = op.Mul(tiles, [tile])
    # Pixels: (B, G, H', tiles, K_h · 2K_w − 1, C/G).
    right = op.Sub(op.Add(whole, [tile - window.padding[1]]), op.Shape(x, start=3, end=4))
    top, left = window.padding
    x = op.Pad(x, op.Concat(op.Constant(value_ints=[0, 0, top, left, 0, 0, top]), right, axis=0))
    one = op.Constant(value_ints=[1])
    blocks = op.Concat(op.Shape(x, start=2, end=3), op.Add(tiles, one), op.Constant(value_ints=[tile]), axis=0)
    x = op.Transpose(reshape(x, [0, groups, channels // groups], blocks), perm=[0, 1, 3, 4, 5, 2])
    x = op.Concat(op.Slice(x, [0], [-1], [3]), op.Slice(x, [1], [2**62], [3]), axis=4)
    ends = [t + 1 - rows or 2**62 for t in range(rows)]
    seen = [op.Slice(x, [t, 0], [end, width - (t == rows - 1)], [2, 4]) for t, end in enumerate(ends)]
    seen = op.Concat(*seen, axis=4)
    # Bands: (B, G, H', tiles, K_w, K_h · 2K_w − 1).
    more = op.Concat(op.Constant(value_ints=[0] * 9 + [tile, 0]), op.Sub(whole, columns), axis=0)
    kernel = op.Pad(kernel, more)
    kernel = reshape(kernel, [0, groups, rows, width], op.Concat(height, tiles, op.Constant(value_ints=[tile]), axis=0))
    kernel = op.Transpose(kernel, perm=[0, 1, 4, 5, 6, 2, 3])
    length = rows * width
    grid = op.Concat(height, tiles, axis=0)

    def lines(value: Any, last: list[int]) -> Any:
        return op.Reshape(
            value, op.Concat(op.Constant(value_ints=[0, groups]), grid, op.Constant(value_ints=last), axis=0)
        )

    kernel = op.Slice(lines(kernel, [tile * length]), [0], [tile * (length - 1)], [4])
    y = op.MatMul(lines(kernel, [tile, length - 1]), seen)
    y = reshape(op.Transpose(y, perm=[0, 1, 5, 2, 3, 4]), [0, channels], op.Concat(height, whole, axis=0))
    return op.Slice(y, [0], columns, [3])


def constant(tensor: Tensor) -> Any:
    import onnx

    return op.Constant(value=onnx.numpy_helper.from_array(tensor.numpy()))


FORMS: dict[str, Callable[..., Any]] = {
    "library": contract,
    "slices": slices,
    "two-step slices": two_steps,
    "summed rows": summed_rows,
    "added rows": added_rows,
    "unfolded": unfolded,
    "gathered": gathered,
    "one-hot convolution": one_hot,
    "deformable convolution": deformable,
    "bands": bands,
}


# From a form to a model of an engine.


def table_of(form: Callable[..., Any]) -> dict[Any, Callable[..., Any]]:
    """Return the library's translations with another form in the place of its own."""

    def translated(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            own, onnx_nodes.contract = onnx_nodes.contract, form
            try:
                return function(*arguments, **more)
            finally:
                onnx_nodes.contract = own

        return call

    return {operator: translated(function) for operator, function in translations().items()}


class Operator(nn.Module):
    """The operator alone."""

    def forward(self, x: Tensor, field: Tensor) -> Tensor:
        return involution2d(x, field)


def onnx_file(model: nn.Module, inputs: tuple[Tensor, ...], table: dict, folder: Path, name: str) -> tuple[Path, dict]:
    """Export a model; return its file, and seconds, nodes and size of the graph without its weights."""
    start = time.perf_counter()
    program = torch.onnx.export(model.eval(), inputs, dynamo=True, custom_translation_table=table, verbose=False)
    figures = {"export_s": time.perf_counter() - start, "nodes": sum(1 for _ in program.model.graph)}
    file, bare = folder / f"{name}.onnx", folder / f"{name}-bare.onnx"
    program.save(file)
    program.save(bare, include_initializers=False)
    return file, {**figures, "graph_mb": bare.stat().st_size / 1e6}


def in_onnxruntime(file: Path, threads: int) -> Callable[[list[numpy.ndarray]], numpy.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return lambda arrays: session.run(None, dict(zip(names, arrays, strict=True)))[0]


def in_openvino(file: Path, threads: int) -> Callable[[list[numpy.ndarray]], numpy.ndarray]:
    import openvino

    options = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    compiled = openvino.Core().compile_model(file, "CPU", options)
    request = compiled.create_infer_request()
    return lambda arrays: request.infer(arrays, share_inputs=True)[0]


ENGINES = {"onnxruntime": in_onnxruntime, "openvino": in_openvino}


def session(engine: str, file: Path, threads: int, arrays: list[numpy.ndarray], expected: Tensor) -> Callable | str:
    """Return a function that runs the model once, or in one line why it cannot be timed."""
    try:
        run = ENGINES[engine](file, threads)
        difference = (torch.from_numpy(numpy.array(run(arrays))) - expected).norm() / expected.norm()
    except Exception as error:
        return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')[:160]}"
    return (lambda: run(arrays)) if difference < 1e-4 else f"differs from PyTorch by {difference:.1e}"


# What is measured.


def operator_rows(arguments: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    rows = []
    for (channels, size), batch in product(STAGES, arguments.batch):
        groups = channels // GROUP_CHANNELS
        inputs = (torch.randn(batch, channels, size, size), torch.randn(batch, groups, KERNEL, KERNEL, size, size))
        expected, arrays = involution2d(*inputs), [tensor.numpy() for tensor in inputs]
        files = {n: onnx_file(Operator(), inputs, table_of(FORMS[n]), folder, n.split()[0]) for n in arguments.forms}
        for engine, threads in product(arguments.engines, arguments.threads):
            sessions = {n: session(engine, file, threads, arrays, expected) for n, (file, _) in files.items()}
            row = {"engine": engine, "threads": threads, "batch": batch, "channels": channels, "size": size}
            rows.append(timed(row, sessions, files, arguments.rounds))
    return rows


def net_rows(arguments: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    rednet = timm.create_model("rednet50").eval()
    models = {name: (rednet, table_of(FORMS[name])) for name in arguments.nets}
    models["resnet50"] = (torchvision.models.resnet50().eval(), {})
    rows = []
    for batch in arguments.batch:
        x = torch.randn(batch, 3, IMAGE, IMAGE)
        files, expected = {}, {}
        for name, (model, table) in models.items():
            files[name] = onnx_file(model, (x,), table, folder, name.split()[0])
            with torch.no_grad():
                expected[name] = model(x)
        for engine, threads in product(arguments.engines, arguments.threads):
            sessions = {n: session(engine, f, threads, [x.numpy()], expected[n]) for n, (f, _) in files.items()}
            rows.append(
                timed({"engine": engine, "threads": threads, "batch": batch}, sessions, files, arguments.rounds)
            )
    return rows


def timed(row: dict[str, Any], sessions: dict[str, Any], files: dict[str, Any], rounds: int) -> dict[str, Any]:
    """Time what can be timed; print and return it with the rest."""
    times = medians({name: run for name, run in sessions.items() if callable(run)}, rounds)
    refused = {name: why for name, why in sessions.items() if isinstance(why, str)}
    figures = {name: more for name, (_, more) in files.items()}
    print("\n" + ", ".join(f"{key} {value}" for key, value in row.items()))
    for name, more in figures.items():
        result = f"{times[name]['median_ms']:8.2f} ms" if name in times else refused[name]
        print(
            f"  {name:24s} {more['nodes']:5d} nodes {more['graph_mb']:6.2f} MB {more['export_s']:6.1f} s  {result}",
            flush=True,
        )
    return {**row, "times": times, "graphs": figures, "refused": refused}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--forms", nargs="*", default=list(FORMS), choices=FORMS, help="of the operator alone")
    parser.add_argument("--nets", nargs="*", default=["library", "slices"], choices=FORMS, help="of RedNet-50")
    parser.add_argument("--engines", nargs="+", default=["onnxruntime"], choices=ENGINES)
    parser.add_argument("--output", type=Path, default=Path("results"))
    arguments = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        results = {
            "operator": operator_rows(arguments, Path(folder)) if arguments.forms else [],
            "nets": net_rows(arguments, Path(folder)) if arguments.nets else [],
        }
    engines = {name: metadata.version(name) for name in (*arguments.engines, "onnxscript")}
    print(f"\n{records.write('onnx-forms-cpu', {'seed': 0, 'engines': engines, 'results': results}, arguments.output)}")


if __name__ == "__main__":
    main()
