"""SIGTERM as an exception, so that a command which a scheduler ends says what it leaves and never reports success."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch

__all__ = ["TERMINATED", "Delay", "Terminated", "terminable"]

# What a shell reports of a process that the signal ended.
TERMINATED = 128 + signal.SIGTERM


class Terminated(SystemExit):
    """SIGTERM came; the words are what the user reads.

    It is a ``SystemExit``, so that what is open gets closed and nobody takes it for a fault.
    """

    def __init__(self, words: str = "terminated") -> None:
        super().__init__(TERMINATED)
        self.words = words


class Delay:
    """A part of the work that is finished before a signal ends it: the first one waits, the second does not.

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

    def hold(self) -> None:
        """Let the signals that come from now on wait."""
        self._holds = True

    def release(self) -> None:
        """Raise what came meanwhile; from now on signals raise at once."""
        self._holds = False
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            raise waiting

    @property
    def is_waiting(self) -> bool:
        """Whether something came and was not raised yet."""
        return self._waiting is not None

    def takes(self, exception: BaseException) -> bool:
        """Keep the exception until `release`, unless nothing is held or one waits already."""
        if not self._holds or self._waiting is not None:
            return False
        self._waiting = exception
        return True


@contextmanager
def terminable(delay: Delay | None = None) -> Iterator[None]:
    """Raise `Terminated` in the block when SIGTERM comes, at its end at the latest.

    At its end only where several processes compute together: one that left alone would keep the others waiting, so that
    Lightning lets all end after the same batch. And where the exception got lost, in a finaliser for one.

    Args:
        delay: what it holds lets SIGTERM and Ctrl-C wait; None for nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came = False

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal came
        # Whoever asks twice gets what is being done already, or no step to its end.
        first, came = not came, True
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return
        waits = delay is not None and delay.takes(Terminated())
        if not waits and (first or (delay is not None and delay.is_waiting)):
            raise Terminated

    def interrupt(number: int, frame: FrameType | None) -> None:
        if delay is None or not delay.takes(KeyboardInterrupt()):
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    # A process that was started deaf to Ctrl-C, by a shell in its background, stays so.
    interruptible = delay is not None and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interruptible:
        signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    except BaseException as error:
        if came and not isinstance(error, Terminated):
            raise Terminated from error
        raise
    else:
        if came:
            raise Terminated
    finally:
        signal.signal(signal.SIGTERM, before)
        if interruptible:
            signal.signal(signal.SIGINT, signal.default_int_handler)
