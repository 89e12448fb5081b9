"""Files are the old ones or the whole new ones, whatever happens while they are written."""

import os
from pathlib import Path

import pytest

from involution.files import replaced, replaced_files, write_atomically


def test_a_file_is_replaced_with_the_mode_of_a_new_one(tmp_path):
    path = tmp_path / "a.txt"
    write_atomically(path, "ä")
    assert path.read_bytes() == "ä".encode()
    write_atomically(str(path), b"\0")
    assert path.read_bytes() == b"\0" and list(tmp_path.iterdir()) == [path]
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failed_block_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write():
        with replaced(path) as file:
            file.write(b"half of the n")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "a.txt"
    with replaced(path) as first, replaced(path) as second:
        first.write(b"first")
        second.write(b"second")
        assert not path.exists() and len(list(tmp_path.iterdir())) == 2
    assert path.read_bytes() == b"first" and list(tmp_path.iterdir()) == [path]


def test_a_planted_link_is_not_followed(tmp_path, monkeypatch):
    monkeypatch.setattr("involution.files.token_hex", lambda size: "guessed")
    victim, partial = tmp_path / "victim", tmp_path / ".a.txt.guessed.partial"
    victim.write_text("precious")
    partial.symlink_to(victim)
    with pytest.raises(FileExistsError):
        write_atomically(tmp_path / "a.txt", "new")
    assert victim.read_text() == "precious" and partial.is_symlink()
    # A link in the place of the file itself is replaced, and what it points to stays.
    (tmp_path / "b.txt").symlink_to(victim)
    write_atomically(tmp_path / "b.txt", "new")
    assert victim.read_text() == "precious" and not (tmp_path / "b.txt").is_symlink()


def test_a_name_as_long_as_the_file_system_allows(tmp_path):
    path = tmp_path / ("ä" * 125 + ".json")
    write_atomically(path, "{}")
    assert path.read_text() == "{}"


def test_no_file_takes_the_place_of_a_pipe_or_a_device(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match=r"it is no file: .*pipe"):
        write_atomically(tmp_path / "pipe", "text")
    assert (tmp_path / "pipe").is_fifo() and list(tmp_path.iterdir()) == [tmp_path / "pipe"]


def test_no_folder_is_an_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "missing" / "a.txt", "")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        write_atomically(tmp_path / "file" / "a.txt", "")


def test_files_of_a_block_come_together(tmp_path):
    folder = tmp_path / "new" / "model"
    with replaced_files(folder) as partial:
        (partial / "sub").mkdir()
        for name in ("a", "sub/b"):
            (partial / name).write_text(name)
        assert partial.stat().st_mode & 0o077 == 0
        assert not (folder / "a").exists()
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) == ["a", "sub", "sub/b"]

    def write():
        with replaced_files(folder) as partial:
            (partial / "a").write_text("other")
            raise ValueError("half")

    with pytest.raises(ValueError, match="half"):
        write()
    assert (folder / "a").read_text() == "a" and len(list(folder.iterdir())) == 2


def test_a_block_without_files_makes_no_folder_and_removes_none(tmp_path):
    with replaced_files(tmp_path / "model"):
        pass
    assert not (tmp_path / "model").exists()
    (tmp_path / "there").mkdir()
    with replaced_files(tmp_path / "there"):
        pass
    assert (tmp_path / "there").is_dir()


def test_what_is_in_place_was_written_through_to_the_disk(tmp_path, monkeypatch):
    synced = []

    def sync(number):
        synced.append(Path(os.readlink(f"/proc/self/fd/{number}")).name)

    monkeypatch.setattr(os, "fsync", sync)
    write_atomically(tmp_path / "a", "a")
    with replaced_files(tmp_path) as partial:
        (partial / "b").write_text("b")
    assert synced[0].startswith(".a.") and synced[1:] == ["b"]
