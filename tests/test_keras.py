"""The layer of Keras: equal to PyTorch's in both directions, whoever computes; and the layers of the Keras example."""

import numpy as np
import pytest
import torch
from torch import nn

from involution import Involution2d
from involution.errors import CheckpointError

keras = pytest.importorskip("keras", reason='Keras is not installed; pip install "involution[keras]"')
if keras.config.backend() != "torch":
    pytest.skip("Keras runs on another backend than PyTorch's here", allow_module_level=True)

from foreign_layers import with_random_statistics  # noqa: E402

from involution.keras import ChannelOrder, Involution2D, from_example, from_torch, read_example, to_torch  # noqa: E402

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
    return x.permute(0, 2, 3, 1)


@pytest.mark.parametrize("way", ["operator", "products"])
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
        torch.testing.assert_close(output, channels_last(expected), rtol=1e-4, atol=1e-4)
    back = to_torch(layer)
    assert back.state_dict().keys() == torch_layer.state_dict().keys()
    with torch.inference_mode():
        torch.testing.assert_close(back(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_of_a_training_step_are_equal(name):
    torch_layer = randomised(LAYERS[name]())
    layer = from_torch(torch_layer)
    torch_layer.train()
    x = torch.randn(4, torch_layer.in_channels, 13, 12)
    one, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    generator = torch_layer.kernel_generator
    wanted = torch.autograd.grad(torch_layer(one).square().sum(), [one, generator.span.weight, generator.reduce.weight])
    kernels = [layer.span.kernel.value, layer.reduce.kernel.value]
    found = torch.autograd.grad(layer(channels_last(other), training=True).square().sum(), [other, *kernels])
    torch.testing.assert_close(found[0], wanted[0], rtol=1e-3, atol=1e-3)
    for gradient, expected in zip(found[1:], wanted[1:], strict=True):
        torch.testing.assert_close(gradient.permute(3, 2, 0, 1), expected, rtol=1e-3, atol=1e-2)


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
    np.testing.assert_allclose(
        loaded.predict(images, verbose=0), model.predict(images, verbose=0), rtol=1e-5, atol=1e-5
    )
    assert isinstance(loaded.get_layer("involution"), Involution2D)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (Involution2d(16, kernel_generator="linear"), "its φ is LinearKernelGenerator"),
        (Involution2d(16, norm_layer=nn.InstanceNorm2d), "its norm is InstanceNorm2d"),
        (Involution2d(16, act_layer=nn.GELU), "its activation GELU"),
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


class ExampleInvolution(keras.layers.Layer):
    """A layer with the parts of the Keras example's, whose sum is written from its definition: channel c has kernel c mod G."""

    def __init__(self, channel, group_number, kernel_size, reduction_ratio, **kwargs):
        super().__init__(**kwargs)
        self.channel, self.groups, self.size = channel, group_number, kernel_size
        self.reduction_ratio = reduction_ratio

    def build(self, input_shape):
        self.kernel_gen = keras.Sequential(
            [
                keras.layers.Conv2D(self.channel // self.reduction_ratio, 1),
                keras.layers.BatchNormalization(),
                keras.layers.ReLU(),
                keras.layers.Conv2D(self.size**2 * self.groups, 1),
            ]
        )
        self.kernel_gen.build(input_shape)

    def call(self, x):
        batch, height, width, channels = x.shape
        # (…, tap, group): the group runs fastest.
        field = self.kernel_gen(x).reshape(batch, height, width, self.size**2, self.groups)
        half = self.size // 2
        padded = nn.functional.pad(x, (0, 0, half, half, half, half))
        out = torch.zeros_like(x)
        for c in range(channels):
            for tap in range(self.size**2):
                u, v = divmod(tap, self.size)
                out[..., c] += field[..., tap, c % self.groups] * padded[:, u : u + height, v : v + width, c]
        return out


def example_model(group_number):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((9, 8, 6))
    arguments = {"channel": 8, "kernel_size": 3, "reduction_ratio": 2}
    first = ExampleInvolution(group_number=group_number, name="inv_1", **arguments)
    last = ExampleInvolution(group_number=group_number, name="inv_2", **arguments)
    model = keras.Model(inputs, last(keras.layers.ReLU()(first(inputs))))
    for layer in (first, last):
        weights = [
            np.random.default_rng(i).uniform(0.2, 1.2, w.shape).astype("float32")
            for i, w in enumerate(layer.get_weights())
        ]
        layer.set_weights(weights)
    return model


@pytest.mark.parametrize("group_number", [1, 3])
@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_layers_of_the_example_are_read_and_compute_the_same(group_number, suffix, tmp_path):
    model = example_model(group_number)
    file = tmp_path / f"model{suffix}"
    (model.save if suffix == ".keras" else model.save_weights)(file)
    found = list(read_example(file).values())
    assert len(found) == 2
    first, last = (from_example(weights, kernel_size=3) for weights in found)
    x = torch.randn(2, 6, 9, 8)
    with torch.inference_mode():
        expected = torch.as_tensor(model(channels_last(x)))
        torch.testing.assert_close(channels_last(last(first(x).relu())), expected, rtol=1e-3, atol=1e-3)
    assert any(isinstance(part, ChannelOrder) for part in first.modules()) == (group_number > 1)


def test_files_of_keras_2_are_read(tmp_path):
    """A group for each layer, with the names of its arrays in an attribute, trained ones first."""
    import h5py

    model = example_model(3)
    with h5py.File(tmp_path / "old.h5", "w") as file:
        for name in ("inv_1", "re_lu", "inv_2"):
            arrays = model.get_layer(name).get_weights() if name != "re_lu" else []
            arrays = [*arrays[:4], *arrays[6:], *arrays[4:6]]
            parts = ["conv2d/kernel", "conv2d/bias", "bn/gamma", "bn/beta", "conv2d_1/kernel", "conv2d_1/bias"]
            names = [f"{name}/{part}:0" for part in (*parts, "bn/moving_mean", "bn/moving_variance")][: len(arrays)]
            group = file.create_group(name)
            group.attrs["weight_names"] = [each.encode() for each in names]
            for each, array in zip(names, arrays, strict=True):
                group.create_dataset(each, data=array)
    found = read_example(tmp_path / "old.h5")
    assert list(found) == ["inv_1", "inv_2"]
    x = torch.randn(1, 6, 9, 8)
    with torch.inference_mode():
        for name, weights in found.items():
            expected = model.get_layer(name)(channels_last(x))
            output = channels_last(from_example(weights, kernel_size=3)(x))
            torch.testing.assert_close(output, expected, rtol=1e-3, atol=1e-3)


def test_other_files_and_arrays_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="there is no file of Keras at"):
        read_example(tmp_path / "none.keras")
    (tmp_path / "damaged.keras").write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(CheckpointError, match=r"damaged.keras is damaged or no file of Keras"):
        read_example(tmp_path / "damaged.keras")
    keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Conv2D(2, 1)]).save_weights(tmp_path / "plain.weights.h5")
    with pytest.raises(CheckpointError, match="holds no involution of the Keras example"):
        read_example(tmp_path / "plain.weights.h5")
    weights = example_model(1).get_layer("inv_1").get_weights()
    with pytest.raises(ValueError, match="expected the arrays of an involution of the Keras example"):
        from_example(weights, kernel_size=5)
    with pytest.raises(ValueError, match="with stride 2 the example pads one side more"):
        from_example(weights, kernel_size=3, stride=2)
