"""``python -m involution.models SCRIPT …``: run a script as Python would, with our nets known to timm and torchvision."""

from __future__ import annotations

import argparse
import functools
import runpy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.onnx
from timm import is_model

from .. import models
from ..errors import ExportError, InvolutionError
from . import in_torchvision

_USAGE = """usage: python -m involution.models SCRIPT [its arguments …]

Runs a Python script as `python SCRIPT …` does, after the nets of this library were registered with timm and torchvision:
the scripts of timm's repository (train, validate, benchmark, inference, onnx_export with --dynamo), torchvision's
references, or yours. `torch.onnx.export` is told how involutions become standard ONNX operators.

example:
  $ python -m involution.models validate.py imagenette --model rednet26_half.imagenette --device cpu"""


def main(arguments: Sequence[str]) -> int:
    """Run a script.

    Args:
        arguments: the script and what it is given.

    Returns:
        The exit status where the script was not run: 0 for help, 2 refused with a sentence. A script that ends by itself
        with a status ends the process with it.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE)
        return 0 if arguments else 2
    script = Path(arguments[0])
    if not script.is_file():
        what = "a folder" if script.is_dir() else "an option" if script.name.startswith("-") else "no file"
        print(
            f"python -m involution.models: {script} is {what}; expected the path of a Python script, such as train.py of "
            "timm's repository, before its arguments",
            file=sys.stderr,
        )
        return 2
    # As `python SCRIPT` does: the script finds its own arguments, and its neighbours unless Python was told (-P).
    sys.argv = [str(script), *arguments[1:]]
    if not sys.flags.safe_path:
        sys.path[0] = str(script.resolve().parent)
    names = [name for name in models.__all__ if is_model(name)]
    in_torchvision.register(names)
    in_torchvision.register_detectors([name for name in names if name.startswith("rednet")])
    torch.onnx.export = _knowing_involutions(torch.onnx.export)
    # torchvision's references put their arguments into their checkpoints, and PyTorch would not read these again.
    torch.serialization.add_safe_globals([argparse.Namespace])
    try:
        runpy.run_path(str(script), run_name="__main__")
    except InvolutionError as error:
        print(f"python -m involution.models: {error.sentence}", file=sys.stderr)
        return 2
    return 0


def _knowing_involutions(export: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``torch.onnx.export`` with our translations beside those that a script brings."""

    @functools.wraps(export)
    def exporting(*arguments: Any, **options: Any) -> Any:
        if options.get("dynamo", True):
            from ..export.onnx import translations

            table = {**translations(), **(options.pop("custom_translation_table", None) or {})}
            return export(*arguments, custom_translation_table=table, **options)
        try:
            return export(*arguments, **options)
        except torch.onnx.errors.UnsupportedOperatorError as error:
            if "involution::" not in str(error):
                raise
            raise ExportError(
                "the exporter of TorchScript knows no operators but PyTorch's own; ask for the other one (timm's "
                "onnx_export: --dynamo), or use involution export"
            ) from error

    return exporting


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
