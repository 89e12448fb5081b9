"""What the server of worker processes imports, for them alone: they leave without a traceback when their training is gone.

A process that starts a worker and is ended, by Ctrl-C or SIGTERM, before it has handed over the work has said itself what
happened. Of any other exception a worker prints what every process does.
"""

import sys
from types import TracebackType

__all__: list[str] = []


def _tell_unless_the_training_is_gone(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    # A semaphore that its owner has removed is a file without a name.
    is_semaphore = isinstance(error, FileNotFoundError) and error.filename is None
    if not is_semaphore and not isinstance(error, (ConnectionError, EOFError)):
        sys.__excepthook__(kind, error, traceback)


# Workers are copies of the server, hooks included.
sys.excepthook = _tell_unless_the_training_is_gone
