"""A folder belongs to one process at a time, and to nobody once that is gone."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from multiprocessing import get_context
from threading import Event, Timer

import pytest

from involution.errors import FolderInUseError, InvolutionError
from involution.files import locked, locked_in_turn, read_json, read_text

HOLDER = """
import sys, time
from involution.files import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Return a process that has locked the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_lock_leaves_nothing_and_can_be_taken_again(tmp_path):
    for _ in range(2):
        with locked(tmp_path) as left:
            assert left == "" and f"process {os.getpid()} on " in (tmp_path / ".lock").read_text()
        assert not list(tmp_path.iterdir())


def test_a_second_block_of_this_process_is_refused(tmp_path):
    with locked(tmp_path):
        with pytest.raises(FolderInUseError, match="is in use by this process; wait until"), locked(tmp_path):
            pass
        assert (tmp_path / ".lock").exists()
    with locked(tmp_path):
        pass


def test_another_process_is_named_while_it_lives(tmp_path, holder):
    words = rf"is in use by process {holder.pid} on .* since 2.*; wait until that ends, or choose another folder"
    with pytest.raises(FolderInUseError, match=words) as caught, locked(tmp_path):
        pass
    assert isinstance(caught.value, InvolutionError)
    # What was refused has not broken the lock.
    with pytest.raises(FolderInUseError), locked(tmp_path):
        pass


def test_what_a_killed_process_left_is_taken_over(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / ".lock").exists()
    with locked(tmp_path) as left:
        assert left.startswith(f"process {holder.pid} on ")
    assert not (tmp_path / ".lock").exists()


def test_forked_workers_do_not_hold_the_folder(tmp_path):
    """They outlive a process that is killed, and would keep its successor out."""
    code = (
        "import os, sys, time\n"
        "from involution.files import locked\n"
        "with locked(sys.argv[1]):\n"
        "    child = os.fork()\n"
        "    if not child: time.sleep(600)\n"
        "    print(child, flush=True)\n"
        "    time.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    child = int(process.stdout.readline())
    try:
        process.kill()
        process.wait()
        os.kill(child, 0)
        with locked(tmp_path) as left:
            assert left
    finally:
        os.kill(child, signal.SIGKILL)


def write_in_turns(folder, name, count):
    """Add a line to a file under the lock, reading it before and writing it after a while."""
    for _ in range(count):
        while True:
            try:
                with locked(folder):
                    file = folder / "lines"
                    text = file.read_text() if file.exists() else ""
                    time.sleep(0.001)
                    file.write_text(f"{text}{name}\n")
                break
            except FolderInUseError:
                time.sleep(0.001)


def test_two_processes_never_have_it_at_once(tmp_path):
    context = get_context("spawn")
    writers = [context.Process(target=write_in_turns, args=(tmp_path, name, 40)) for name in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
        assert writer.exitcode == 0
    lines = (tmp_path / "lines").read_text().split()
    assert lines.count("a") == lines.count("b") == 40


def test_a_folder_is_waited_for(tmp_path):
    with ExitStack() as stack:
        stack.enter_context(locked(tmp_path))
        released = Event()
        # A stack ends first what it entered last: the event is set before the lock is gone.
        stack.callback(released.set)
        timer = Timer(0.3, stack.close)
        timer.start()
        with locked_in_turn(tmp_path):
            assert released.is_set()
            with pytest.raises(FolderInUseError), locked(tmp_path):
                pass
        timer.join()
    assert not list(tmp_path.iterdir())


def test_a_planted_link_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(victim)
    with pytest.raises(OSError), locked(tmp_path / "run"):
        pass
    assert victim.read_text() == "precious"


def test_json_of_any_depth_and_kind(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"a": [1, "ä"]}), encoding="utf-8")
    assert read_json(path) == {"a": [1, "ä"]}
    for content, words in ((b"[" * 100_000, "nested too deeply"), (b"{", "Expecting"), (b"\xff\xfe", "utf-8")):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=words):
            read_json(path)
    os.mkfifo(tmp_path / "pipe")
    for read in (read_json, read_text):
        with pytest.raises(OSError, match="a folder, a pipe or a device"):
            read(tmp_path / "pipe")
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "missing")
