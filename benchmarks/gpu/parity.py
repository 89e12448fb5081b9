"""The Triton backend against the reference in float64 on the GPU, over the geometries of the tests."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator
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
    from involution.memory_layout import empty_field, empty_map

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


def record(records: Records, results: list[tuple[tuple[int, str, bool], Any]]) -> None:
    """Record the failures of `check` one by one, and a count and the worst error per dtype and contraction.

    Args:
        records: where they go.
        results: items of `work`, each with what `check` returned or raised.
    """
    done: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for (index, dtype, _), rows in results:
        if isinstance(rows, BaseException):
            # A fault of any kind is the finding this is for.
            rows = [{"case": index, "dtype": dtype, "contraction": "all", "passed": False, "error": repr(rows)[:500]}]
        for row in rows:
            done[row["dtype"], row["contraction"]].append(row)
            if not row["passed"]:
                records.add(**row)
    for (dtype, contraction), rows in sorted(done.items()):
        numbers = [row["error"] for row in rows if isinstance(row["error"], float)]
        records.add(
            dtype=dtype,
            contraction=contraction,
            checked=len(rows),
            failed=sum(not row["passed"] for row in rows),
            worst_error=max(numbers, default=None),
        )
