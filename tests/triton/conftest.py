"""Tests of the Triton kernels in Triton's interpreter, on CPU tensors.

The interpreter has to be asked for before the kernels are imported, so these run in a process of their own:
``TRITON_INTERPRET=1 python -m pytest tests/triton``. ``tests/test_triton.py`` starts that process.
"""

import os

import pytest

if os.environ.get("TRITON_INTERPRET") != "1":
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(autouse=True, scope="session")
def _prepared_once():
    """Let the interpreter prepare triton.language once in a launch, not again in every function that a kernel calls.

    Looking through the whole language at every call takes half of the interpreter's time and finds nothing to do: a
    kernel's functions are called within a launch.
    """
    import triton.language as tl
    from triton.runtime import interpreter

    with pytest.MonkeyPatch.context() as patch:
        # Other versions of Triton do it in other ways, and take their time.
        if hasattr(interpreter, "_LangPatchScope"):
            prepare = interpreter._patch_lang

            def prepare_once(function):
                languages = [value for value in function.__globals__.values() if value is tl or value is tl.core]
                is_prepared = languages and not any(tl.core.is_builtin(language.load) for language in languages)
                return interpreter._LangPatchScope() if is_prepared else prepare(function)

            patch.setattr(interpreter, "_patch_lang", prepare_once)
        yield


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
