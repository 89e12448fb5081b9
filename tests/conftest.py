import os

import pytest
import torch

# Keras reads it when it is imported first; its own default is TensorFlow.
os.environ.setdefault("KERAS_BACKEND", "torch")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


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
def _shared_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def extension_cache(_shared_cache, monkeypatch):
    """Let what is compiled for OpenVINO lie in a folder of this session, not in the user's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(_shared_cache))


def pytest_configure(config):
    # Under xdist every worker is one process per core.
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    # Its tests are unittest's, which cannot mark themselves without importing pytest.
    for item in items:
        if item.path.name == "test_gpu.py":
            item.add_marker(pytest.mark.gpu)
