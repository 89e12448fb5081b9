"""The layers of the Keras example, read from its files and computed by PyTorch."""

import numpy as np
import pytest
import torch
from torch import nn

from involution.errors import CheckpointError

keras = pytest.importorskip("keras", reason='Keras is not installed; pip install "involution[keras]"')
if keras.config.backend() != "torch":
    pytest.skip("the example is written for PyTorch's backend here", allow_module_level=True)

from involution.keras import ChannelOrder, from_example, read_example  # noqa: E402


def channels_last(x):
    return x.permute(0, 2, 3, 1)


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


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_layers_of_models_inside_are_read_too(suffix, tmp_path):
    inner, outer = example_model(1), example_model(3)
    inputs = keras.Input((9, 8, 6))
    model = keras.Model(inputs, outer.get_layer("inv_2")(inner(inputs)))
    file = tmp_path / f"model{suffix}"
    (model.save if suffix == ".keras" else model.save_weights)(file)
    found = read_example(file)
    assert len(found) == 3
    kept = [
        layer.get_weights() for layer in (inner.get_layer("inv_1"), inner.get_layer("inv_2"), outer.get_layer("inv_2"))
    ]
    for weights in kept:
        assert any(
            len(weights) == len(read) and all(np.array_equal(a, b) for a, b in zip(weights, read, strict=True))
            for read in found.values()
        )


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
