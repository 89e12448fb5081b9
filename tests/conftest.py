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
