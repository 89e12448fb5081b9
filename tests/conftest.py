import os

import pytest
import torch


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def pytest_configure(config):
    # Under xdist every worker is one process per core.
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    # Its tests are unittest's, which cannot mark themselves without importing pytest.
    for item in items:
        if item.path.name == "test_gpu.py":
            item.add_marker(pytest.mark.gpu)
