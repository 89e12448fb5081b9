"""The operator at the shapes of RedNet-50's four stages, against its peers and against the bytes it has to move."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from involution.backends import Window, reference, triton
from involution.memory_layout import empty_field, empty_map

from ..shapes import SHAPES
from . import baselines
from .records import Records
from .timing import measure

TAPS = 7
FIRST = (torch.bfloat16, 64)
PLAN = (
    FIRST,
    (torch.float16, 64),
    (torch.float32, 64),
    (torch.bfloat16, 1),
    (torch.bfloat16, 256),
    (torch.bfloat16, 32),
)
_COPY_BYTES = 1 << 30
_WINDOW = Window((TAPS, TAPS), (1, 1), (TAPS // 2,) * 2, (1, 1))


class Shape:
    """Tensors of one stage: 16 channels per group, a quarter of the channels hidden, 7×7 taps.

    The field comes in both orders: ``field_last`` with a pixel's weights together, as a 1×1 convolution in
    channels_last makes it, and ``field`` with a tap's pixels together.
    """

    def __init__(self, stage: int, batch: int, dtype: torch.dtype) -> None:
        channels, rows = SHAPES[stage]
        groups = channels // 16
        like = torch.empty(0, dtype=dtype, device="cuda")

        def image(width: int) -> Tensor:
            return empty_map(like, (batch, width, rows, rows), True).normal_()

        torch.manual_seed(stage)
        self.stage, self.batch, self.dtype = stage + 1, batch, dtype
        self.x, self.dy, self.hidden = image(channels), image(channels), image(channels // 4)
        self.span = torch.randn(groups, TAPS, TAPS, channels // 4, dtype=dtype, device="cuda") / (channels / 4) ** 0.5
        self.bias = torch.randn(groups * TAPS * TAPS, dtype=dtype, device="cuda")
        size = (batch, groups, TAPS, TAPS, rows, rows)
        self.field_last = empty_field(like, size, True)
        self.field_last.permute(0, 4, 5, 1, 2, 3).copy_(self.generate().view(batch, rows, rows, groups, TAPS, TAPS))
        self.field = empty_field(like, size, False).copy_(self.field_last)
        self.y, self.dx = empty_map(like, self.x.shape, True), empty_map(like, self.x.shape, True)

    def generate(self) -> Tensor:
        """Return the field ``(B·H·W, G·K·K)`` by one matrix product."""
        pixels = self.hidden.movedim(1, -1).reshape(-1, self.hidden.shape[1])
        return torch.addmm(self.bias, pixels, self.span.flatten(0, 2).t())

    def gigabytes(self, *tensors: Tensor) -> float:
        """Return what these tensors hold, each moved once, in 10⁹ bytes."""
        return sum(t.numel() * t.element_size() for t in tensors) / 1e9

    def check(self, y: Tensor) -> float:
        """Return the error of the first images of ``y`` against float64."""
        n = min(2, self.batch)
        exact = torch.empty_like(y[:n], dtype=torch.float64)
        reference.forward(exact, self.x[:n].double(), self.field[:n].double(), _WINDOW)
        return ((y[:n].double() - exact).norm() / exact.norm()).item()


@contextmanager
def without_strips() -> Iterator[None]:
    """Let the kernels for every geometry serve where the register-reusing ones would."""
    from involution.backends.triton import launch

    before = launch.serves_strips
    launch.serves_strips = lambda *_: False
    launch._plan.cache_clear()
    try:
        yield
    finally:
        launch.serves_strips = before
        launch._plan.cache_clear()


def ours(shape: Shape) -> Iterator[tuple[str, Callable[[], Any], float, Callable[[], Tensor] | None]]:
    """Yield name, call, gigabytes that have to move, and for forwards the call that returns the output."""
    s = shape
    for order, field in (("pixels together", s.field), ("weights together", s.field_last)):

        def forward(field: Tensor = field) -> Tensor:
            triton.forward(s.y, s.x, field, _WINDOW)
            return s.y

        gigabytes = s.gigabytes(s.x, field, s.y)
        yield f"strips forward, {order}", forward, gigabytes, forward
        # The field's gradient takes the place of a field of its own.
        gradient = torch.empty_like(field)
        yield (
            f"strips input gradient, {order}",
            lambda field=field: triton.input_gradient(s.dx, s.dy, field, _WINDOW),
            gigabytes,
            None,
        )
        yield (
            f"strips kernel gradient, {order}",
            lambda gradient=gradient: triton.kernel_gradient(gradient, s.dy, s.x, _WINDOW),
            gigabytes,
            None,
        )
    yield "generation", s.generate, s.gigabytes(s.hidden, s.field), None

    def generate_and_strips() -> Tensor:
        field = s.generate().view(s.field_last.permute(0, 4, 5, 1, 2, 3).shape).permute(0, 3, 4, 5, 1, 2)
        triton.forward(s.y, s.x, field, _WINDOW)
        return s.y

    yield "generation and strips", generate_and_strips, s.gigabytes(s.x, s.hidden, s.y), generate_and_strips
    if s.dtype != torch.float32:
        from involution.backends.triton import banded_launch

        def banded() -> Tensor:
            banded_launch.span_and_contract(s.y, s.x, s.hidden, s.span, s.bias)
            return s.y

        yield "fused forward", banded, s.gigabytes(s.x, s.hidden, s.y), banded


def peers(shape: Shape) -> Iterator[tuple[str, Callable[[], Tensor], float, Callable[[], Tensor] | None]]:
    """Yield likewise what is measured beside ours."""
    s = shape
    channels = s.x.shape[1]
    weight = torch.randn(channels, channels, 3, 3, dtype=s.dtype, device="cuda").to(memory_format=torch.channels_last)
    depthwise = torch.randn(channels, 1, TAPS, TAPS, dtype=s.dtype, device="cuda")
    maps = s.gigabytes(s.x, s.y)
    yield "convolution 3x3", lambda: F.conv2d(s.x, weight, padding=1), maps, None
    yield "depthwise convolution 7x7", lambda: F.conv2d(s.x, depthwise, padding=3, groups=channels), maps, None
    nchw = s.x.contiguous()
    plain = baselines.plain_cuda(nchw, s.field)
    yield "plain CUDA, one thread per output", plain, s.gigabytes(s.x, s.field, s.y), plain


def unfolded(shape: Shape) -> Iterator[tuple[str, Callable[[], Tensor], float, Callable[[], Tensor] | None]]:
    """Yield the unfold form, eager."""
    nchw = shape.x.contiguous()
    gigabytes = shape.gigabytes(shape.x, shape.field, shape.y)
    call = lambda: baselines.unfold(nchw, shape.field)  # noqa: E731
    yield "unfold", call, gigabytes, call


def compiled(shape: Shape) -> Iterator[tuple[str, Callable[[], Tensor], float, Callable[[], Tensor] | None]]:
    """Yield the forms that a compiler turns into kernels."""
    gigabytes = shape.gigabytes(shape.x, shape.field, shape.y)
    nchw = shape.x.contiguous()
    for name, function in (("shifts, compiled", baselines.shifts), ("unfold, compiled", baselines.unfold)):
        # Each stage is a compilation of its own, not one too many of the same.
        torch.compiler.reset()
        fast = torch.compile(function, dynamic=False)
        call = lambda fast=fast: fast(nchw, shape.field)  # noqa: E731
        yield name, call, gigabytes, call


def copy_bandwidth(records: Records) -> float:
    """Record and return the GPU's bandwidth of a large copy, bytes read and written, in GB/s."""
    a = torch.empty(_COPY_BYTES, dtype=torch.uint8, device="cuda").random_()
    b = torch.empty_like(a)
    time = measure(lambda: b.copy_(a))
    speed = 2 * a.numel() / time["median_us"] / 1e3
    records.add(name="copy of 1 GiB", gb_per_s=round(speed, 1), **time)
    return speed


def record(records: Records, shape: Shape, rows: Iterator[tuple], copy: float) -> None:
    """Time every row as far as the time goes, forwards only after their result was compared."""
    while records.left() > 0:
        row: dict[str, Any] = {
            "stage": shape.stage,
            "batch": shape.batch,
            "dtype": str(shape.dtype).removeprefix("torch."),
        }
        try:
            name, call, gigabytes, result = next(rows)
            row["name"] = name
            if result is not None:
                row["error"] = shape.check(result())
                bound = {torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 3e-2}[shape.dtype]
                if not row["error"] < bound:
                    records.add(**row, failed=f"error above {bound}: not timed")
                    continue
            time = measure(call)
        except StopIteration:
            return
        except Exception as error:
            # One peer that does not run here must not cost the others' numbers.
            records.add(**row, failed=f"{type(error).__name__}: {str(error)[:300]}")
            continue
        speed = gigabytes / max(time["median_us"], 1e-3) * 1e6
        share = {"of_copy": round(speed / copy, 3)} if copy else {}
        records.add(**row, **time, gb_per_s=round(speed, 1), **share)


def compile_ahead(item: tuple[int, int, torch.dtype]) -> None:
    """Call every kernel of ours for a stage, batch and dtype once, so that it lies in Triton's cache."""
    shape = Shape(*item)
    for _, call, *_ in ours(shape):
        call()
    if (shape.dtype, shape.batch) == FIRST:
        with without_strips():
            for _, call, *_ in taps(shape):
                call()
    torch.cuda.synchronize()


def run(records: Records, copy: float, seconds: float) -> None:
    """Time batch 64 in bfloat16 first, then the other dtypes and batches, as far as the time goes."""
    end = records.left() - seconds
    for dtype, batch in PLAN:
        groups = (ours, peers, unfolded) if (dtype, batch) == FIRST else (ours, peers)
        for stage in range(len(SHAPES)):
            if records.left() < end:
                records.add(stopped=f"before batch {batch}, {dtype}, stage {stage + 1}: the time was over")
                return
            shape = Shape(stage, batch, dtype)
            for rows in groups:
                record(records, shape, rows(shape), copy)
            if (dtype, batch) == FIRST:
                with without_strips():
                    record(records, shape, taps(shape), copy)


def taps(shape: Shape) -> Iterator[tuple[str, Callable[[], Any], float, Callable[[], Tensor] | None]]:
    """Yield our kernels for every geometry, for use inside `without_strips`."""
    for name, *rest in ours(shape):
        if name.startswith("strips"):
            yield (name.replace("strips", "taps"), *rest)


def run_compiled(records: Records, copy: float, seconds: float) -> None:
    """Time the compiled forms, batch 64 in bfloat16."""
    end = records.left() - seconds
    for stage in range(len(SHAPES)):
        if records.left() < end:
            records.add(stopped=f"before stage {stage + 1}: the time was over")
            return
        shape = Shape(stage, FIRST[1], FIRST[0])
        record(records, shape, compiled(shape), copy)
