"""SIGTERM and Ctrl-C as exceptions, so that a command which is ended says what it leaves and never reports success."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType
from typing import Any

import torch

__all__ = ["INTERRUPTED", "TERMINATED", "AtOnce", "Delay", "Terminated", "end_at_signals", "is_helper", "terminable"]

# What a shell reports of a process that the signal ended.
TERMINATED, INTERRUPTED = 128 + signal.SIGTERM, 128 + signal.SIGINT
# How long after an exception got lost in a finaliser it is raised once more.
_AGAIN_S = 0.1
# How soon after one another signals are one: several may send them, and to the group of processes as well as to each.
_SAME_S = 0.1
# How long a process that was ended by a signal may take to clear away, its sentence said.
_CLEARING_S = 10


class Terminated(SystemExit):
    """SIGTERM came; the words are what the user reads.

    It is a ``SystemExit``, so that what is open gets closed and nobody takes it for a fault.
    """

    def __init__(self, words: str = "terminated") -> None:
        super().__init__(TERMINATED)
        self.words = words


class Delay:
    """A part of the work that is finished before a signal ends it: the first one waits, a later one does not.

    Example:
        >>> from involution.commands.termination import Delay, terminable
        >>> delay = Delay()
        >>> with terminable(delay):
        ...     delay.hold()
        ...     # Nothing raises here for a signal.
        ...     delay.release()
    """

    def __init__(self) -> None:
        self._holds = False
        self._waiting: BaseException | None = None
        # What `terminable` puts here.
        self.listen: Callable[[], object] = lambda: None

    def hold(self) -> None:
        """Let the signals that come from now on wait."""
        self._holds = True

    def check(self) -> None:
        """Raise what came meanwhile, or was raised before and swallowed; hold where nothing did."""
        self.release()
        self.hold()

    def release(self) -> None:
        """As `check`; from now on signals raise at once."""
        self._holds = False
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            raise waiting

    @property
    def is_asked(self) -> bool:
        """Whether something came and was not raised by `release`."""
        return self._waiting is not None

    @property
    def is_waiting(self) -> bool:
        """Whether something came that is held."""
        return self._holds and self.is_asked

    def takes(self, exception: BaseException) -> bool:
        """Keep the exception until `release`, unless one is kept already; return whether nothing is to raise before."""
        is_first = self._waiting is None
        if is_first:
            self._waiting = exception
        return self._holds and is_first


def is_helper() -> bool:
    """Whether another process of a training, which answers for both, has started this one: by Lightning's variables.

    Where a cluster or torchrun starts them, each answers for itself.
    """
    return os.environ.get("LOCAL_RANK", "0") != "0" and not os.environ.keys() & {"TORCHELASTIC_RUN_ID", "SLURM_PROCID"}


class AtOnce:
    """Ends the process from inside the handler of a signal.

    Attributes:
        is_saying: what ends the process is about to be said, to which a signal adds nothing.
    """

    def __init__(self, name: str, status: int) -> None:
        self.name, self.status, self._owner = name, status, os.getpid()
        self.is_saying = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Say what came, where the sentence is this process's to say, and end."""
        if self.is_saying:
            return
        if is_helper():
            # Lightning kills the process that started this one for any other status.
            os._exit(0)
        if not self.status and os.getpid() == self._owner:
            words = "terminated" if number == signal.SIGTERM else "interrupted"
            # Not by print: the signal may have come in the midst of one.
            with suppress(OSError):
                os.write(2, f"{self.name}: {words}\n".encode())
        os._exit(self.status or 128 + number)


def end_at_signals(name: str, status: int = 0) -> AtOnce:
    """Let SIGTERM and Ctrl-C end this process there and then, wherever no `terminable` block says otherwise.

    For a process that is one command and nothing else. Before its work nothing has to be closed, and after it nothing is
    left to do; an exception in the midst of an import or at the interpreter's end could be swallowed, or be printed by
    whatever it struck.

    Args:
        name: what the sentence begins with.
        status: with which the process is about to end, its sentence said: another signal changes neither. 0 before.

    Returns:
        What answers.
    """
    answer = AtOnce(name, status)
    signal.signal(signal.SIGTERM, answer)
    if _hears(signal.getsignal(signal.SIGINT)):
        signal.signal(signal.SIGINT, answer)
    if status in (TERMINATED, INTERRUPTED):
        # What half-made things complain of when they are cleared away is no news.
        sys.unraisablehook, threading.excepthook = _say_nothing, _say_nothing
        if sys.platform != "win32":
            # An exception in the midst of a queue leaves it locked, and what clears it away would wait for ever.
            signal.signal(signal.SIGALRM, answer)
            signal.alarm(_CLEARING_S)
            atexit.register(_end, status)
    return answer


def _end(status: int) -> None:
    """End the process when all other functions of `atexit` are done, whichever were registered before this one.

    They stop the processes that read images and write what is held back. What Python and native libraries would still do
    is to free memory; it may hang, and Python hears no signal any more: the alarm would end the process with a status of
    its own.
    """
    atexit.unregister(_end)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):
            stream.flush()
    os._exit(0 if is_helper() else status)


def _say_nothing(_: Any) -> None:
    pass


def _hears(handler: Any) -> bool:
    """Whether Ctrl-C is answered by Python or by this module: a shell starts what runs in its background deaf to it."""
    return handler is signal.default_int_handler or isinstance(handler, AtOnce)


class _Asked:
    """What signals asked a block for, and their answers.

    Attributes:
        kind: of the exception that the first one raises; None before one came.
        is_over: the block is left, and none is raised in it any more.
    """

    def __init__(self, delay: Delay | None) -> None:
        self.kind: type[BaseException] | None = None
        self.is_over = False
        self._delay, self._owner, self._is_lost, self._answered = delay, os.getpid(), False, 0.0
        self._again: list[threading.Timer] = []
        self._hooks: tuple[Any, Any, Any] = (sys.unraisablehook, threading.excepthook, sys.excepthook)

    def answer(self, number: int, frame: FrameType | None) -> None:
        """Raise, or let the step be finished that is being done."""
        if os.getpid() != self._owner:
            # A copy of the process, such as one that reads images: Ctrl-C in a terminal reaches it as well.
            if number == signal.SIGTERM:
                os._exit(TERMINATED)
            return
        now = time.monotonic()
        if self.kind is not None and not self._is_lost and now - self._answered < _SAME_S:
            return
        self._answered = now
        kind = Terminated if number == signal.SIGTERM else KeyboardInterrupt
        is_first = self.kind is None or self._is_lost
        self.kind, self._is_lost = self.kind or kind, False
        if self.is_over:
            return
        delay = self._delay
        waits = delay is not None and delay.takes(kind())
        together = torch.distributed.is_available() and torch.distributed.is_initialized()
        if waits or (number == signal.SIGTERM and together):
            return
        # Whoever asks twice gets what is being done already, or no step to its end.
        if is_first or number == signal.SIGINT or (delay is not None and delay.is_waiting):
            raise kind

    def hear(self) -> None:
        """Answer what is printed elsewhere of exceptions that nobody can catch."""
        sys.unraisablehook, threading.excepthook = self._unraisable, self._in_thread
        sys.excepthook = self._in_a_thread_of_multiprocessing

    def leave(self) -> None:
        """Put back what `hear` replaced, and raise no more."""
        self.is_over = True
        for timer in self._again:
            timer.cancel()
        sys.unraisablehook, threading.excepthook, sys.excepthook = self._hooks

    def _unraisable(self, unraisable: Any) -> None:
        if self.kind is None:
            self._hooks[0](unraisable)
        elif issubclass(unraisable.exc_type, (Terminated, KeyboardInterrupt)):
            # The signal struck a finaliser, which lets no exception out: once more, when that is over.
            self._is_lost = True
            number = signal.SIGTERM if self.kind is Terminated else signal.SIGINT
            timer = threading.Timer(_AGAIN_S, os.kill, (self._owner, number))
            timer.daemon = True
            timer.start()
            self._again.append(timer)

    def _in_thread(self, uncaught: Any) -> None:
        if self.kind is None:
            self._hooks[1](uncaught)

    def _in_a_thread_of_multiprocessing(self, kind: type[BaseException], *error: Any) -> None:
        # One that reads images and hands them to this process sees it hang up when a signal ends it.
        has_lost_this_one = os.getpid() != self._owner and issubclass(kind, (ConnectionError, EOFError))
        if self.kind is None and not has_lost_this_one:
            self._hooks[2](kind, *error)


@contextmanager
def terminable(delay: Delay | None = None) -> Iterator[None]:
    """Raise `Terminated` in the block when SIGTERM comes and ``KeyboardInterrupt`` for Ctrl-C, at its end at the latest.

    At its end where the exception got lost, and for SIGTERM where several processes compute together: one that left alone
    would keep the others waiting, so that whoever holds ``delay`` lets all end after the same step. Whatever else ends the block after
    a signal is taken for a consequence of it. Copies of the process, which read images, leave Ctrl-C to this one.

    Args:
        delay: what it holds lets both wait; None for nothing. Its ``listen`` takes SIGTERM back from who took it meanwhile.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = _Asked(delay)
    numbers = [signal.SIGTERM, *([signal.SIGINT] if _hears(signal.getsignal(signal.SIGINT)) else [])]
    before = {number: signal.signal(number, asked.answer) for number in numbers}
    if delay is not None:
        delay.listen = partial(signal.signal, signal.SIGTERM, asked.answer)
    asked.hear()
    try:
        yield
    except BaseException as error:
        if asked.kind is not None and not isinstance(error, asked.kind):
            raise asked.kind from error
        raise
    finally:
        asked.leave()
        for number, handler in before.items():
            if isinstance(handler, AtOnce):
                # Whoever called this block knows better what is to be said of it.
                handler.is_saying = asked.kind is not None
            signal.signal(number, handler)
    if asked.kind is not None:
        raise asked.kind
