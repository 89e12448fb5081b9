"""The Triton backend against the reference in float64 on the GPU, over the geometries of the tests.

Compiling takes most of the time, so several processes share the work.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch

from .records import Records

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

_DTYPES = ("float32", "float16", "bfloat16")


def work() -> Iterator[tuple[int, str, bool]]:
    """Yield index of the case, dtype and layout; float32 first."""
    from cases import CASES

    for dtype in _DTYPES:
        for channels_last in (True, False):
            for index, case in enumerate(CASES):
                if case.batch:
                    yield index, dtype, channels_last


def check(item: tuple[int, str, bool]) -> list[dict[str, Any]]:
    """Return the errors of the three contractions, relative to float64, beside the reference's own in this dtype."""
    from cases import CASES, relative_error

    from involution.backends import reference, triton
    from involution.geometry import empty_field, empty_map

    index, dtype_name, channels_last = item
    case, dtype = CASES[index], getattr(torch, dtype_name)
    torch.manual_seed(index)
    x, h, dy = (t.cuda() for t in case.tensors(dtype, channels_last))
    rows = []
    for name, out, a, b in (
        ("forward", empty_map(x, dy.shape, channels_last), x, h),
        ("input_gradient", empty_map(x, x.shape, channels_last), dy, h),
        ("kernel_gradient", empty_field(x, h.shape, channels_last), dy, x),
    ):
        exact, own = torch.empty_like(out, dtype=torch.float64), torch.empty_like(out)
        getattr(reference, name)(exact, a.double(), b.double(), case.window)
        getattr(reference, name)(own, a, b, case.window)
        getattr(triton, name)(out.fill_(float("nan")), a, b, case.window)
        again = torch.full_like(out, float("nan"))
        getattr(triton, name)(again, a, b, case.window)
        error, own_error = relative_error(out, exact), relative_error(own, exact)
        bound = 1e-5 if dtype == torch.float32 else (2 if name == "forward" else 3) * own_error
        rows.append(
            {
                "case": str(case),
                "dtype": dtype_name,
                "channels_last": channels_last,
                "contraction": name,
                "error": error,
                "bound": bound,
                "passed": error <= bound and torch.equal(out, again),
            }
        )
    return rows


def run(records: Records, seconds: float) -> None:
    """Check as much as fits into the time; record failures one by one, and a count and the worst per dtype."""
    items = list(work())
    results: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    end = records.left() - seconds
    context = multiprocessing.get_context("spawn")
    # Processes of their own: each imports torch, so no more than there are cores, and few on a small GPU.
    pool = ProcessPoolExecutor(max(1, min(12, (os.cpu_count() or 2) - 2)), mp_context=context)
    futures = {pool.submit(check, item): item for item in items}
    try:
        for future in as_completed(futures, timeout=max(1.0, records.left() - end)):
            index, dtype, _ = futures[future]
            try:
                rows = future.result()
            except Exception as error:
                # A fault of any kind is the finding this is for.
                rows = [
                    {"case": index, "dtype": dtype, "contraction": "all", "passed": False, "error": repr(error)[:500]}
                ]
            for row in rows:
                results[row["dtype"], row["contraction"]].append(row)
                if not row["passed"]:
                    records.add(**row)
    except TimeoutError:
        records.add(stopped=f"{sum(not f.done() for f in futures)} of {len(futures)} left when the time was over")
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()
    for (dtype, contraction), rows in sorted(results.items()):
        numbers = [row["error"] for row in rows if isinstance(row["error"], float)]
        records.add(
            dtype=dtype,
            contraction=contraction,
            checked=len(rows),
            failed=sum(not row["passed"] for row in rows),
            worst_error=max(numbers, default=None),
        )
