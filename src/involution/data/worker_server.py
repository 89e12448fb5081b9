"""What the server of worker processes imports, for them alone: they leave without a traceback when their training is gone.

A process that starts a worker and is ended, by Ctrl-C or SIGTERM, before it has handed over the work, or while it is handed
a batch, has said itself what happened. Of any other exception a worker prints what every process does.
"""

import sys
from typing import Any

__all__: list[str] = []


def _tell_unless_the_training_is_gone(kind: type[BaseException], *error: Any) -> None:
    if not issubclass(kind, (ConnectionError, EOFError)):
        sys.__excepthook__(kind, *error)


# Workers are copies of the server, hooks included.
sys.excepthook = _tell_unless_the_training_is_gone
