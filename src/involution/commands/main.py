"""The command ``involution``: each subcommand is a documented function, its flags are that function's arguments."""

from __future__ import annotations

import inspect
import io
import json
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch

from involution_cli.commands import COMMANDS, overview

from ..errors import CommandError, InvolutionWarning, find_refusal
from .termination import INTERRUPTED, TERMINATED, Terminated, end_at_signals, is_helper, terminable

__all__ = ["CommandError", "main"]

# Of a training, whose data may have a name or a suffix that is empty.
_PATHS = (
    "config",
    "run",
    "ckpt_path",
    "data.root",
    "data.data_root",
    "data.init_args.root",
    "data.init_args.data_root",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: of the command; None for those of this process, which is taken for the command's own then: a signal
            ends it at any moment, also while packages are imported and when the work is done.

    Returns:
        The exit status: 0 done; 2 refused with a sentence, or wrong usage; 3 the training diverged; 130 interrupted by
        Ctrl-C; 143 ended by SIGTERM. A process that another one of the same training started leaves the last two to that one.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    name = " ".join(["involution", *(word for word in given[:1] if word in COMMANDS)])
    answer = end_at_signals(name) if arguments is None else None
    if arguments is None and isinstance(sys.stdout, io.TextIOWrapper):
        # A file's name may be no text, and a terminal may lack a letter; in JSON the escape means the same.
        sys.stdout.reconfigure(errors="backslashreplace")

    def end(status: int, words: str) -> int:
        if answer is not None:
            # Another signal would end this process before the sentence, or with a second one.
            answer.is_saying = True
        is_said_elsewhere = status in (INTERRUPTED, TERMINATED) and is_helper()
        if not is_said_elsewhere:
            print(f"{name}: {words}", file=sys.stderr, flush=True)
        if arguments is None:
            end_at_signals(name, status)
            _settle_output()
        return 0 if is_said_elsewhere else status

    try:
        status = _run(given)
        if sys.stdout is not None:
            # Here, where somebody listens to what it says of a pipe that is closed or a disk that is full.
            sys.stdout.flush()
        return status
    except KeyboardInterrupt as error:
        return end(INTERRUPTED, str(error) or "interrupted")
    except Terminated as error:
        return end(TERMINATED, error.words)
    except BrokenPipeError:
        if arguments is None:
            _settle_output()
        return 0
    except SystemExit as error:
        refusal = find_refusal(error)
        if refusal is not None:
            end(refusal.exit_status, refusal.sentence)
        raise
    except Exception as error:
        words = _sentence(error)
        if words is None:
            raise
        refusal = find_refusal(error)
        return end(refusal.exit_status if refusal else CommandError.exit_status, words)


def _run(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview())
        return 0
    if arguments[0] == "--version":
        print(import_module("involution").__version__)
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        raise CommandError(f"unknown command {name!r}; expected one of {', '.join(COMMANDS)}")
    _refuse_empty(rest, _PATHS if COMMANDS[name].module == "training" else None)
    with _plain_warnings(name):
        _call(name, rest)
    return 0


def _refuse_empty(arguments: Sequence[str], options: Sequence[str] | None) -> None:
    """Refuse what is given as nothing: an empty path would be the folder that one happens to be in, and no option means that.

    Args:
        arguments: of the command.
        options: which may not be empty, without their dashes; None for all, and what has no name.
    """
    for before, word in zip(["", *arguments], arguments):
        option, equals, value = word.partition("=")
        if value or (word and not equals):
            continue
        option = option or (before if before.startswith("-") and "=" not in before else "")
        if options is None or option.lstrip("-").replace("-", "_") in options:
            raise CommandError(f"{option or 'an argument'} is empty; say what it shall be (a dot is this folder)")


def _settle_output() -> None:
    """Write what was printed, or forget it where that cannot be: the interpreter would try again at its end, and complain."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _plain_warnings(name: str) -> Iterator[None]:
    """Print the library's own warnings as sentences, without file and line; the others as ever."""
    formatted = warnings.formatwarning

    def plain(message: Any, category: Any, filename: str, lineno: int, line: str | None = None) -> str:
        if issubclass(category, InvolutionWarning):
            return f"involution {name}: {message}\n"
        return formatted(message, category, filename, lineno, line)

    warnings.formatwarning = plain
    try:
        yield
    finally:
        warnings.formatwarning = formatted


def _sentence(error: Exception) -> str | None:
    """Return what the user reads of an error; None where it is a fault in the code, whose traceback has to be seen."""
    refusal = find_refusal(error)
    if refusal is not None:
        return refusal.sentence
    if isinstance(error, torch.OutOfMemoryError):
        # Its message goes on about the allocator's settings.
        words = str(error).partition(". GPU")[0].splitlines()[0]
        return f"{words}; use a smaller batch, smaller images or half precision"
    asked = re.search(r"DefaultCPUAllocator: can't allocate memory(: you tried to allocate \d+ bytes)?", str(error))
    if asked or isinstance(error, MemoryError):
        words = (asked[1] if asked else None) or ""
        return f"the memory of this machine is not enough{words}; use a smaller batch, smaller images or a smaller net"
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename} cannot be used" if error.filename else "a file cannot be read or written"
        return f"{where}: {error.strerror}; check the path, its permissions and the free space, or name another"
    return str(error) if isinstance(error, (ImportError, OSError)) else None


def _call(name: str, arguments: Sequence[str]) -> Any:
    command = COMMANDS[name]
    function = getattr(import_module(f"involution.commands.{command.module}"), command.function)
    if not inspect.signature(function).parameters and not arguments:
        return function()
    try:
        from jsonargparse import auto_cli
    except ImportError as error:
        raise ImportError('the commands need jsonargparse; install it with: pip install "involution[train]"') from error
    if command.module == "training":
        return function(name, arguments, example=command.example)
    optional = _positionals(function)[1]
    hint = "".join(f" [{word}" for word in optional) + "]" * len(optional)
    with terminable():
        from .parsing import CommandParser

        words = _normalised(function, arguments)
        return auto_cli(
            function, args=words, prog=f"involution {name}{hint}", parser_class=CommandParser, example=command.example
        )


def _positionals(function: Callable[..., Any]) -> tuple[list[str], list[str]]:
    """Return the arguments that may be given without their name: those that must be there, and those that may."""
    parameters = inspect.signature(function).parameters.values()
    named = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    return [p.name for p in named if p.default is p.empty], [p.name for p in named if p.default is not p.empty]


def _normalised(function: Callable[..., Any], arguments: Sequence[str]) -> list[str]:
    """Let switches stand alone (``--json``, ``--no-fold``), options be spelt with dashes, and lists without brackets.

    A list as first parameter takes all that stands before the first option (``predict a.jpg b.jpg --top 3``), another
    one commas (``--heatmaps layer1.0.conv2,layer2.0.conv2``) or several arguments (``--size 224 320``), but leaves those
    that must be there without a name. What follows these gets the name of the next one that may be (``compare mnist`` is
    ``compare --dataset mnist``).
    """
    parameters = inspect.signature(function).parameters
    switches = {name: p.default for name, p in parameters.items() if p.default is False or p.default is True}
    lists = [name for name, p in parameters.items() if str(p.annotation).startswith("list[")]
    required, optional = _positionals(function)
    rest, result = list(arguments), []
    if lists and next(iter(parameters)) == lists[0]:
        end = next((i for i, argument in enumerate(rest) if argument.startswith("-")), len(rest))
        if end:
            values = json.dumps(rest[:end], ensure_ascii=False)
            result.append(values if lists[0] in required else f"--{lists[0]}={values}")
            required, optional = ([name for name in names if name != lists[0]] for names in (required, optional))
        rest = rest[end:]
    unnamed = [""] * len(required) + optional
    is_value = False
    while rest:
        argument = rest.pop(0)
        if not is_value and unnamed and not argument.startswith("-"):
            name = unnamed.pop(0)
            argument = f"--{name}={argument}" if name else argument
        is_value = False
        option, equals, value = argument.partition("=")
        if option.startswith("--"):
            option = "--" + option[2:].replace("-", "_")
            if option.startswith("--no_") and switches.get(option[5:]) and not equals:
                option, equals, value = f"--{option[5:]}", "=", "false"
            if option[2:] not in (*parameters, "help", "config", "print_config"):
                known = ", ".join("--" + name.replace("_", "-") for name in parameters)
                expected = f"expected one of {known}" if known else "there are none but --help"
                raise CommandError(f"unknown option {argument.partition('=')[0]}; {expected}")
            if option[2:] in switches and not equals and (rest[:1] or [""])[0].lower() not in ("true", "false"):
                equals, value = "=", "true"
            if option[2:] in lists:
                given = [value] if equals else _list_values(rest, leave=unnamed.count(""))
                equals, value = "=", _as_json(given)
            is_value = not equals and option not in ("--help", "--print_config")
        result.append(option + equals + value)
    return result


def _list_values(rest: list[str], leave: int) -> list[str]:
    """Take from ``rest`` what stands before the next option, but the last ``leave`` of it; one at least, or nothing."""
    end = next((i for i, argument in enumerate(rest) if argument.startswith("-")), len(rest))
    # Commas are a list that is whole.
    count = 1 if "," in (rest or [""])[0] else max(1, end - leave)
    values, rest[:count] = rest[:count] or [""], []
    return values


def _as_json(values: list[str]) -> str:
    if len(values) == 1 and values[0].startswith("["):
        return values[0]
    return json.dumps(values[0].split(",") if len(values) == 1 else values, ensure_ascii=False)


if __name__ == "__main__":
    sys.exit(main())
