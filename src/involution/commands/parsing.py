"""What the user reads of a wrong usage: the line that matters first, and few others."""

from __future__ import annotations

import re
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

from ..errors import CommandError

__all__ = ["CommandParser", "WithExample", "reason", "refuse"]

# What the parser adds around the reason: the other kinds that the value is not, and the value once more.
_AROUND = (
    "Given value",
    "- Expected a <class 'NoneType'>",
    "Expected a <class 'NoneType'>",
    "- Expected a dot import path string",  # of a number that might have been a tensor
)


class WithExample(ArgumentParser):
    """A parser whose help ends with an example, as it is to be typed."""

    def __init__(self, *args: Any, example: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.example = example

    def format_help(self) -> str:
        """Return the help, and the example on a line of its own that no width of the terminal breaks."""
        return super().format_help() + (f"\nexample:\n  $ {self.example}\n" if self.example else "")


class CommandParser(WithExample):
    """A parser of a command's arguments that ends with `refuse`."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """End with what is wrong."""
        if not self.exit_on_error:
            super().error(message, ex)
        refuse(message)


def refuse(message: str) -> NoReturn:
    """End with the status 2; what is said is the refusal that caused it: what is wrong, and no more than eight other lines."""
    first = reason(message)
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    others = [line for line in lines if line.lstrip("- ") not in first]
    raise SystemExit(2) from CommandError("\n  ".join(map(_cut, [first, *others[:8]])))


def reason(message: str) -> str:
    """Return what matters of what the parser says.

    It wraps a reason into those of everything around it: the innermost comes last, after the name of its argument.
    """
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    reasons = [line for line in lines if not line.startswith(_AROUND)] or lines or [message]
    first = reasons[-1].lstrip("- ")
    keys = re.findall(r'Parser key "([^"]+)"', message)
    return first if not keys or keys[-1].rpartition(".")[2] in first else f"--{_flag(keys)}: {first}"


def _flag(keys: list[str]) -> str:
    """Return the flag of the innermost of nested keys; alternatives name the same keys again."""
    flag: list[str] = []
    for key in keys:
        flag = [*flag[: flag.index(key)], key] if key in flag else [*flag, key]
    return ".".join(flag)


def _cut(line: str, length: int = 300) -> str:
    return line if len(line) <= length else line[: length - 1] + "…"
