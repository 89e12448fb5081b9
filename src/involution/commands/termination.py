"""SIGTERM as an exception, so that a command which a scheduler ends says what it leaves and never reports success."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch

__all__ = ["TERMINATED", "Terminated", "terminable"]

# What a shell reports of a process that the signal ended.
TERMINATED = 128 + signal.SIGTERM


class Terminated(SystemExit):
    """SIGTERM came; the words are what the user reads.

    It is a ``SystemExit``, so that what is open gets closed and nobody takes it for a fault.
    """

    def __init__(self, words: str = "terminated") -> None:
        super().__init__(TERMINATED)
        self.words = words


@contextmanager
def terminable() -> Iterator[None]:
    """Raise `Terminated` in the block when SIGTERM comes, at its end at the latest.

    At its end only where several processes compute together: one that left alone would keep the others waiting, so that
    Lightning lets all end after the same batch. And where the exception got lost, in a finaliser for one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came = False

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal came
        # Whoever asks twice gets what is being done already.
        first, came = not came, True
        if first and not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            raise Terminated

    before = signal.signal(signal.SIGTERM, end)
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
