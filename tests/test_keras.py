"""The layer of Keras: equal to PyTorch's in both directions, on the backend that Keras runs here.

`test_keras_backends` runs these tests on the other backends that are installed.
"""

import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from involution import Involution2d

keras = pytest.importorskip("keras", reason='Keras is not installed; pip install "involution[keras]"')

from foreign_layers import with_random_statistics  # noqa: E402
from keras_gradients import gradients  # noqa: E402

from involution.keras import Involution2D, from_torch, to_torch  # noqa: E402

BACKEND = keras.config.backend()
LAYERS = {
    "plain": lambda: Involution2d(32, kernel_size=7),
    "strided": lambda: Involution2d(32, kernel_size=3, stride=2, groups=4),
    "wide, 3 and 5": lambda: Involution2d(16, 32, kernel_size=(3, 5), stride=(3, 2), reduction=2, bias=True),
    "dilated, valid": lambda: Involution2d(16, kernel_size=3, dilation=2, stride=2, padding="valid", groups=1),
}


def randomised(layer):
    if layer.bias is not None:
        nn.init.normal_(layer.bias)
    return with_random_statistics(layer)


def channels_last(x):
    return x.detach().permute(0, 2, 3, 1).numpy()


def array(x):
    return keras.ops.convert_to_numpy(x)


def assert_close(found, expected, tolerance):
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("way", ["operator", "products"] if BACKEND == "torch" else ["products"])
@pytest.mark.parametrize("name", LAYERS)
def test_keras_computes_what_pytorch_computes_and_back(name, way, monkeypatch):
    torch_layer = randomised(LAYERS[name]())
    layer = from_torch(torch_layer)
    if way == "products":
        # What other backends than PyTorch's run.
        monkeypatch.setattr(layer, "_by_operator", layer._by_products)
    for size in ((15, 16), (14, 11)):
        x = torch.randn(2, torch_layer.in_channels, *size)
        with torch.inference_mode():
            expected = torch_layer(x)
        output = layer(channels_last(x))
        assert tuple(output.shape) == layer.compute_output_shape((2, *size, torch_layer.in_channels))
        assert_close(array(output), channels_last(expected), 1e-4)
    back = to_torch(layer)
    assert back.state_dict().keys() == torch_layer.state_dict().keys()
    with torch.inference_mode():
        torch.testing.assert_close(back(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_of_a_training_step_are_equal(name):
    torch_layer = randomised(LAYERS[name]())
    layer = from_torch(torch_layer)
    torch_layer.train()
    x = torch.randn(4, torch_layer.in_channels, 13, 12, requires_grad=True)
    generator = torch_layer.kernel_generator
    wanted = torch.autograd.grad(torch_layer(x).square().sum(), [x, generator.span.weight, generator.reduce.weight])
    of_x, *of_kernels = gradients(layer, channels_last(x))
    assert_close(of_x, channels_last(wanted[0]), 1e-3)
    for found, expected in zip(of_kernels, wanted[1:], strict=True):
        np.testing.assert_allclose(found.transpose(3, 2, 0, 1), expected, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("name", LAYERS)
def test_a_model_of_no_size_takes_every_size(name):
    """As functions that the backend compiles, once with sizes that are unknown where there are such functions."""
    torch_layer = randomised(LAYERS[name]())
    inputs = keras.Input((None, None, torch_layer.in_channels))
    outputs = from_torch(torch_layer)(inputs)
    assert tuple(outputs.shape) == (None, None, None, torch_layer.out_channels)
    model = keras.Model(inputs, outputs)
    calls = [lambda x: model.predict(x, verbose=0)]
    if BACKEND == "tensorflow":
        import tensorflow

        unknown = tensorflow.TensorSpec((None, None, None, torch_layer.in_channels))
        calls.append(tensorflow.function(model, input_signature=[unknown]))
    for size in ((15, 16), (14, 11), (9, 20)):
        x = torch.randn(3, torch_layer.in_channels, *size)
        with torch.inference_mode():
            expected = channels_last(torch_layer(x))
        for call in calls:
            assert_close(array(call(channels_last(x))), expected, 1e-4)


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", LAYERS)
def test_in_mixed_precision_sums_are_as_good_as_their_terms(name, half):
    """No further from float32 than half precision rounds once or twice: K² terms are not added up in it."""
    torch_layer = randomised(LAYERS[name]())
    x = torch.randn(2, torch_layer.in_channels, 12, 13)
    layer = from_torch(torch_layer)
    mixed = Involution2D.from_config({**layer.get_config(), "dtype": f"mixed_{half}"})
    mixed.build((None, None, None, torch_layer.in_channels))
    mixed.set_weights(layer.get_weights())
    output = mixed(channels_last(x))
    assert keras.backend.standardize_dtype(output.dtype) == half
    assert {keras.backend.standardize_dtype(v.dtype) for v in mixed.weights} == {"float32"}
    expected = array(layer(channels_last(x)))
    error = np.abs(array(keras.ops.cast(output, "float32")) - expected).mean() / np.abs(expected).mean()
    assert error < torch.finfo(getattr(torch, half)).eps
    found = gradients(mixed, channels_last(x))
    for gradient, wanted in zip(found, gradients(layer, channels_last(x)), strict=True):
        assert np.isfinite(gradient).all()
        assert np.abs(gradient - wanted).mean() < 0.1 * np.abs(wanted).mean()


def test_a_model_trains_is_saved_and_comes_back(tmp_path):
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(16, 3, padding="same")(inputs)
    x = keras.layers.ReLU()(Involution2D(kernel_size=3, strides=2, group_channels=8, name="involution")(x))
    outputs = keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    labels = np.arange(32) % 2
    # Horizontal and vertical stripes.
    stripes = np.indices((12, 12)) % 2
    images = (stripes[labels][..., None] + 0.1 * np.random.default_rng(0).standard_normal((32, 12, 12, 3))).astype(
        "float32"
    )
    first = model.evaluate(images, labels, verbose=0)
    model.fit(images, labels, epochs=12, batch_size=8, verbose=0)
    assert model.evaluate(images, labels, verbose=0) < first / 2
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert_close(loaded.predict(images, verbose=0), model.predict(images, verbose=0), 1e-5)
    assert isinstance(loaded.get_layer("involution"), Involution2D)


def test_a_model_that_pytorch_saved_computes_the_same():
    folder = os.environ.get("INVOLUTION_TEST_KERAS_MODEL")
    if folder is None:
        pytest.skip("another process says where it saved one, see test_keras_backends")
    model = keras.saving.load_model(Path(folder, "model.keras"))
    known = np.load(Path(folder, "known.npz"))
    assert_close(model.predict(known["inputs"], verbose=0), known["outputs"], 1e-4)


@pytest.mark.parametrize("name", LAYERS)
def test_channels_are_last_whatever_keras_layers_have_by_default(name):
    torch.manual_seed(1)
    layer = randomised(LAYERS[name]())
    x = torch.randn(2, layer.in_channels, 9, 8)
    keras.config.set_image_data_format("channels_first")
    try:
        found = array(from_torch(layer)(channels_last(x)))
    finally:
        keras.config.set_image_data_format("channels_last")
    assert_close(found, channels_last(layer(x)), 1e-4)


def test_weights_in_bfloat16_are_the_same_both_ways():
    layer = randomised(Involution2d(16, 32, kernel_size=3, bias=True)).bfloat16()
    twin = to_torch(from_torch(layer)).state_dict()
    assert all(torch.equal(twin[name], value) for name, value in layer.state_dict().items())
    half = Involution2D(32, kernel_size=3, use_bias=True, dtype="bfloat16")
    half.build((None, None, None, 16))
    assert torch.equal(
        to_torch(half).value.weight[:, :, 0, 0].t().float(), torch.tensor(array(half.value.kernel)[0, 0].tolist())
    )


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (Involution2d(16, kernel_generator="linear"), "its φ is LinearKernelGenerator"),
        (Involution2d(16, norm_layer=nn.InstanceNorm2d), "its norm is InstanceNorm2d"),
        (Involution2d(16, act_layer=nn.GELU), "its activation GELU"),
        (Involution2d(16, norm_layer=partial(nn.BatchNorm2d, affine=False)), "its norm has no weight and bias"),
        (
            Involution2d(16, norm_layer=partial(nn.BatchNorm2d, track_running_stats=False)),
            r"its norm has no running statistics \(track_running_stats=False\)",
        ),
        (Involution2d(16, kernel_size=5, padding=1), r"its padding is \(1, 1\)"),
    ],
)
def test_what_keras_has_no_layer_for_is_refused(layer, words):
    with pytest.raises(ValueError, match=f"takes a bottleneck φ with batch norm and ReLU .*{words}"):
        from_torch(layer)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"kernel_size": 4}, "kernel_size must be odd"),
        ({"padding": "full"}, "padding must be 'same' or 'valid', got 'full'"),
        ({"strides": 0}, "strides must be at least 1"),
    ],
)
def test_wrong_arguments_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        Involution2D(**arguments)
    with pytest.raises(ValueError, match="the layer has no weights before it has seen an input"):
        to_torch(Involution2D())
