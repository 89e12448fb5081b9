"""What the pages hold: their code blocks, and how each is run on its own, in a process that has no network."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
_BLOCK = re.compile(
    r"(?:<!-- needs (?P<needs>[^>]*) -->\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)

# Runs each of the texts that come by standard input in a namespace of its own, and names the first that fails.
RUNNER = """
import json, socket, sys, traceback

def refuse(self, address):
    raise OSError(f"a block of a page calls {address}; they use no network")

socket.socket.connect = refuse
for place, text in json.load(sys.stdin):
    try:
        exec(compile(text, place, "exec"), {"__name__": "__main__"})
    except BaseException:
        traceback.print_exc()
        sys.exit(f"the block at {place} does not run on its own")
"""


class Block(NamedTuple):
    """A code block.

    Attributes:
        page: its name.
        line: of the page where the block begins.
        language: as written after the fence.
        text: its lines.
        needs: what the comment before it says it needs: packages, and variables of the environment.
    """

    page: str
    line: int
    language: str
    text: str
    needs: tuple[str, ...]

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(*languages):
    """Return the blocks of all pages that are in one of these languages."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in _BLOCK.finditer(text):
            line = text.count("\n", 0, match.start("text"))
            needs = tuple((match["needs"] or "").split())
            found.append(Block(page.name, line, match["language"], match["text"], needs))
    return [block for block in found if block.language in languages]


def run(parts, folder):
    """Run blocks one after the other in a process, in ``folder``; return what the process left."""
    variables = dict(need.split("=") for block in parts for need in block.needs if "=" in need)
    return subprocess.run(
        [sys.executable, "-c", RUNNER],
        input=json.dumps([(block.place, block.text) for block in parts]),
        cwd=folder,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=600,
    )


def commands(block):
    """Return the commands of a console block, without their comments and output, continued lines joined."""
    text = block.text.replace("\\\n", " ")
    lines = [line.removeprefix("$ ") for line in text.splitlines() if line.startswith("$ ")]
    return [re.sub(r"\s+#.*$", "", line) for line in lines]
