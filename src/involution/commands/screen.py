"""Pages in the browser, where there is a screen."""

from __future__ import annotations

import os
import sys
import webbrowser

__all__ = ["show"]


def show(address: str) -> None:
    """Open a page in the browser where there is a screen; one in the terminal alone would keep the command from going on.

    Args:
        address: of the page.
    """
    if sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        webbrowser.open(address)
