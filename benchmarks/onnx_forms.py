"""How involution is best said in standard ONNX operators: forms of it against one another, in the engines that run them.

The operator alone, on the shapes of RedNet-50's stages, and the whole net beside ResNet-50: export time, nodes, size of
the graph without weights, and latency. ``library`` is what `involution.export.to_onnx` writes, ``decompositions`` what
`involution.export.decompositions` gives; the other forms live here only. Every form is checked against PyTorch before it
is timed, and all forms are timed once per round in one process.

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

import timm
import torch
import torchvision
from onnx import numpy_helper
from onnxscript import opset18 as op
from onnxscript import opset19
from torch import Tensor, nn

import involution.models  # noqa: F401
from involution import involution2d, records
from involution.export import decompositions, onnx_nodes, translations
from involution.export.onnx import remove_traces
from involution.export.onnx_nodes import contract, neighbours, padded, reshape, shifts, spatial
from involution.export.sessions import Session, open_onnx, open_openvino
from involution.geometry import Window

from .shapes import GROUP_CHANNELS, KERNEL, SHAPES
from .timing import medians

IMAGE = 224


# The forms: each returns the involution of a map (B, C, H, W) with numbers of a field (B, G, K_h, K_w, H', W').


def slices(x: Any, kernel: Any, grid: Any, channels: int, groups: int, window: Window) -> Any:
    """Slice, multiply and add K² times."""
    pixels = shifts(blocks(x, channels, groups, window), [3, 4], window)
    return added(pixels, kernel, grid, channels, groups, window)


def two_steps(x: Any, kernel: Any, grid: Any, channels: int, groups: int, window: Window) -> Any:
    """Slice columns K times and rows of those K² times, whose pixels lie one after the other; multiply and add."""
    rows, columns = (Window(*(numbers[axis : axis + 1] for numbers in window)) for axis in (0, 1))
    by_column = [shifts(c, [3], rows) for c in shifts(blocks(x, channels, groups, window), [4], columns)]
    pixels = [pixel for row in zip(*by_column, strict=True) for pixel in row]
    return added(pixels, kernel, grid, channels, groups, window)


def blocks(x: Any, channels: int, groups: int, window: Window) -> Any:
    x = padded(x, window)
    return reshape(x, 0, groups, channels // groups, *spatial(x, 2))


def added(pixels: list[Any], kernel: Any, grid: Any, channels: int, groups: int, window: Window) -> Any:
    taps = prod(window.kernel_size)
    kernels = op.Split(reshape(kernel, 0, groups, taps, *grid), axis=2, num_outputs=taps)
    terms = [op.Mul(pixel, k) for pixel, k in zip(pixels, kernels, strict=True)]
    total = terms[0]
    for term in terms[1:]:
        total = op.Add(total, term)
    return reshape(total, 0, channels, *grid)


def added_rows(x: Any, kernel: Any, grid: Any, channels: int, groups: int, window: Window) -> Any:
    """Put K slices of columns into one tensor, slice K rows of that, multiply and add; sum last."""
    total = None
    for row, weights in rows(x, kernel, grid, channels, groups, window):
        term = op.Mul(row, weights)
        total = term if total is None else op.Add(total, term)
    return reshape(op.ReduceSum(total, [3], keepdims=0), 0, channels, *grid)


def summed_rows(x: Any, kernel: Any, grid: Any, channels: int, groups: int, window: Window) -> Any:
    """Put K slices of columns into one tensor, slice K rows of that, multiply and sum each."""
    total = None
    for row, weights in rows(x, kernel, grid, channels, groups, window):
        term = op.ReduceSum(op.Mul(row, weights), [3], keepdims=0)
        total = term if total is None else op.Add(total, term)
    return reshape(total, 0, channels, *grid)


def rows(x: Any, kernel: Any, grid: Any, channels: int, groups: int, window: Window) -> Any:
    kernel = reshape(kernel, 0, groups, *window.kernel_size, *grid)
    kernels = op.Split(kernel, axis=2, num_outputs=window.kernel_size[0])
    return zip(neighbours(x, channels, groups, window), kernels, strict=True)


def unfolded(x: Any, kernel: Any, grid: Any, channels: int, groups: int, window: Window) -> Any:
    """Put the K² slices into one tensor, multiply and sum once."""
    pixels = [op.Unsqueeze(pixel, [3]) for pixel in shifts(blocks(x, channels, groups, window), [3, 4], window)]
    products = op.Mul(op.Concat(*pixels, axis=3), reshape(kernel, 0, groups, 1, prod(window.kernel_size), *grid))
    return reshape(op.ReduceSum(products, [3], keepdims=0), 0, channels, *grid)


def gathered(x: Any, kernel: Any, grid: Any, channels: int, groups: int, window: Window) -> Any:
    """Gather the rows and the columns of every window, multiply and sum once."""
    x = blocks(x, channels, groups, window)
    for axis in (0, 1):
        pixels = op.Mul(op.Range(0, op.Squeeze(grid[axis], [0]), 1), op.Constant(value_int=window.stride[axis]))
        taps = op.Constant(value_ints=[t * window.dilation[axis] for t in range(window.kernel_size[axis])])
        x = op.Gather(x, op.Add(op.Unsqueeze(taps, [1]), pixels), axis=3 + 2 * axis)
    # (B, G, C/G, K_h, H', K_w, W')
    kernel = op.Transpose(reshape(kernel, 0, groups, *window.kernel_size, *grid), perm=[0, 1, 2, 4, 3, 5])
    products = op.Mul(x, op.Unsqueeze(kernel, [2]))
    return reshape(op.ReduceSum(products, [3, 5], keepdims=0), 0, channels, *grid)


def one_hot(x: Any, kernel: Any, grid: Any, channels: int, groups: int, window: Window) -> Any:
    """Unfold by a convolution of K² one-hot filters per channel, multiply and sum once."""
    taps = prod(window.kernel_size)
    filters = torch.eye(taps).view(taps, 1, *window.kernel_size).repeat(channels, 1, 1, 1)
    pads = [*window.padding, *window.padding]
    x = op.Conv(x, constant(filters), group=channels, pads=pads, strides=window.stride, dilations=window.dilation)
    pixels = reshape(x, 0, groups, channels // groups, taps, *grid)
    products = op.Mul(pixels, reshape(kernel, 0, groups, 1, taps, *grid))
    return reshape(op.ReduceSum(products, [3], keepdims=0), 0, channels, *grid)


def deformable(x: Any, kernel: Any, grid: Any, channels: int, groups: int, window: Window) -> Any:
    """A deformable convolution of ones that moves no tap and takes the field as its mask: one node, of opset 19."""
    taps = prod(window.kernel_size)
    offsets = op.Concat(op.Shape(x, start=0, end=1), op.Constant(value_ints=[2 * groups * taps]), *grid, axis=0)
    return opset19.DeformConv(
        x,
        constant(torch.ones(channels, 1, *window.kernel_size)),
        op.Expand(op.Constant(value_float=0.0), offsets),
        None,
        reshape(kernel, 0, groups * taps, *grid),
        group=channels,
        offset_group=groups,
        kernel_shape=window.kernel_size,
        pads=[*window.padding, *window.padding],
        strides=window.stride,
        dilations=window.dilation,
    )


def constant(tensor: Tensor) -> Any:
    return op.Constant(value=numpy_helper.from_array(tensor.numpy()))


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


def onnx_file(model: nn.Module, inputs: tuple[Tensor, ...], table: dict | None, folder: Path, name: str) -> Any:
    """Export a model, without a table through `decompositions`; return its file, and what the graph costs."""
    start = time.perf_counter()
    program = torch.export.export(model.eval(), inputs)
    if table is None:
        program = program.run_decompositions(decompositions())
    program = torch.onnx.export(program, dynamo=True, custom_translation_table=table, verbose=False)
    figures = {"export_s": time.perf_counter() - start, "nodes": sum(1 for _ in program.model.graph)}
    remove_traces(program)
    file, bare = folder / f"{name}.onnx", folder / f"{name}-bare.onnx"
    program.save(file)
    program.save(bare, include_initializers=False)
    return file, {**figures, "graph_mb": bare.stat().st_size / 1e6}


ENGINES: dict[str, Callable[..., Session]] = {"onnxruntime": open_onnx, "openvino": open_openvino}


def session(engine: str, file: Path, threads: int, inputs: tuple[Tensor, ...], expected: Tensor) -> Callable | str:
    """Return a function that runs the model once, or in one line why it cannot be timed."""
    try:
        run = ENGINES[engine](file, threads=threads)
        difference = (run(inputs)[0] - expected).norm() / expected.norm()
    except Exception as error:
        return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')[:160]}"
    return (lambda: run(inputs)) if difference < 1e-4 else f"differs from PyTorch by {difference:.1e}"


# What is measured.


def operator_rows(arguments: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    rows = []
    for (channels, size), batch in product(SHAPES, arguments.batch):
        groups = channels // GROUP_CHANNELS
        inputs = (torch.randn(batch, channels, size, size), torch.randn(batch, groups, KERNEL, KERNEL, size, size))
        expected = involution2d(*inputs)
        files = {n: onnx_file(Operator(), inputs, table_of(FORMS[n]), folder, n.split()[0]) for n in arguments.forms}
        for engine, threads in product(arguments.engines, arguments.threads):
            sessions = {n: session(engine, file, threads, inputs, expected) for n, (file, _) in files.items()}
            row = {"engine": engine, "threads": threads, "batch": batch, "channels": channels, "size": size}
            rows.append(timed(row, sessions, files, max(5, arguments.rounds // batch)))
    return rows


def net_rows(arguments: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    rednet = timm.create_model("rednet50").eval()
    models = {name: (rednet, table_of(FORMS[name]) if name in FORMS else None) for name in arguments.nets}
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
            sessions = {n: session(engine, f, threads, (x,), expected[n]) for n, (f, _) in files.items()}
            row = {"engine": engine, "threads": threads, "batch": batch}
            rows.append(timed(row, sessions, files, max(5, arguments.rounds // batch)))
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
    parser.add_argument("--nets", nargs="*", default=["library", "slices"], choices=[*FORMS, "decompositions"])
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
