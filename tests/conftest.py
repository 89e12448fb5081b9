import os
import shutil
import sys

import pytest
import torch

# Keras reads it when it is imported first; its own default is TensorFlow.
os.environ.setdefault("KERAS_BACKEND", "torch")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="module", autouse=True)
def _compiles_anew():
    """Dynamo compiles the code of a layer eight times in a process and then refuses; every file has its own eight."""
    yield
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()


@pytest.fixture(scope="session")
def copies():
    """Run commands in processes of their own, see `copies.Copies`."""
    from copies import Copies

    started = Copies()
    yield started
    started.close()


@pytest.fixture(scope="session")
def page_copies():
    """Run blocks of pages in processes of their own, see `pages.run`."""
    from copies import Copies

    started = Copies("pages")
    yield started
    started.close()


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """Return the folder of a training of two epochs, which tests look at and copy."""
    from trainings import TINY

    from involution.commands.main import main

    run = tmp_path_factory.mktemp("run") / "run"
    assert main(["fit", *TINY, f"--run={run}"]) == 0
    return run


@pytest.fixture(scope="session")
def photographs(tmp_path_factory):
    """Return a folder of twelve images with structure, of different sizes."""
    from small_sets import write_photographs

    return write_photographs(tmp_path_factory.mktemp("photographs"), 12)


@pytest.fixture(scope="session")
def browser():
    """Start Chromium; `wait_for_function` is what the page's policy forbids in it."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed; it is of the group dev"
    )
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("there is no Chromium; install Debian's package chromium")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
    with (
        playwright.sync_playwright() as driver,
        driver.chromium.launch(executable_path=chromium, args=flags) as started,
    ):
        yield started


@pytest.fixture(scope="session")
def _shared_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def extension_cache(_shared_cache, monkeypatch):
    """Let what is compiled for OpenVINO lie in a folder of this session, not in the user's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(_shared_cache))


def pytest_configure(config):
    # Under xdist there is one process per core. Without it as well: trainings are compared bit for bit with those in copies
    # of a process (`copies`), and in a copy the kernels compute on one thread.
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    # Its tests are unittest's, which cannot mark themselves without importing pytest.
    for item in items:
        if item.path.name == "test_gpu.py":
            item.add_marker(pytest.mark.gpu)
    # Three minutes of one core: the last of all, they would leave the other one idle.
    items.sort(key=lambda item: item.path.name != "test_two_processes.py")
