"""The help of every command: an example that the command takes as it is printed."""

import shlex
from importlib import import_module

import jsonargparse
import pytest

from involution.commands.main import _normalised, main
from involution.commands.parsing import CommandParser
from involution_cli.commands import COMMANDS

TRAINING = ("fit", "validate", "test")


def test_the_first_help_has_examples(capsys):
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    for name in ("doctor", "predict", "fit", "export"):
        assert f"\n  $ involution {name}" in printed
    for name, command in COMMANDS.items():
        assert f"  {name:<12}{command.summary}" in printed


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_ends_with_an_example(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    example = COMMANDS[name].example
    assert capsys.readouterr().out.endswith(f"\nexample:\n  $ {example}\n")
    assert example.startswith(f"involution {name}")


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in (*TRAINING, "doctor")])
def test_a_command_takes_its_example(name):
    command = COMMANDS[name]
    function = getattr(import_module(f"involution.commands.{command.module}"), command.function)
    parser = jsonargparse.capture_parser(lambda: jsonargparse.auto_cli(function, args=[], parser_class=CommandParser))
    words = shlex.split(command.example)[2:]
    parser.exit_on_error = False
    parser.parse_args(_normalised(function, words))


@pytest.mark.parametrize("name", TRAINING)
def test_a_training_takes_its_example_and_finds_the_recipe_from_anywhere(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = shlex.split(COMMANDS[name].example)[2:]
    with pytest.raises(SystemExit) as ended:
        main([name, *words, "--print_config"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert "root: photos" in printed and "class_path: involution.tasks.ClassificationTask" in printed
