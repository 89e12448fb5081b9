"""The command ``involution`` before PyTorch is imported, which takes seconds: its help comes at once.

A package of its own, because whatever lies in ``involution`` imports that package first, and with it PyTorch, whose
operators it registers. Everything that works is in `involution.commands`.
"""

import sys

from .commands import overview


def main() -> int:
    """Run the command line of this process and return its exit status, see `involution.commands.main.main`."""
    arguments = sys.argv[1:]
    try:
        if not arguments or arguments[0] in ("-h", "--help"):
            print(overview())
            return 0
        from involution.commands.main import main as run
    except KeyboardInterrupt:
        # As `involution.commands.termination` says it, which is not imported yet.
        print("involution: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0
    return run()
