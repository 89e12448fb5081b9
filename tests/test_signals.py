"""A signal ends a command with one sentence and its own status wherever it strikes, and never with a traceback."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from struck import PLACES

from involution.commands import termination
from involution.commands.main import main
from involution.commands.termination import Delay, Terminated, terminable

STATUSES = {signal.SIGTERM: 143, signal.SIGINT: 130}
WORDS = {signal.SIGTERM: "terminated", signal.SIGINT: "interrupted"}


@pytest.fixture(autouse=True)
def _can_be_interrupted():
    """A shell starts what runs in its background deaf to Ctrl-C, tests as well."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """Return what a command ended with and said, by the place and the signal that struck it there."""
    folder = tmp_path_factory.mktemp("struck")
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "TMPDIR": str(folder),
        "PYTHONPATH": str(Path(__file__).parent),
    }
    command = [sys.executable, "-m", "struck", str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("place", "number", "command"),
    [(place.__name__, number, command) for place, numbers, command in PLACES for number in numbers],
)
def test_it_ends_with_one_sentence_and_its_status(ended, place, number, command):
    status, said = ended[f"{place} {number.name}"]
    if place == "after_a_refusal":
        assert (status, said) == (2, "involution convert: no\n")
        return
    if place == "while_a_helper_starts_a_worker":
        assert status == 0 and "Traceback" not in said and "involution fit: " not in said
        return
    assert status == STATUSES[number], said
    if command is not None:
        assert said == f"involution {command[0]}: {WORDS[number]}\n"
        return
    # Before it, what Lightning says of the machine.
    assert "Traceback" not in said and said.count("involution fit: ") == 1
    assert said.splitlines()[-1].startswith("involution fit: interrupted")
    has_begun = place in ("in_the_first_step", "twice")
    assert ("which is whole, with --ckpt_path last" if has_begun else "no epoch was finished, start again") in said


@pytest.mark.parametrize("number", STATUSES, ids=lambda number: number.name)
def test_what_is_swallowed_ends_the_block_at_its_end(number):
    before = signal.getsignal(number)
    kind = Terminated if number == signal.SIGTERM else KeyboardInterrupt

    def swallow():
        with terminable(), contextlib.suppress(BaseException):
            os.kill(os.getpid(), number)

    def turn_into_another():
        with terminable():
            try:
                os.kill(os.getpid(), number)
            except BaseException as error:
                raise OSError("half read") from error

    for act in (swallow, turn_into_another):
        with pytest.raises(kind):
            act()
        assert signal.getsignal(number) is before


def struck_by(number):
    def command(checkpoint: str, out: str) -> None:
        """End."""
        os.kill(os.getpid(), number)

    return command


def test_every_command_ends_with_the_status_of_the_signal(monkeypatch, capsys):
    """Also where it is called by a program, which goes on."""
    from involution.commands import convert

    for number, status in STATUSES.items():
        monkeypatch.setattr(convert, "convert", struck_by(number))
        assert main(["convert", "a", "b"]) == status
        assert capsys.readouterr().err == f"involution convert: {WORDS[number]}\n"


@pytest.mark.parametrize("number", STATUSES, ids=lambda number: number.name)
def test_a_step_is_finished_once_and_a_second_signal_does_not_wait(number, monkeypatch):
    delay, finished, now = Delay(), [], [100.0]
    monkeypatch.setattr(termination, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def step(times):
        with terminable(delay):
            delay.hold()
            for _ in range(times):
                # Those that come together are one.
                os.kill(os.getpid(), number)
                os.kill(os.getpid(), number)
                now[0] += 0.2
            finished.append(times)
            delay.release()

    kind = Terminated if number == signal.SIGTERM else KeyboardInterrupt
    with pytest.raises(kind):
        step(1)
    assert finished == [1]
    delay = Delay()
    with pytest.raises(kind):
        step(2)
    assert finished == [1] and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_got_lost_is_raised_at_the_next_step():
    delay, steps = Delay(), []

    def work():
        with terminable(delay):
            with contextlib.suppress(BaseException):
                os.kill(os.getpid(), signal.SIGTERM)
            for _ in range(3):
                delay.hold()
                steps.append(1)
                delay.release()

    with pytest.raises(Terminated):
        work()
    assert len(steps) == 1


def test_a_copy_that_loses_its_reader_says_nothing(capfd, monkeypatch):
    """What multiprocessing does in the thread of a copy that hands tensors over."""
    # torch.distributed leaves a hook that writes the rank before every line.
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    with terminable():
        for kind in (ConnectionResetError, RuntimeError):
            pid = os.fork()
            if not pid:
                sys.excepthook(kind, kind("gone"), None)
                sys.stderr.flush()
                os._exit(0)
            os.waitpid(pid, 0)
    assert capfd.readouterr().err == "RuntimeError: gone\n"
