"""What the commands that measure on the CPU share: their options, and the record they write."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from involution import records
from involution.backends import native
from involution.studies.latency.run import record_name


def parser(description: str | None, rounds: int) -> argparse.ArgumentParser:
    """Return a parser with the options that every command has; ``rounds`` is the default of one of them."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--threads", type=int, default=torch.get_num_threads())
    options.add_argument("--rounds", type=int, default=rounds)
    options.add_argument("--name", help="of the record; says what is measured and on how many threads by default")
    options.add_argument("--run", type=int, default=1, help="of several runs, which one this is; adds to the name")
    options.add_argument("--output", type=Path, default=Path("results"), help="folder of the record")
    return options


def name_of(kind: str, arguments: argparse.Namespace) -> str:
    """Return the name of the record of a measurement."""
    name = arguments.name or record_name(kind, arguments.threads)
    return f"{name}-run-{arguments.run}" if arguments.run > 1 else name


def write(kind: str, arguments: argparse.Namespace, **payload: Any) -> None:
    """Write the record of a measurement, and print its path."""
    payload = {"seed": 0, "instruction_set": native.instruction_set(), **payload}
    print(f"\n{records.write(name_of(kind, arguments), payload, arguments.output)}")
