"""The examples of docstrings run, all of them, in an empty folder and without a network."""

import doctest
import importlib
import socket

import pytest
from house.sources import modules

PROMPT = ">>> "
TEXTS = {name: module.path.read_text(encoding="utf-8") for name, module in modules().items()}


@pytest.fixture
def _alone(tmp_path, monkeypatch):
    def refuse(self, address):
        raise OSError(f"an example calls {address}; examples use no network")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.usefixtures("_alone")
@pytest.mark.parametrize("name", [name for name, text in TEXTS.items() if PROMPT in text])
def test_examples_run(name):
    examples = doctest.DocTestFinder().find(importlib.import_module(name))
    found = sum(len(example.examples) for example in examples)
    assert found == TEXTS[name].count(PROMPT), "doctest does not find every example; is one in a private function?"
    for example in examples:
        report: list[str] = []
        assert not doctest.DocTestRunner(verbose=False).run(example, out=report.append).failed, "".join(report)


def test_no_example_is_skipped():
    skipped = [name for name, text in TEXTS.items() if "doctest: +SKIP" in text]
    assert not skipped, "make the example light enough to run"
