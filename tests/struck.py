"""Commands that a signal strikes at a chosen place, each in a copy of this process: python -m struck FOLDER.

Prints, as JSON, what each ended with and what it said.
"""

import atexit
import contextlib
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
from torch.utils.data._utils import signal_handling
from trainings import pictures_flags, write_pictures

import involution.commands.training  # noqa: F401  (so that the copies have it)
from involution import commands
from involution.commands import convert, termination
from involution.commands import main as cli
from involution.data import ImageFolders
from involution.data.image_folders import FolderImages
from involution.tasks import ClassificationTask
from involution.tasks.checkpointing import TrainingEnd
from involution_cli.commands import COMMANDS, Command


def strike(number):
    os.kill(os.getpid(), number)


def before(holder, name, act):
    """Let a function do something before it does its own; only the first time."""
    done = getattr(holder, name)

    def acted(*arguments, **options):
        setattr(holder, name, done)
        act()
        return done(*arguments, **options)

    setattr(holder, name, acted)


def after(holder, name, act):
    """Let a function do something after it did its own; only the first time."""
    done = getattr(holder, name)

    def acted(*arguments, **options):
        setattr(holder, name, done)
        result = done(*arguments, **options)
        act()
        return result

    setattr(holder, name, acted)


# Without a training


def in_an_import(number):
    """Of somebody who catches everything."""
    folder = Path(tempfile.mkdtemp())
    (folder / "swallows.py").write_text(
        f"import os\ntry:\n    os.kill(os.getpid(), {number})\nexcept BaseException:\n    pass\n"
        "def run(*arguments): print('done')\n"
    )
    commands.__path__.append(str(folder))
    COMMANDS["doctor"] = Command("swallows", "run", "", "")


def in_the_parser(number):
    before(cli, "_normalised", lambda: strike(number))


def replace_convert(act):
    def command(checkpoint: str, out: str) -> None:
        """Do something."""
        act()

    convert.convert = command


def in_a_finaliser(number):
    class Left:
        def __del__(self):
            strike(number)

    def act():
        Left()
        for _ in range(600):
            time.sleep(0.1)

    replace_convert(act)


def in_a_thread(number):
    def act():
        threading.Thread(target=lambda: [time.sleep(0.2), 1 / 0]).start()
        strike(number)

    replace_convert(act)


class Hanging:
    """What waits for a lock when it is cleared away."""

    def __init__(self):
        self.lock = threading.Lock()
        self.lock.acquire()

    def __del__(self):
        self.lock.acquire()


def where_what_is_left_hangs(number):
    def act():
        left = Hanging()
        strike(number)
        del left

    termination._CLEARING_S = 1
    replace_convert(act)


def where_what_is_left_hangs_at_the_end(number):
    """After the last functions of Python's, where it hears no signal."""

    def act():
        convert.left = Hanging()
        strike(number)

    termination._CLEARING_S = 1
    replace_convert(act)


def swallowed(number):
    def act():
        with contextlib.suppress(BaseException):
            strike(number)

    replace_convert(act)


def at_the_end(number):
    replace_convert(lambda: None)
    atexit.register(strike, number)


def after_a_refusal(number):
    def refuse():
        raise cli.CommandError("no")

    replace_convert(refuse)
    atexit.register(strike, number)


# With one


def in_the_preparation(number):
    ImageFolders.prepare_data = lambda self: strike(number)


def in_the_sanity_check(number):
    before(ClassificationTask, "validation_step", lambda: strike(number))


def in_the_first_step(number):
    before(ClassificationTask, "training_step", lambda: strike(number))


def while_a_worker_starts(number):
    """The loader's iterator is half made then, and its finaliser misses what it lacks."""
    after(multiprocessing.process.BaseProcess, "start", lambda: strike(number))


def while_a_helper_starts_a_worker(number):
    """In a process that another one of the training has started, and that leaves the sentence to that one.

    The worker is there, and what says so is not: the iterator's finaliser fails.
    """

    def act():
        os.environ["LOCAL_RANK"] = "1"
        strike(number)

    before(signal_handling, "_set_worker_pids", act)


def in_a_worker(number):
    """As Ctrl-C in a terminal does, which goes to all, in a worker that has not begun."""
    owner, begin = os.getpid(), multiprocessing.process.BaseProcess._bootstrap

    def struck(self, *arguments, **options):
        os.kill(owner, number)
        os.kill(os.getpid(), number)
        return begin(self, *arguments, **options)

    multiprocessing.process.BaseProcess._bootstrap = struck


def in_all_readers(number):
    owner = os.getpid()

    def read(self, index):
        os.kill(owner, number)
        os.kill(os.getpid(), number)
        return torch.zeros(3, 16, 16), 0

    FolderImages.__getitem__ = read


def twice(number):
    def act():
        strike(number)
        time.sleep(0.2)
        strike(number)

    before(ClassificationTask, "training_step", act)


def while_it_is_said(number):
    """Once more as the sentence is made, and as it is printed."""
    in_the_preparation(number)
    words, write = TrainingEnd.words.fget, sys.stderr.write

    def say(self):
        strike(number)
        return words(self)

    def struck_write(text):
        written = write(text)
        if text.startswith("involution fit: "):
            sys.stderr.flush()
            strike(number)
        return written

    TrainingEnd.words = property(say)
    sys.stderr.write = struck_write


TERM, INT = signal.SIGTERM, signal.SIGINT
CONVERT = ["convert", "a", "b"]
# The place, the signals and the command, none for a training.
PLACES = [
    (in_an_import, (TERM, INT), ["doctor", "--x"]),
    (in_the_parser, (TERM, INT), CONVERT),
    (in_a_finaliser, (TERM, INT), CONVERT),
    (in_a_thread, (TERM, INT), CONVERT),
    (where_what_is_left_hangs, (TERM, INT), CONVERT),
    (where_what_is_left_hangs_at_the_end, (TERM, INT), CONVERT),
    (swallowed, (TERM, INT), CONVERT),
    (at_the_end, (TERM, INT), CONVERT),
    (after_a_refusal, (TERM, INT), CONVERT),
    (in_the_preparation, (TERM,), None),
    (in_the_sanity_check, (INT,), None),
    (in_the_first_step, (INT,), None),
    (while_a_worker_starts, (TERM, INT), None),
    (while_a_helper_starts_a_worker, (TERM, INT), None),
    (in_a_worker, (TERM, INT), None),
    (in_all_readers, (INT,), None),
    (twice, (TERM,), None),
    (while_it_is_said, (TERM, INT), None),
]
# Where the end of the interpreter, which takes a second, belongs to it.
ENDS = (
    where_what_is_left_hangs_at_the_end,
    at_the_end,
    after_a_refusal,
    while_a_worker_starts,
    while_a_helper_starts_a_worker,
)


def run(place, number, arguments, said):
    """Return the status of a command in a copy of this process, and what it said."""
    pid = os.fork()
    if not pid:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        place(number)
        sys.argv = ["involution", *arguments]
        (sys.exit if place in ENDS else os._exit)(cli.main())
    end = time.monotonic() + 120
    ended = 0
    while not ended:
        time.sleep(0.01)
        ended, status = os.waitpid(pid, os.WNOHANG)
        if not ended and time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(status), said.read_text()


def main(folder):
    # A copy of a process with threads can hang; a shell starts what runs in its background deaf to Ctrl-C.
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    pictures, ended = write_pictures(folder / "pictures"), {}
    for place, numbers, arguments in PLACES:
        for number in numbers:
            name = f"{place.__name__} {number.name}"
            fit = ["fit", *pictures_flags(pictures, "--data.num_workers=1", "--trainer.num_sanity_val_steps=1")]
            fit.append(f"--run={folder / name.replace(' ', '_')}")
            ended[name] = run(place, number, arguments or fit, folder / "said")
    print(json.dumps(ended))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
