"""Where records go, and how much time is left."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch

from involution import records


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

    def write(self, name: str) -> Path:
        """Write all of them as one record, for the folder of results."""
        return records.write(name, {"seed": 0, "results": self.rows}, self.folder)

    def add(self, **values: Any) -> None:
        """Write one record to the disk and to the terminal."""
        row = {"section": self.section} | values
        self.rows.append(row)
        with open(self.folder / "records.jsonl", "a") as file:
            # Whatever it is, it must not cost what was measured.
            file.write(json.dumps(row, default=str) + "\n")
        words = " ".join(f"{key}={value}" for key, value in values.items())
        print(f"[{time.monotonic() - self.start:5.0f} s] {self.section}: {words}", flush=True)


def environment() -> dict[str, Any]:
    """Return what the numbers depend on."""
    import triton

    properties = torch.cuda.get_device_properties(0)
    return records.environment() | {
        "triton": triton.__version__,
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "gpu": properties.name,
        "memory_mib": properties.total_memory >> 20,
        "multiprocessors": properties.multi_processor_count,
    }
