"""What others say while a training runs and that is no news: kept back."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["without_advertisements", "without_known_warnings", "without_tracebacks_of_writers"]

_TALKERS = (
    "utilities.rank_zero",
    "trainer.connectors.checkpoint_connector",
    "trainer.connectors.signal_connector",
)
_KNOWN_WARNINGS = (
    "LightningCLI's args parameter",
    "Checkpoint directory .* exists and is not empty",
    ".*callbacks used to create",
    ".*does not have many workers",
    "The number of training batches .* is smaller than the logging interval",
    ".*isinstance.treespec, LeafSpec.",
    "You're using the WeightAveraging callback with a model that overrides",
)
# Whose uses of old names are no news; what keeps the configuration hands on those of Lightning's.
_OLD_FASHIONED = r"lightning|jsonargparse|involution\.commands\.recipes"
# Of the checkpoints that an evaluation would write if it were a training.
_MOVED = "The dirpath has changed"
# What the sentence at the end says better, one of them from inside the handler of a signal.
_INTERRUPTIONS = ("Received SIGTERM", "Detected KeyboardInterrupt")


@contextmanager
def without_advertisements() -> Iterator[None]:
    """Keep back Lightning's tips for its products, and what is said twice."""

    def is_news(record: logging.LogRecord) -> bool:
        # Checkpoints are read by this library's own reader, which takes weights alone.
        is_known = str(record.msg).startswith(("💡", "`weights_only` was not set"))
        return not is_known and not any(words in str(record.msg) for words in _INTERRUPTIONS)

    loggers = [logging.getLogger(f"lightning.pytorch.{name}") for name in _TALKERS]
    for logger in loggers:
        logger.addFilter(is_news)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_news)


@contextmanager
def without_known_warnings(subcommand: str) -> Iterator[None]:
    """Keep back what Lightning warns of in its own uses here, none of which the user can or should change."""
    with warnings.catch_warnings():
        for words in _KNOWN_WARNINGS if subcommand == "fit" else (*_KNOWN_WARNINGS, _MOVED):
            warnings.filterwarnings("ignore", words)
        for kind in (DeprecationWarning, FutureWarning):
            warnings.filterwarnings("ignore", category=kind, module=_OLD_FASHIONED)
        yield


@contextmanager
def without_tracebacks_of_writers() -> Iterator[None]:
    """Let TensorBoard's thread end without a word where the disk refuses it: it hands its error on to the training."""
    shown, before = threading.excepthook, threading.enumerate()

    def is_writer(thread: Any) -> bool:
        return type(thread).__module__.startswith("tensorboard.")

    def show(args: threading.ExceptHookArgs) -> None:
        if not (is_writer(args.thread) and isinstance(args.exc_value, OSError)):
            shown(args)

    threading.excepthook = show
    try:
        yield
    except Exception:
        # Before the hook is gone: what has been refused elsewhere may not have come to this one yet.
        for thread in threading.enumerate():
            if is_writer(thread) and thread not in before:
                thread.stop()  # type: ignore[attr-defined]
        raise
    finally:
        threading.excepthook = shown
