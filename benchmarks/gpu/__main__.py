"""The command; see the package."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import traceback
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from involution import backends

ROOT = Path(__file__).parents[2]


def tests(records: Any, seconds: float) -> None:
    """Run the tests that need a GPU; their output goes to ``tests.txt``."""
    # They are unittest's, so that they run where pytest is not installed.
    command = [sys.executable, "-m", "unittest", "-v", "test_gpu"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])}
    with open(records.folder / "tests.txt", "w") as file:
        try:
            done = subprocess.run(
                command, cwd=ROOT / "tests", env=environment, stdout=file, stderr=subprocess.STDOUT, timeout=seconds
            )
            status: int | str = done.returncode
        except subprocess.TimeoutExpired:
            status = f"stopped after {seconds:.0f} s"
    text = (records.folder / "tests.txt").read_text()
    print(text)
    lines = text.splitlines()
    records.add(
        status=status,
        passed=sum(line.endswith("... ok") for line in lines),
        failed=[line for line in lines if line.startswith(("FAIL:", "ERROR:"))],
        skipped=[line for line in lines if "... skipped" in line],
    )


def summary(records: Any) -> str:
    """Return the records as Markdown tables: per stage, batch and dtype the times, then the nets."""
    lines, shapes = [], defaultdict(list)
    for row in records.rows:
        if "stage" in row:
            shapes[row["stage"], row["batch"], row["dtype"]].append(row)
    for (stage, batch, dtype), rows in shapes.items():
        lines += [
            f"\n### Stage {stage}, batch {batch}, {dtype}\n",
            "| | median µs | GB/s | of copy |",
            "|---|---:|---:|---:|",
        ]
        for row in rows:
            numbers = [str(row.get(key, "")) for key in ("median_us", "gb_per_s", "of_copy")]
            lines.append(f"| {row.get('name', '')} {row.get('failed', '')} | {' | '.join(numbers)} |")
    lines += ["\n### Nets\n", "| net | step | mode | batch | images/s | peak MiB |", "|---|---|---|---:|---:|---:|"]
    for row in records.rows:
        if "net" in row:
            words = [row[key] for key in ("net", "step", "mode", "batch")]
            rest = [row.get("images_per_s", row.get("failed", row.get("stopped"))), row.get("peak_mib", "")]
            lines.append(f"| {' | '.join(map(str, words + rest))} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run every section in turn; return 1 where a test or a parity check failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description="GPU tests, parity and benchmarks.")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(os.environ.get("OUT", "runs/gpu")),
        help="folder for records.jsonl, tests.txt and summary.md (by default $OUT, else runs/gpu)",
    )
    parser.add_argument("--minutes", type=float, default=7.5, help="stop after this long")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("benchmarks.gpu: PyTorch sees no GPU here; run it on a machine with one", file=sys.stderr)
        return 1
    reason = backends.explain("cuda")["triton"]
    if reason is not None:
        print(f"benchmarks.gpu: the triton backend does not serve this GPU: {reason}", file=sys.stderr)
        return 1

    from . import models, operators, parity
    from .records import Records, environment

    records = Records(options.out, options.minutes)
    records.section = "environment"
    records.add(**environment())
    copy = 0.0

    def bandwidth(records: Records, seconds: float) -> None:
        nonlocal copy
        copy = operators.copy_bandwidth(records)

    sections: list[tuple[str, Callable[[Records, float], None], float]] = [
        ("tests", tests, 110),
        ("parity", parity.run, 100),
        ("copy", bandwidth, 10),
        ("operators", lambda r, s: operators.run(r, copy, s), 110),
        ("nets", lambda r, s: models.run(r, ("eager", "graph"), (64,), s), 60),
        ("operators, compiled", lambda r, s: operators.run_compiled(r, copy, s), 60),
        ("nets, compiled", lambda r, s: models.run(r, ("compiled",), (64,), s), 600),
    ]
    for name, run, seconds in sections:
        records.section = name
        if records.left() <= 0:
            records.add(stopped="the time was over")
            continue
        try:
            run(records, min(seconds, records.left()))
        except Exception:
            # The sections behind it still have something to say.
            records.add(failed=traceback.format_exc()[-2000:])
        (options.out / "summary.md").write_text(summary(records))
    print(summary(records))
    tested = [row for row in records.rows if row["section"] == "tests"]
    broken = [row for row in records.rows if row["section"] == "parity" and row.get("failed")]
    return 0 if tested and tested[0].get("status") == 0 and not broken else 1


if __name__ == "__main__":
    sys.exit(main())
