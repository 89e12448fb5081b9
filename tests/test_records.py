import json
import subprocess
import sys
from pathlib import Path

import pytest

from involution import records
from involution.commands.main import main
from involution.files import write_atomically


def test_a_record_holds_what_is_needed_to_repeat_the_measurement(tmp_path):
    path = records.write("speed", {"seed": 3, "results": {"median_ms": 1.5}}, tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "speed.json"
    record = records.read(path)
    assert {"name", "date", "command", "commit", "modified", "machine", "versions", "seed", "results"} == record.keys()
    assert record["name"] == "speed" and record["seed"] == 3 and record["results"] == {"median_ms": 1.5}
    assert record["machine"]["cores"] >= 1 and record["machine"]["threads"] >= 1
    assert {"python", "torch", "involution"} <= record["versions"].keys()
    assert record["date"].endswith("+00:00")


def test_a_file_of_somebody_else_is_read_or_refused_in_a_sentence(tmp_path, capsys):
    path = tmp_path / "deep.json"
    path.write_text("[" * 200_000)
    with pytest.raises(ValueError, match="nested too deeply"):
        records.read(path)
    for what, arguments in (
        ("table", ["search", "--replay", path]),
        ("study", ["study", "cifar10", "--out", tmp_path, "--from_record", path]),
    ):
        assert main([str(argument) for argument in arguments]) == 2
        assert f"{path} is no record of a {what}: it is nested too deeply" in capsys.readouterr().err
    path.write_text('{"results": 1}', encoding="utf-8-sig")
    assert records.read(path) == {"results": 1}


def test_numbers_that_json_lacks_become_null(tmp_path):
    path = records.write("odd", {"results": [float("nan"), {"a": float("inf")}, (1.0,)]}, tmp_path)
    assert json.loads(path.read_text(), parse_constant=pytest.fail)["results"] == [None, {"a": None}, [1.0]]


def test_a_payload_cannot_replace_the_environment(tmp_path):
    with pytest.raises(ValueError, match="the record itself sets date, machine; give these figures other names"):
        records.write("x", {"date": "today", "machine": "mine"}, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "file.txt"
    write_atomically(path, "old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(records.os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["/usr/bin/python3", "/x/.venv/bin/involution", "compare", "digits"], "involution compare digits"),
        (["/x/python", "-m", "benchmarks.operator", "--quick"], "python -m benchmarks.operator --quick"),
        (["/x/python", "tools/draw.py", "a b"], "python tools/draw.py 'a b'"),
        (["/x/python"], "python"),
    ],
)
def test_command(arguments, expected, monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", arguments)
    assert records.command() == expected


def test_commit_is_that_of_the_sources():
    folder = Path(records.__file__).parent
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=False)
    if head.returncode:
        pytest.skip("the sources are not in a git repository")
    assert records.commit()["commit"] == head.stdout.strip()


def test_commit_is_unknown_for_files_that_no_repository_tracks(tmp_path, monkeypatch):
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    monkeypatch.setattr(records, "__file__", str(tmp_path / "records.py"))
    assert records.commit() == {"commit": None, "modified": None}
    monkeypatch.setenv("PATH", "")
    assert records.commit() == {"commit": None, "modified": None}


def test_memory_is_in_binary_gigabytes(monkeypatch):
    sizes = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1 << 20}
    monkeypatch.setattr(records.os, "sysconf", sizes.__getitem__, raising=False)
    assert records.machine()["memory_gib"] == 4.0
