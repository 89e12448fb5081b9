"""Write the tables of docs/bad_input.md from the records of ``make fuzz`` and ``make faults`` in results/.

python -m tools.faults [--results results] [--docs docs]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from involution import records

from .markdown import source, table, write_between

BEGIN, END = "<!-- faults: made by python -m tools.faults -->", "<!-- end of faults -->"


def fault_table(rows: list[dict[str, Any]]) -> list[str]:
    """Return what befell a training, the status and the sentence it ended with, and what was lost in the end."""
    cells = [[row["fault"], row["status"], row["sentence"] or "–", row["lost"], row["problems"] or "–"] for row in rows]
    return table(["what befell it", "status", "what it said", "lost after going on", "wrong"], cells)


def fuzz_table(results: dict[str, dict[str, int]]) -> list[str]:
    """Return how many calls or files each was tried with, and what became of them."""
    cells = [[name, *(f"{row[kind]:,}" for kind in ("taken", "refused", "failed"))] for name, row in results.items()]
    return table(["", "right or taken", "refused in a sentence", "wrong"], cells)


def main() -> None:
    """Write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    arguments = parser.parse_args()
    lines: list[str] = []
    for name, make in (("faults", fault_table), ("fuzzing", fuzz_table)):
        path = arguments.results / f"{name}.json"
        if path.exists():
            record = records.read(path)
            lines += ["", *make(record["results"]), "", source(record, path)]
    write_between(arguments.docs / "bad_input.md", BEGIN, END, lines)


if __name__ == "__main__":
    main()
