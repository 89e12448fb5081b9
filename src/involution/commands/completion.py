"""The command ``involution completion``: a script with which a shell completes commands, options, choices and files."""

from __future__ import annotations

import argparse
import inspect
import typing
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from involution_cli.commands import COMMANDS

from ..errors import missing_package

__all__ = ["completion"]

# Of the commands that train, whose further options depend on the recipe.
_TRAINING = (
    "--config",
    "--run",
    "--ckpt_path",
    "--print_config",
    "--seed_everything",
    "--data.root",
    "--data.batch_size",
    "--model.num_classes",
    "--trainer.accelerator",
    "--trainer.devices",
    "--trainer.max_epochs",
    "--trainer.precision",
)


def completion(shell: Literal["bash", "zsh", "tcsh"] = "bash") -> None:
    """Print a script with which a shell completes what is typed after ``involution``.

    Args:
        shell: which; for bash, ``eval "$(involution completion bash)"`` in ~/.bashrc, or the script in
            ~/.local/share/bash-completion/completions/involution, which takes no time at the start of a shell.

    Raises:
        MissingPackageError: shtab is missing.
    """
    try:
        import shtab
    except ImportError as error:
        raise missing_package("shtab", "train") from error
    print(shtab.complete(_parser(shtab.FILE), shell))


def _parser(file: Any) -> argparse.ArgumentParser:
    """Return the commands as a parser of the standard library, which is what shtab reads; it parses nothing."""
    parser = argparse.ArgumentParser("involution")
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers(dest="command")
    for name, command in COMMANDS.items():
        added = commands.add_parser(name, help=command.summary)
        function = getattr(import_module(f"involution.commands.{command.module}"), command.function)
        if command.module == "training":
            for option in _TRAINING:
                added.add_argument(option).complete = file  # type: ignore[attr-defined]
            continue
        types = typing.get_type_hints(function)
        for parameter in inspect.signature(function).parameters.values():
            _add(added, parameter, types[parameter.name], file)
    return parser


def _add(parser: argparse.ArgumentParser, parameter: inspect.Parameter, kind: Any, file: Any) -> None:
    dashed = parameter.name.replace("_", "-")
    if isinstance(parameter.default, bool):
        parser.add_argument(f"--no-{dashed}" if parameter.default else f"--{dashed}", action="store_true")
        return
    alternatives = [part for part in (kind, *typing.get_args(kind)) if typing.get_origin(part) is Literal]
    choices = typing.get_args(alternatives[0]) if alternatives else None
    named = parameter.default is not parameter.empty
    added = parser.add_argument(f"--{dashed}" if named else dashed, choices=choices, nargs=None if named else "*")
    if choices is None and (not named or Path in (kind, *typing.get_args(kind))):
        added.complete = file  # type: ignore[attr-defined]
