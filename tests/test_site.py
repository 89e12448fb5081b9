"""The built documentation: complete, with formulas and copy buttons, and nothing in it comes from a network."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytest.importorskip("sphinx", reason='Sphinx is not installed; pip install "involution[docs]"')
pytest.importorskip("latex2mathml", reason='latex2mathml is not installed; pip install "involution[docs]"')

ROOT = Path(__file__).parent.parent


class Fetched(HTMLParser):
    """Collects the addresses that a browser fetches by itself, and counts formulas."""

    def __init__(self):
        super().__init__()
        self.addresses, self.formulas, self.buttons = [], 0, 0

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if tag in ("script", "img", "iframe", "source", "video", "audio", "embed"):
            self.addresses.append(found.get("src") or "")
        elif tag == "link" and found.get("rel") in ("stylesheet", "preload", "icon", "preconnect"):
            self.addresses.append(found.get("href") or "")
        self.formulas += tag == "math"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going"]
    done = subprocess.run(
        [*command, "-d", str(out / "tree"), str(ROOT / "docs"), str(out / "html")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return out / "html"


def parsed(page):
    found = Fetched()
    found.feed(page.read_text(encoding="utf-8"))
    return found


def test_nothing_is_fetched_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 25
    for page in pages:
        elsewhere = [address for address in parsed(page).addresses if re.match(r"(https?:)?//", address)]
        assert not elsewhere, page
    for style in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import\s)['\"]?(https?:)?//", style.read_text(encoding="utf-8")), style


def test_formulas_are_in_the_pages(site):
    assert parsed(site / "operator.html").formulas > 20
    assert parsed(site / "api.html").formulas > 5
    text = (site / "operator.html").read_text(encoding="utf-8")
    assert (
        "<munder><mo>&#x02211;</mo>" in text.replace(" ", "").replace("<munder>\n", "<munder>") or "&#x02211;" in text
    )
    # What could not be translated would stand there as it is written.
    body = re.sub(r"<annotation.*?</annotation>", "", text, flags=re.DOTALL)
    left = re.findall(r"<m(?:i|o|text)[^>]*>\s*(\\[a-zA-Z]+)", body)
    assert not left


def test_every_page_can_be_reached_and_has_copy_buttons(site):
    index = (site / "index.html").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        if page.stem != "index":
            assert f'href="{page.stem}.html' in index, page.stem
            # Sphinx writes pages of its own over those that are called as they are, without a warning.
            title = page.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
            assert f"<h1>{title}<" in (site / f"{page.stem}.html").read_text(encoding="utf-8"), page
    assert "copybutton.js" in index
