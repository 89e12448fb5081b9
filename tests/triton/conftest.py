"""Tests of the Triton kernels in Triton's interpreter, on CPU tensors.

The interpreter has to be asked for before the kernels are imported, so these run in a process of their own:
``TRITON_INTERPRET=1 python -m pytest tests/triton``. ``tests/test_triton.py`` starts that process.
"""

import os

import pytest

if os.environ.get("TRITON_INTERPRET") != "1":
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture
def one_tile(monkeypatch):
    """Let one program take all pixels of a group: the interpreter's time goes by steps, not by the size of a tile."""
    from involution.backends.triton import launch

    table = launch.tile

    def tile(kernel, strip, group_channels, itemsize, work, lanes):
        return table(kernel, strip, group_channels, itemsize, work, lanes)._replace(
            pixels=launch.power_of_two(max(work, 1))
        )

    launch._plan.cache_clear()
    monkeypatch.setattr(launch, "tile", tile)
    yield
    launch._plan.cache_clear()
