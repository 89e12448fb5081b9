"""Compile every GPU kernel ahead of time, without a GPU, and hold what comes out against budgets.

``python -m benchmarks.compile_check [--quick] [--target NAME …]`` prints a table and exits with 1 on a breach: a
spilt register, more registers or shared memory than budgeted, narrow loads where wide ones are promised, no tensor-core
instruction where they are promised.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from involution.backends.triton import banded_launch
from involution.backends.triton.banded_launch import BandedLaunch
from involution.backends.triton.launch import Launch, plan
from involution.geometry import Window
from involution.memory_layout import empty_field, empty_map

from .shapes import SHAPES

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
KERNELS = ("forward", "input_gradient", "kernel_gradient")
_TYPES = {torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32"}


class Check(NamedTuple):
    """One launch to compile and its budget.

    Attributes:
        name: what it is.
        launch: from the threads of a warp to the launch as a call would make it.
        dtypes: of the tensors, in the kernel's order.
        registers: most registers per thread.
        shared: most bytes of shared memory.
        wide_loads: fewest loads of 16 bytes.
        tensor_cores: whether it must use them.
        targets: where it is launched.
    """

    name: str
    launch: Callable[[int], Launch | BandedLaunch]
    dtypes: tuple[torch.dtype, ...]
    registers: int
    shared: int = 0
    wide_loads: int = 0
    tensor_cores: bool = False
    targets: tuple[str, ...] = tuple(TARGETS)


class Built(NamedTuple):
    """What the compiler made of a launch."""

    registers: int
    spills: int
    shared: int
    wide_loads: int
    tensor_cores: int
    instructions: int


def contraction(
    kernel: str,
    channels: int = 64,
    size: Sequence[int] = (56, 56),
    *,
    group_channels: int = 16,
    batch: int = 64,
    taps: int = 7,
    stride: int = 1,
    dilation: int = 1,
    dtype: torch.dtype = torch.bfloat16,
    channels_last: bool = True,
    registers: int = 168,
) -> Check:
    """Return the check of one contraction, from tensors without memory."""
    dims = len(size)
    kernel_size, padding = (taps,) * dims, (dilation * (taps - 1) // 2,) * dims
    window = Window(tuple(kernel_size), (stride,) * dims, padding, (dilation,) * dims)
    out = window.output_size(size)
    like = torch.empty(0, dtype=dtype, device="meta")
    # The map that the taps gather from always comes with its channels together.
    x = empty_map(like, (batch, channels, *size), channels_last or kernel != "input_gradient")
    y = empty_map(like, (batch, channels, *out), channels_last or kernel == "input_gradient")
    field = empty_field(like, (batch, channels // group_channels, *kernel_size, *out), channels_last)

    def launch(lanes: int) -> Launch:
        return plan(kernel, x, field, y, window, lanes)

    # The input gradient reaches a pixel from every s-th column, and takes sixteen of them at a time.
    columns = min(16, -(-taps // stride)) if kernel == "input_gradient" and dilation == 1 else taps
    # Whole groups of eight channels and more are read 16 bytes at a time: a load per column, two in float32.
    wide = group_channels * dtype.itemsize >= 16
    form = launch(32).kernel.fn.__module__.rpartition(".")[2]
    layout = "NHWC" if channels_last else "NCHW"
    name = (
        f"{form}.{kernel} {batch}x{channels}x{'x'.join(map(str, size))} C/G={group_channels} k{taps} s{stride} d{dilation} "
        f"{str(dtype).removeprefix('torch.')} {layout}"
    )
    return Check(name, launch, (dtype,) * 3, registers, 2048, wide_loads=columns if wide else 0)


def generation(
    channels: int, rows: int, *, batch: int = 64, taps: int = 7, dtype: torch.dtype = torch.bfloat16
) -> Check:
    """Return the check of generation and multiply-add in one kernel, 16 channels a group and a quarter of the channels hidden."""
    groups, hidden = channels // 16, channels // 4

    def launch(lanes: int) -> BandedLaunch:
        return banded_launch.plan(batch, (rows, rows), groups, 16, hidden, (taps, taps))

    name = (
        f"banded.forward {batch}x{channels}x{rows}x{rows} k{taps} hidden {hidden} {str(dtype).removeprefix('torch.')}"
    )
    targets = tuple(TARGETS) if hidden <= 64 else ("sm_80", "sm_90")
    return Check(name, launch, (dtype,) * 5, 192, 16384, wide_loads=1, tensor_cores=True, targets=targets)


def checks(quick: bool) -> Iterator[Check]:
    """Yield what is to be compiled; ``quick`` leaves a cross-section."""
    for kernel in KERNELS:
        yield contraction(kernel)
        yield contraction(kernel, stride=2)
    yield generation(64, 56)
    if quick:
        return
    for dtype in (torch.bfloat16, torch.float16):
        for channels, rows in SHAPES:
            if (dtype, channels) != (torch.bfloat16, 64):
                yield generation(channels, rows, dtype=dtype)
    yield generation(32, 112, taps=3)
    yield generation(512, 7, batch=1)
    yield generation(64, 4096)
    for kernel in KERNELS:
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            for channels, rows in SHAPES:
                if (dtype, channels) != (torch.bfloat16, 64):
                    yield contraction(kernel, channels, (rows, rows), dtype=dtype)
        yield contraction(kernel, dtype=torch.float32, stride=2)
        yield contraction(kernel, dilation=2)
        for stride in (1, 2):
            yield contraction(kernel, stride=stride, channels_last=False)
            yield contraction(kernel, 512, (7, 7), batch=1, stride=stride)
            yield contraction(kernel, size=(8, 16, 16), taps=3, stride=stride)
            yield contraction(kernel, size=(2048, 2048), taps=3, stride=stride)
            yield contraction(kernel, size=(4096,), stride=stride)
            for taps in (1, 9, 11):
                yield contraction(kernel, taps=taps, stride=stride)
            # AMD's compiler unrolls what the source does not.
            yield contraction(kernel, taps=32, stride=stride, registers=176)
            for group_channels in (1, 2, 4, 8, 32, 64, 128):
                yield contraction(kernel, 128, (28, 28), group_channels=group_channels, taps=3, stride=stride)


def signature(check: Check, lanes: int) -> tuple[dict[str, str], dict[Any, Any], dict[Any, Any]]:
    """Return types, constants and attributes of the arguments as Triton's launcher would find them.

    Launches of a kernel for which all three are the same share one compilation.
    """
    launch = check.launch(lanes)
    pointers = [_TYPES[dtype] for dtype in check.dtypes]
    types, constants, attributes = {}, {}, {}
    values: list[Any] = [*pointers, *launch.arguments]
    for index, (parameter, value) in enumerate(zip(launch.kernel.params, values, strict=True)):
        if isinstance(value, str):
            types[parameter.name] = value
            attributes[(index,)] = [["tt.divisibility", 16]]
        elif parameter.is_constexpr or (value == 1 and not parameter.do_not_specialize):
            types[parameter.name] = "constexpr"
            constants[(index,)] = value
        else:
            types[parameter.name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            if value % 16 == 0 and not parameter.do_not_specialize:
                attributes[(index,)] = [["tt.divisibility", 16]]
    return types, constants, attributes


def build(check: Check, target: str) -> Built:
    """Compile a launch as Triton's launcher would for these arguments."""
    lanes = TARGETS[target].warp_size
    types, constants, attributes = signature(check, lanes)
    launch = check.launch(lanes)
    source = ASTSource(fn=launch.kernel, signature=types, constexprs=constants, attrs=attributes)
    compiled = triton.compile(source, target=TARGETS[target], options=launch.options)
    return _amd(compiled) if "hsaco" in compiled.asm else _nvidia(compiled)


def _nvidia(compiled: Any) -> Built:
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()

        def run(tool: str, option: str) -> str:
            return subprocess.run([tools / tool, option, file.name], capture_output=True, text=True, check=True).stdout

        usage = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", run("cuobjdump", "--dump-resource-usage"))
        listing = run("nvdisasm", "-c")
    if usage is None:
        raise RuntimeError("cuobjdump printed no resource usage")
    found = re.findall(r"^\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]+)", listing, re.MULTILINE)
    instructions = Counter(found)
    first = Counter(name.partition(".")[0] for name in found)
    return Built(
        registers=int(usage[1]),
        spills=first["LDL"] + first["STL"],
        shared=compiled.metadata.shared,
        wide_loads=sum(n for name, n in instructions.items() if name.startswith("LDG") and ".128" in name),
        tensor_cores=first["HMMA"] + first["HGMMA"],
        instructions=len(found) - first["NOP"],
    )


def _amd(compiled: Any) -> Built:
    listing = compiled.asm["amdgcn"]

    def number(key: str) -> int:
        match = re.search(rf"\.{key}:\s+(\d+)", listing)
        if match is None:
            raise RuntimeError(f"the listing names no {key}")
        return int(match[1])

    found = re.findall(r"^\s+([a-z][a-z0-9_]+)\s", listing, re.MULTILINE)
    return Built(
        registers=number("vgpr_count"),
        spills=number("vgpr_spill_count") + number("sgpr_spill_count"),
        shared=number("group_segment_fixed_size"),
        wide_loads=sum(name in ("global_load_dwordx4", "buffer_load_dwordx4") for name in found),
        tensor_cores=sum(name.startswith("v_mfma") for name in found),
        instructions=len(found),
    )


def breaches(check: Check, built: Built, target: str) -> list[str]:
    """Return what exceeds the budget, in words."""
    words = []
    # A thread has twice the registers on AMD GPUs.
    registers = check.registers * 2 if TARGETS[target].backend == "hip" else check.registers
    if built.spills:
        words.append(f"{built.spills} spills")
    if built.registers > registers:
        words.append(f"{built.registers} registers, budget {registers}")
    if built.shared > check.shared:
        words.append(f"{built.shared} bytes of shared memory, budget {check.shared}")
    if built.wide_loads < check.wide_loads:
        words.append(f"{built.wide_loads} loads of 16 bytes, promised {check.wide_loads}")
    if check.tensor_cores and not built.tensor_cores:
        words.append("no tensor-core instruction")
    return words


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the checks; return 1 on a breach."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a cross-section instead of every row")
    parser.add_argument("--target", action="append", choices=TARGETS, help="by default all")
    parser.add_argument("--only", default="", help="checks whose name contains this")
    options = parser.parse_args(arguments)
    print(f"triton {triton.__version__}, torch {torch.__version__}")
    print(f"{'':8}{'target':8}{'regs':>5}{'spill':>6}{'shared':>8}{'ld16':>6}{'mma':>5}{'instr':>7}  launch")
    failed, start = 0, time.perf_counter()
    for check in checks(options.quick):
        if options.only not in check.name:
            continue
        for target in check.targets:
            if target not in (options.target or TARGETS):
                continue
            try:
                built = build(check, target)
            except Exception as error:
                # Whatever the compiler raises is a finding.
                words, row = [f"{type(error).__name__}: {str(error).strip()[:300]}"], ""
            else:
                words = breaches(check, built, target)
                row = (
                    f"{built.registers:>5}{built.spills:>6}{built.shared:>8}{built.wide_loads:>6}"
                    f"{built.tensor_cores:>5}{built.instructions:>7}"
                )
            failed += bool(words)
            print(
                f"{'BREACH' if words else 'ok':8}{target:8}{row}  {check.name} {'; '.join(words)}".rstrip(), flush=True
            )
    print(f"{failed} breaches, {time.perf_counter() - start:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
