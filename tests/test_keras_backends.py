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


def test_tensorflow_may_be_loaded_first():
    """Its LLVM and Triton's would end the process between them."""
    if importlib.util.find_spec("tensorflow") is None or importlib.util.find_spec("triton") is None:
        pytest.skip("TensorFlow or Triton is not installed")
    code = (
        "import keras, sys; assert 'tensorflow' in sys.modules\nimport involution.keras, triton\nprint(triton.__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "KERAS_BACKEND": "tensorflow"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert (done.returncode, done.stdout) == (0, "triton\n"), done.stderr[-2000:]


@pytest.mark.skipif(not hasattr(os, "RTLD_DEEPBIND"), reason="this system has no RTLD_DEEPBIND")
@pytest.mark.parametrize("loaded", ["tensorflow", "no"])
def test_triton_keeps_to_its_own_symbols_beside_tensorflow_alone(loaded, tmp_path):
    (tmp_path / "triton.py").write_text("import os, sys\nprint(bool(sys.getdlopenflags() & os.RTLD_DEEPBIND))\n")
    code = (
        "import os, sys, types\n"
        f"sys.modules[{loaded!r}] = types.ModuleType({loaded!r})\n"
        "import involution\nassert not sys.getdlopenflags() & os.RTLD_DEEPBIND"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stdout) == (0, f"{loaded == 'tensorflow'}\n"), done.stderr[-2000:]
