"""The layer of Keras on the backends beside PyTorch's: the tests of `test_keras`, each backend in a process of its own."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from involution.keras import Involution2D

keras = pytest.importorskip("keras", reason='Keras is not installed; pip install "involution[keras]"')
if keras.config.backend() != "torch":
    pytest.skip("models are saved on PyTorch's backend here", allow_module_level=True)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Save a model, and what it computes, on PyTorch."""
    folder = tmp_path_factory.mktemp("saved")
    inputs = keras.Input((None, None, 3))
    x = Involution2D(16, kernel_size=5, strides=2, group_channels=8, use_bias=True)(inputs)
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
    images = np.random.default_rng(0).standard_normal((4, 17, 14, 3)).astype("float32")
    model.save(folder / "model.keras")
    np.savez(folder / "known.npz", inputs=images, outputs=model.predict(images, verbose=0))
    return folder


@pytest.mark.parametrize("backend", ["jax", "tensorflow"])
def test_the_layer_on_another_backend(backend, saved):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed; Keras runs on it where it is")
    tests = Path(__file__).parent / "test_keras.py"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", str(tests)],
        env={**os.environ, "KERAS_BACKEND": backend, "INVOLUTION_TEST_KERAS_MODEL": str(saved)},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    last = done.stdout.splitlines()[-1]
    assert int(re.search(r"(\d+) passed", last)[1]) > 20 and "skipped" not in last, last
