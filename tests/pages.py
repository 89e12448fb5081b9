"""What the pages hold: their code blocks, and how each is run on its own, in a process that has no network."""

import os
import re
import socket
import sys
import traceback
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
_BLOCK = re.compile(
    r"(?:<!-- needs (?P<needs>[^>]*) -->\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)


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


def run(copies, parts, folder):
    """Run blocks one after the other in a process, in ``folder``; return its status and what it said."""
    variables = dict(need.split("=") for block in parts for need in block.needs if "=" in need)
    texts = [(block.place, block.text) for block in parts]
    return copies.start(environment=variables, blocks=texts, folder=str(folder)).wait(600)


def commands(block):
    """Return the commands of a console block, without their comments and output, continued lines joined."""
    text = block.text.replace("\\\n", " ")
    lines = [line.removeprefix("$ ") for line in text.splitlines() if line.startswith("$ ")]
    return [re.sub(r"\s+#.*$", "", line) for line in lines]


def run_blocks(request):
    """Run each text in a namespace of its own; name the first that fails."""
    os.chdir(request["folder"])
    socket.socket.connect = _refuse
    for place, text in request["blocks"]:
        try:
            exec(compile(text, place, "exec"), {"__name__": "__main__"})
        except BaseException:
            traceback.print_exc()
            print(f"the block at {place} does not run on its own", file=sys.stderr)
            return 1
    return 0


def _refuse(self, address):
    raise OSError(f"a block of a page calls {address}; they use no network")


if __name__ == "__main__":
    # What takes seconds and is not ours: a block that does not import this library's modules has to fail.
    import timm  # noqa: F401
    import torchvision  # noqa: F401
    from copies import serve

    assert not any(name.partition(".")[0] == "involution" for name in sys.modules)
    serve(run_blocks)
