"""Records of measurements: one JSON file each, with all that is needed to judge and to repeat it."""

from __future__ import annotations

import json
import math
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from .files import read_json, write_atomically

__all__ = [
    "command",
    "commit",
    "cores",
    "date",
    "environment",
    "machine",
    "read",
    "versions",
    "write",
]

_PACKAGES = ("torch", "triton", "torchvision", "timm", "lightning", "numpy", "involution")


def write(name: str, payload: Mapping[str, Any], folder: str | Path) -> Path:
    """Write a measurement to ``folder/name.json``, whole or not at all.

    Args:
        name: of the file, without its ending.
        payload: what was measured, JSON's types; give the random state as ``seed`` and the figures as ``results``, with
            units in their keys (``median_ms``). NaN and infinities, which JSON lacks, are written as null.
        folder: made where it does not exist.

    Returns:
        The path of the file. It holds ``name``, the keys of `environment` and those of ``payload``.

    Raises:
        OSError: the folder or the file cannot be written.
        ValueError: ``payload`` uses a key that the record sets itself.

    Example:
        >>> from involution import records
        >>> path = records.write("addition", {"seed": None, "results": {"median_ms": 0.1}}, "results")
        >>> records.read(path)["results"]
        {'median_ms': 0.1}
    """
    record = {"name": name, **environment()}
    taken = sorted(record.keys() & payload.keys())
    if taken:
        raise ValueError(f"the record itself sets {', '.join(taken)}; give these figures other names")
    record |= _jsonable(dict(payload))
    path = Path(folder) / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    return path


def read(path: str | Path) -> dict[str, Any]:
    """Read a record.

    Raises:
        OSError: the file cannot be read, or is no regular file.
        ValueError: it is not JSON, or nested too deeply.
    """
    return read_json(path)


def environment() -> dict[str, Any]:
    """Return date (UTC), command, commit, machine and versions of this process."""
    return {
        "date": date(),
        "command": command(),
        **commit(),
        "machine": machine(),
        "versions": versions(),
    }


def date() -> str:
    """Return date and time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def command() -> str:
    """Return the command line of this process as one would type it, without the folder of the interpreter."""
    arguments = list(sys.orig_argv[1:])
    if not arguments or arguments[0].startswith("-") or arguments[0].endswith(".py"):
        return shlex.join(["python", *arguments])
    # A script installed beside the interpreter.
    return shlex.join([Path(arguments[0]).name, *arguments[1:]])


def commit() -> dict[str, Any]:
    """Return the ``commit`` of the sources in use and whether they were ``modified`` since; None where unknown.

    What a change cannot alter a measurement by does not count: files that git does not track, records and pages. The
    second record of two would else always be of a modified tree.
    """
    here = Path(__file__).resolve()

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", *arguments], cwd=here.parent, capture_output=True, text=True, check=False)
        except OSError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # An installed package may lie inside somebody else's repository, which does not track it.
    if git("ls-files", "--error-unmatch", here.name) is None:
        return {"commit": None, "modified": None}
    sources = [":/", *(f":(top,exclude){folder}" for folder in ("results", "docs"))]
    changed = git("status", "--porcelain", "--untracked-files=no", "--", *sources)
    return {"commit": git("rev-parse", "HEAD"), "modified": bool(changed)}


def machine() -> dict[str, Any]:
    """Return processor, cores, threads, memory, GPUs and operating system."""
    return {
        "processor": _processor(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "memory_gib": _memory_gib(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "system": f"{platform.system()} {platform.machine()}",
    }


def cores() -> int:
    """Return how many of the machine's cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that matter, those that are installed."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, OSError, ValueError):
        return None


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
