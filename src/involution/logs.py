"""What other libraries say to a log, and nobody who runs a command needs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

__all__ = ["compiling_for_the_cpu", "errors_alone"]


@contextmanager
def errors_alone(name: str | None = None) -> Iterator[None]:
    """Let a logger say errors alone until the block ends.

    Args:
        name: of the logger; None for the one that all others belong to.
    """
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def compiling_for_the_cpu() -> AbstractContextManager[None]:
    """Keep from the user that Inductor finds CUDA's compiler and no GPU: what is compiled runs on the CPU."""
    return errors_alone("torch.utils.cpp_extension")
