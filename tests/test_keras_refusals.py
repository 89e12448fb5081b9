"""The layer of Keras where arguments, maps or layers of PyTorch are none of its: a sentence, never another result."""

import numpy as np
import pytest
import torch
from torch import nn

from involution import Involution1d, Involution2d
from involution.kernel_generation import BottleneckKernelGenerator

keras = pytest.importorskip("keras", reason='Keras is not installed; pip install "involution[keras]"')

from foreign_layers import with_random_statistics  # noqa: E402

from involution.keras import Involution2D, from_torch, to_torch  # noqa: E402


def with_value(layer, value):
    layer.value = value
    return layer


class Doubled(BottleneckKernelGenerator):
    def forward(self, x):
        return 2 * super().forward(x).field()


class DoubledLayer(Involution2d):
    def generate_kernel(self, input):
        return 2 * super().generate_kernel(input).field()


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (with_value(Involution2d(16, 32, kernel_size=3), nn.Conv2d(16, 32, 1)), "its value projection is Conv2d"),
        (
            with_value(Involution2d(16, kernel_size=3), nn.Conv2d(16, 16, 1, bias=False)),
            "its value projection is Conv2d",
        ),
        (with_value(Involution2d(16, 32), nn.Conv2d(16, 32, 3, bias=False)), "its value projection is Conv2d"),
        (Involution2d(16, kernel_size=3, kernel_generator=Doubled(16, 3, 1)), "its φ is Doubled"),
        (
            with_value(Involution2d(16, 32), nn.Conv2d(16, 32, 1, bias=False).half()),
            "its weights are of the dtypes float16, float32; cast the layer to one of them",
        ),
    ],
)
def test_a_layer_that_computes_something_else_is_refused(layer, words):
    with pytest.raises(ValueError, match=f"takes a bottleneck φ with batch norm and ReLU .*{words}"):
        from_torch(layer)


@pytest.mark.parametrize("layer", [nn.Conv2d(16, 16, 3), Involution1d(16), DoubledLayer(16)])
def test_what_is_no_involution_is_named(layer):
    with pytest.raises(TypeError, match=f"must be an involution.Involution2d itself, got {type(layer).__name__}"):
        from_torch(layer)
    with pytest.raises(TypeError, match=r"must be an involution.keras.Involution2D, got Conv2D"):
        to_torch(keras.layers.Conv2D(16, 3))


def test_a_last_matrix_without_a_bias_gets_one_of_zeros():
    layer = with_random_statistics(Involution2d(16, kernel_size=3))
    layer.kernel_generator.span.bias = None
    x = torch.randn(1, 16, 5, 6)
    with torch.inference_mode():
        expected = layer(x).permute(0, 2, 3, 1).numpy()
    found = keras.ops.convert_to_numpy(from_torch(layer)(x.permute(0, 2, 3, 1).numpy()))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_weights_keep_their_dtype_both_ways(dtype):
    if keras.config.backend() == "jax" and dtype == torch.float64:
        pytest.skip("JAX makes float32 of float64 unless it is told otherwise")
    weights = with_random_statistics(Involution2d(16, 32, kernel_size=3, bias=True)).to(dtype).state_dict()
    layer = Involution2d(16, 32, kernel_size=3, bias=True, dtype=dtype)
    layer.load_state_dict(weights)
    twin = to_torch(from_torch(layer)).state_dict()
    for name, value in weights.items():
        assert twin[name].dtype == value.dtype and torch.equal(twin[name], value), name


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"filters": 0}, "filters must be at least 1, got 0"),
        ({"momentum": 5}, "momentum must be a number from 0 to 1, got 5"),
        ({"epsilon": -1}, "epsilon must be at least 0, got -1"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        Involution2D(**arguments)


def test_a_map_that_no_window_fits_into_is_refused():
    layer = Involution2D(16, 5, padding="valid")
    words = r"a window of \(5, 5\) pixels .* does not fit into a map of \(3, 9\) with padding \(0, 0\)"
    with pytest.raises(ValueError, match=words):
        layer.compute_output_shape((1, 3, 9, 16))
    with pytest.raises(ValueError, match=words):
        layer(np.zeros((1, 3, 9, 16), "float32"))
    assert layer.compute_output_shape((None, None, 9, 16)) == (None, None, 5, 16)
    assert tuple(layer(np.zeros((1, 5, 9, 16), "float32")).shape) == (1, 1, 5, 16)
