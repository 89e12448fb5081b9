"""Settings that no training can have: a sentence and the status 2, whatever of them is wrong."""

import pytest
import yaml
from trainings import TINY, refusal

from involution.commands.main import main
from involution.commands.parsing import reason


def ended(*arguments):
    """Return the status of a command, whoever ends it."""
    try:
        return main(list(arguments))
    except SystemExit as end:
        return end.code


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--data.batch_size=0"], "batch_size must be at least 1, got 0"),
        (["--data.batch_size=-1"], "batch_size must be at least 1, got -1"),
        (["--data.dataset=nothing"], "unknown data set 'nothing'; expected one of digits, mnist"),
        (["--data.shift=-1"], "shift must not be negative, got -1"),
        (["--model.num_classes=0"], "num_classes must be at least 2, got 0"),
        (["--model.num_classes=-3"], "num_classes must be at least 2, got -3"),
        (["--seed_everything=-1"], "--seed_everything must be from 0 to 4294967295, got -1"),
        (["--seed_everything=4294967296"], "--seed_everything must be from 0 to 4294967295"),
        (["--model.optimizer.lr=-1"], "the optimizer cannot be made: Invalid learning rate: -1"),
        (["--model.optimizer.momentum=-1"], "the optimizer cannot be made: Invalid momentum value"),
        (
            [
                "--model.lr_scheduler=involution.tasks.WarmupCosineLR",
                "--model.lr_scheduler.epochs=2",
                "--model.lr_scheduler.warmup_epochs=5",
            ],
            "the lr_scheduler cannot be made: epochs must be at least 1 and warmup_epochs between 0 and epochs",
        ),
        (["--model.model_args={layers: [], in_chans: 1}"], "rednet26 cannot be built"),
        (["--model.model_args={layers: [0, 0, 0, 0], in_chans: 1}"], "rednet26 cannot be built"),
        (["--model.model_args={channels: [-8, 8, 8, 8], in_chans: 1}"], "rednet26 cannot be built"),
        (["--trainer.strategy=nothing"], "nothing"),
        (["--trainer.accelerator=tpu"], "torch_xla"),
        (["--trainer.accelerator=nothing"], "nothing"),
        (["--trainer.devices=0"], "devices"),
        (["--trainer.max_epochs=-5"], "max_epochs"),
        (["--trainer.precision=3"], "3"),
    ],
    ids=lambda value: value[0].removeprefix("--") if isinstance(value, list) else None,
)
def test_a_setting_out_of_range(tmp_path, capsys, flags, words):
    assert ended("fit", *TINY, f"--run={tmp_path / 'run'}", *flags) == 2
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error


@pytest.mark.parametrize(
    ("flag", "word"),
    [
        ("--model.leraning_rate=1", "leraning_rate"),
        ("--model.optimizer.lerning=1", "lerning"),
        ("--data.bach_size=3", "bach_size"),
        ("--trainer.max_epochz=3", "max_epochz"),
        ("--data.batch_size=many", "batch_size"),
    ],
)
def test_a_misspelt_flag_is_in_the_first_of_few_lines(tmp_path, capsys, flag, word):
    assert ended("fit", *TINY, f"--run={tmp_path / 'run'}", flag) == 2
    lines = capsys.readouterr().err.splitlines()
    assert word in lines[0] and len(lines) <= 10 and all(len(line) <= 310 for line in lines)


def test_what_matters_of_a_message_of_the_parser_is_found():
    around = (
        "Does not validate against any of the Union subtypes\nSubtypes: [<class 'A'>, <class 'NoneType'>]\nErrors:\n"
    )
    after = "- Expected a <class 'NoneType'>\nGiven value type: <class 'B'>"
    assert reason(f"{around}- batch_size must be at least 1, got 0\n{after}") == "batch_size must be at least 1, got 0"
    assert reason("Parser key \"top\":\n  Expected a <class 'int'>. Got value: x").startswith("--top: Expected a ")
    assert reason("") == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["predict"], "the following arguments are required: images"),
        (["predict", "a.png", "--top", "x"], "--top: Expected a <class 'int'>"),
        (["compare", "--epochs", "many"], "--epochs"),
        (["export"], "required"),
        (["pack", "a", "b", "--seed=-1"], "--seed must be from 0 to 4294967295, got -1"),
        (["pack", "a", "b", f"--seed={10**30}"], "--seed must be from 0 to 4294967295, got a number beyond 18 digits"),
        (["compare", f"--seed={2**32 - 1}", "--repeats=2"], "--seed must be from 0 to 4294967294, got 4294967295"),
        (["export", "rednet26", "--weights=random", "--opset=1"], "opset_version must be at least 18, got 1"),
        (["doctor", "--x"], "unknown option --x; there are none but --help"),
        (["fit", "--config", "/etc/passwd"], "holds no recipe; expected keys such as 'model' and 'data'"),
    ],
)
def test_a_wrong_usage_of_a_command(capsys, arguments, words):
    assert ended(*arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert words in lines[0] and len(lines) <= 10


@pytest.mark.parametrize(
    "text",
    ["a: &a [*a]", "model: &m {class_path: x, init_args: *m}", "&a {b: *a}"]
    + [
        "a: &a [1, 1]\n" + "".join(f"a{i}: &a{i} [*a{i - 1 if i else ''}, *a{i - 1 if i else ''}]\n" for i in range(40))
    ],
    ids=["list", "inside", "whole", "bomb"],
)
def test_aliases_that_have_no_end(tmp_path, capsys, text):
    (tmp_path / "a.yaml").write_text(text)
    assert ended("fit", "--config", str(tmp_path / "a.yaml"), f"--run={tmp_path / 'run'}") == 2
    assert "a.yaml is nested too deeply, or has a part that contains itself; write out what its" in refusal(capsys)


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe\0", b"[" * 5000, b"a: [", b"- a", b"3", b"\0", b"!!python/object:os.system {}"]
)
def test_any_file_in_the_place_of_a_recipe(tmp_path, capsys, content):
    (tmp_path / "a.yaml").write_bytes(content)
    assert ended("fit", "--config", str(tmp_path / "a.yaml"), f"--run={tmp_path / 'run'}") == 2
    error = capsys.readouterr().err
    assert error and "Traceback" not in error


def test_ordinary_aliases_are_taken(tmp_path, capsys):
    (tmp_path / "a.yaml").write_text(
        yaml.safe_dump({"seed_everything": 3}) + "trainer: {min_epochs: &n 2, max_epochs: *n}\n"
    )
    assert ended("fit", "--config", str(tmp_path / "a.yaml"), *TINY[:-5], "--print_config") == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["trainer"]["min_epochs"] == 2


def test_only_what_is_news_is_said(tmp_path, capsys, caplog):
    flags = [flag for flag in TINY if "summary" not in flag]
    assert main(["fit", *flags, f"--run={tmp_path / 'run'}", "--trainer.max_epochs=1"]) == 0
    said = capsys.readouterr()
    text = said.out + said.err + caplog.text
    for words in ("Tip", "litlogger", "Total Flops", "many workers", "LeafSpec", "logging interval", "weights_only"):
        assert words not in text
