"""What the user reads of a wrong usage: the line that matters first, and few others."""

from __future__ import annotations

import re
import sys
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

__all__ = ["CommandParser", "refuse"]

# What the parser adds around the reason: the other kinds that the value is not, and the value once more.
_AROUND = ("Given value", "- Expected a <class 'NoneType'>", "Expected a <class 'NoneType'>")


class CommandParser(ArgumentParser):
    """A parser of a command's arguments that ends with `refuse`."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """End with what is wrong."""
        if not self.exit_on_error:
            super().error(message, ex)
        refuse(message)


def refuse(message: Any) -> NoReturn:
    """End with the status 2 and what is wrong in the first line, and no more than nine others.

    Args:
        message: of the parser, which wraps a reason into those of everything around it: the innermost comes last.
    """
    lines = [line.strip() for line in str(message).splitlines() if line.strip()]
    reasons = [line for line in lines if not line.startswith(_AROUND)] or lines
    first = reasons[-1].lstrip("- ")
    keys = re.findall(r'Parser key "([^"]+)"', str(message))
    if keys and keys[-1].rpartition(".")[2] not in first:
        first = f"--{keys[-1]}: {first}"
    others = [line for line in lines if line.lstrip("- ") not in first]
    print(f"error: {_cut(first)}", *(f"  {_cut(line)}" for line in others[:8]), sep="\n", file=sys.stderr)
    raise SystemExit(2)


def _cut(line: str, length: int = 300) -> str:
    return line if len(line) <= length else line[: length - 1] + "…"
