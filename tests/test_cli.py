"""The command line before a command runs: names, dashes, lists, and arguments without a name."""

import pytest
import torch

from involution.commands import main as cli
from involution.commands.main import CommandError, _normalised, main


def compare_like(dataset: str | None = None, variant: str | None = None, *, epochs: int = 1, all: bool = False) -> None:
    """Stand for a command whose first arguments may be left out."""


def predict_like(images: list[str], *, top: int = 5, layers: list[str] | None = None, json: bool = False) -> None:
    """Stand for a command with a list of files."""


def convert_like(source: str, target: str, layout: str = "timm") -> None:
    """Stand for a command whose first arguments must be there."""


def export_like(model: str, *, size: list[int] | None = None, fold: bool = True) -> None:
    """Stand for a command with a list of numbers, and a switch that is on."""


def benchmark_like(models: list[str] | None = None, *, dtype: list[str] | None = None) -> None:
    """Stand for a command whose first argument is a list that may be left out."""


# The annotations are read as they are written in a module with postponed evaluation.
predict_like.__annotations__ = {"images": "list[str]", "layers": "list[str] | None"}
export_like.__annotations__ = {"size": "list[int] | None"}
benchmark_like.__annotations__ = {"models": "list[str] | None", "dtype": "list[str] | None"}


@pytest.mark.parametrize(
    ("function", "arguments", "expected"),
    [
        (compare_like, "mnist fair --all", ["--dataset=mnist", "--variant=fair", "--all=true"]),
        (compare_like, "--epochs 3 mnist", ["--epochs", "3", "--dataset=mnist"]),
        (compare_like, "mnist --all false fair", ["--dataset=mnist", "--all", "false", "--variant=fair"]),
        (compare_like, "mnist fair more", ["--dataset=mnist", "--variant=fair", "more"]),
        (convert_like, "a.pth b.safetensors paddle", ["a.pth", "b.safetensors", "--layout=paddle"]),
        (convert_like, "--layout paddle a b", ["--layout", "paddle", "a", "b"]),
        (predict_like, "a.jpg b.jpg --top 3 --json", ['["a.jpg", "b.jpg"]', "--top", "3", "--json=true"]),
        (predict_like, "a.jpg --layers x,y", ['["a.jpg"]', '--layers=["x", "y"]']),
        (predict_like, "a.jpg --layers x y --top 3", ['["a.jpg"]', '--layers=["x", "y"]', "--top", "3"]),
        (export_like, "net --size 224 320 --no-fold", ["net", '--size=["224", "320"]', "--fold=false"]),
        (export_like, "--size 224 320 net", ['--size=["224", "320"]', "net"]),
        (export_like, "--size 224,320 net --fold", ['--size=["224", "320"]', "net", "--fold=true"]),
        (export_like, "net --size [224] --fold false", ["net", "--size=[224]", "--fold", "false"]),
        (benchmark_like, "a b --dtype int8", ['--models=["a", "b"]', '--dtype=["int8"]']),
        (benchmark_like, "--dtype float32 int8", ['--dtype=["float32", "int8"]']),
    ],
)
def test_arguments_reach_the_parser(function, arguments, expected):
    assert _normalised(function, arguments.split()) == expected


def test_unknown_options_and_commands_are_named(capsys):
    with pytest.raises(
        CommandError, match="unknown option --epoch; expected one of --dataset, --variant, --epochs, --all"
    ):
        _normalised(compare_like, ["--epoch", "3"])
    with pytest.raises(CommandError, match="unknown option --no-size; expected one of --model, --size, --fold"):
        _normalised(export_like, ["net", "--no-size"])
    assert main(["train"]) == 2
    assert "unknown command 'train'; expected one of compare, " in capsys.readouterr().err


def test_the_usage_names_what_may_go_without_a_name(capsys):
    for command, start in (
        ("predict", "usage: involution predict [--config"),
        ("compare", "usage: involution compare [dataset [variant]] "),
    ):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        printed = capsys.readouterr().out
        assert printed.startswith(start) and "extra positionals" not in printed


def test_a_gpu_without_memory_is_a_sentence(monkeypatch, capsys):
    def call(name, arguments):
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 8 GiB of which 1 MiB is free."
        )

    monkeypatch.setattr(cli, "_call", call)
    assert main(["fit"]) == 2
    assert capsys.readouterr().err == (
        "involution fit: CUDA out of memory. Tried to allocate 20.00 MiB; "
        "use a smaller batch, smaller images or half precision\n"
    )
