"""The command; see the package."""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch

from involution import backends
from involution.files import replaced, write_atomically

from . import family, models, operators, parity, report
from .processes import Task, spread
from .records import Records, environment

ROOT = Path(__file__).parents[2]
Section = tuple[str, Callable[[Records, float], None], float]


def begin_tests(file: IO[Any]) -> subprocess.Popen:
    """Start the tests that need a GPU; their output goes to ``file``."""
    # They are unittest's, so that they run where pytest is not installed.
    command = [sys.executable, "-m", "unittest", "-v", "test_gpu"]
    path = [str(ROOT / "src"), str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path)}
    return subprocess.Popen(command, cwd=ROOT / "tests", env=environment, stdout=file, stderr=subprocess.STDOUT)


def end_tests(records: Records, process: subprocess.Popen, output: Path, seconds: float) -> None:
    """Wait for the tests and record how they ended, read from their ``output``."""
    try:
        status: int | str = process.wait(max(1.0, seconds))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        status = "stopped when the time was over"
    text = output.read_text()
    print(text)
    lines = text.splitlines()
    records.add(
        status=status,
        passed=sum(line.endswith("... ok") for line in lines),
        failed=[line for line in lines if line.startswith(("FAIL:", "ERROR:"))],
        skipped=[line for line in lines if "... skipped" in line],
    )


def check_and_compile(records: Records, seconds: float) -> None:
    """Compare with the reference, and have every kernel compiled before it is measured, in several processes."""
    tasks: list[Task] = [(models.compile_ahead, name) for name in models.nets() if "rednet" in name]
    stages = range(len(operators.SHAPES))
    tasks += [(operators.compile_ahead, (s, batch, dtype)) for dtype, batch in operators.PLAN for s in stages]
    tasks += [(parity.check, item) for item in parity.work()]
    checked, compiled, done = [], 0, 0
    try:
        for (function, item), result in spread(tasks, seconds):
            done += 1
            if function is parity.check:
                checked.append((item, result))
            elif isinstance(result, BaseException):
                records.add(compiling=f"{function.__module__} {item}", error=repr(result)[:500])
            else:
                compiled += 1
    except TimeoutError:
        records.add(stopped=f"{len(tasks) - done} of {len(tasks)} left when the time was over")
    records.add(compiled=compiled)
    parity.record(records, checked)


def sections(process: subprocess.Popen, output: Path) -> list[Section]:
    """Return what is to be done: a name, a function of the records and the seconds it may take, and these seconds.

    Args:
        process: the tests.
        output: the file that they write to.
    """
    copy = 0.0

    def bandwidth(records: Records, seconds: float) -> None:
        nonlocal copy
        copy = operators.copy_bandwidth(records)

    return [
        ("parity", check_and_compile, 130),
        ("tests", lambda r, s: end_tests(r, process, output, s), 60),
        ("copy", bandwidth, 10),
        ("operators", lambda r, s: operators.run(r, copy, s), 110),
        ("nets", lambda r, s: models.run(r, ("eager", "graph"), (64,), s), 60),
        ("family", family.run, 40),
        ("operators, compiled", lambda r, s: operators.run_compiled(r, copy, s), 60),
        ("nets, compiled", lambda r, s: models.run(r, ("compiled",), (64,), s), 600),
    ]


def run(records: Records, todo: list[Section]) -> None:
    """Run section after section; one that fails does not keep the others from running."""

    def expire(*_: Any) -> None:
        raise TimeoutError("the time was over")

    # A compiler that takes its time must not take the others' too.
    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, max(1.0, records.left() + 5), 5)
    try:
        for name, function, seconds in todo:
            records.section = name
            try:
                if records.left() <= 0:
                    records.add(stopped="the time was over")
                else:
                    function(records, min(seconds, records.left()))
            except Exception:
                # The sections behind it still have something to say.
                records.add(failed=traceback.format_exc()[-2000:])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def main() -> int:
    """Run every section in turn; return 1 where a test or a parity check failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description="GPU tests, parity and benchmarks.")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(os.environ.get("OUT", "runs/gpu")),
        help="folder for records.jsonl, tests.txt, summary.md and gpu-….json (by default $OUT, else runs/gpu)",
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
    records = Records(options.out, options.minutes)
    records.section = "environment"
    records.add(**environment())
    with replaced(options.out / "tests.txt") as file:
        process = begin_tests(file)
        try:
            run(records, sections(process, Path(file.name)))
        finally:
            if process.poll() is None:
                process.kill()
    return finish(records)


def finish(records: Records) -> int:
    """Write the summary and the record that tables are made from; return the exit status."""
    text = "\n".join(report.tables(records.rows)) + "\n"
    write_atomically(records.folder / "summary.md", text)
    print(text)
    slug = re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name(0).lower()).strip("-")
    print(f"copy to results/ to have it in docs/performance.md: {records.write(f'gpu-{slug}')}")
    tested = [row for row in records.rows if row["section"] == "tests"]
    broken = [row for row in records.rows if row["section"] == "parity" and row.get("failed")]
    return 0 if tested and tested[0].get("status") == 0 and not broken else 1


if __name__ == "__main__":
    sys.exit(main())
