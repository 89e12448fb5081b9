"""Where records go, and how much time is left."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

import involution


class Records:
    """Appends records to ``records.jsonl`` in a folder, each with its section, and prints them.

    Args:
        folder: made if it does not exist.
        minutes: after this the sections stop.
    """

    def __init__(self, folder: Path, minutes: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.start = time.monotonic()
        self.end = self.start + 60 * minutes
        self.section = ""
        self.rows: list[dict[str, Any]] = []

    def left(self) -> float:
        """Return the seconds left."""
        return self.end - time.monotonic()

    def add(self, **record: Any) -> None:
        """Write one record to the disk and to the terminal."""
        record = {"section": self.section} | record
        self.rows.append(record)
        with open(self.folder / "records.jsonl", "a") as file:
            file.write(json.dumps(record) + "\n")
        words = " ".join(f"{key}={value}" for key, value in record.items() if key != "section")
        print(f"[{time.monotonic() - self.start:5.0f} s] {self.section}: {words}", flush=True)


def environment() -> dict[str, Any]:
    """Return what the numbers depend on."""
    import triton

    commit = None
    if shutil.which("git"):
        command = ["git", "rev-parse", "HEAD"]
        commit = (
            subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent).stdout.strip() or None
        )
    properties = torch.cuda.get_device_properties(0)
    return {
        "command": " ".join(["python -m benchmarks.gpu", *sys.argv[1:]]),
        "commit": commit,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "involution": involution.__version__,
        "torch": torch.__version__,
        "triton": triton.__version__,
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "python": platform.python_version(),
        "gpu": properties.name,
        "memory_mib": properties.total_memory >> 20,
        "multiprocessors": properties.multi_processor_count,
    }
