"""The built documentation: complete, with formulas, copy buttons and the page of `involution demo`; nothing in it comes
from a network.
"""

import re
import subprocess
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from involution.browser import runtime, server
from involution.commands.main import main
from involution.errors import CommandError, MissingPackageError

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
def demo(tmp_path_factory):
    """The page of a small net as `make docs` makes it, in the folder that it is laid beside the pages from, or why not."""
    try:
        runtime.find()
    except (CommandError, MissingPackageError) as error:
        return str(error)
    folder = tmp_path_factory.mktemp("demo")
    Image.new("RGB", (64, 48), "green").save(folder / "green.png")
    words = ["--models", "rednet14_eighth.cifar10", "--no-serve", "--out", str(folder / "site" / "demo")]
    assert main(["demo", str(folder / "green.png"), *words]) == 0
    return folder / "site"


@pytest.fixture(scope="module")
def site(demo, tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going"]
    if isinstance(demo, Path):
        command += ["-D", f"html_extra_path={demo}", "-t", "demo"]
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


def test_the_page_of_the_demo_is_part_of_it_and_answers(site, demo, browser):
    if not isinstance(demo, Path):
        pytest.skip(demo)
    running = server.open_server(site, 0)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{running.server_address[1]}/"
    page = browser.new_page()
    asked, failed = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: failed.append(str(error)))
    try:
        for start in ("index.html", "browser.html"):
            page.goto(address + start)
            page.click("text=try it here")
            page.wait_for_selector(".answer p:has-text(' ms (')", timeout=120_000)
            assert page.url == f"{address}demo/index.html"
            assert len(page.query_selector_all(".answer tr")) == 3
        assert any(url.endswith(".onnx") for url in asked) and not failed
        assert all(url.startswith((address, "blob:", "data:")) for url in asked)
    finally:
        page.close()
        running.shutdown()
        running.server_close()
