"""The layer of the Keras example "Involutional neural networks", read from its files and brought to PyTorch.

It is an `involution.Involution2d` with other habits: φ's convolutions both have a bias, its batch norm Keras' epsilon, and
of G groups a channel c takes kernel c mod G, where ours lie side by side.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import CheckpointError, in_one_line, missing_package
from ..kernel_generation import BottleneckKernelGenerator
from ..modules import Involution2d

__all__ = ["ChannelOrder", "from_example", "read_example"]

_EPSILON, _MOMENTUM = 1e-3, 0.99  # of Keras' batch norm
_PART = "kernel_gen"


class ChannelOrder(nn.Module):
    """The channels of ``(B, C, H, W)`` in another order.

    Args:
        order: for each channel of the output, the one of the input.
    """

    order: Tensor

    def __init__(self, order: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("order", torch.tensor(order))

    def forward(self, x: Tensor) -> Tensor:
        """Return the reordered channels."""
        return x.index_select(1, self.order)


def read_example(file: str | Path) -> dict[str, list[np.ndarray]]:
    """Read the weights of every involution of the Keras example in a file.

    Args:
        file: ``.keras`` or ``.weights.h5`` of Keras 3, or ``.h5`` that ``save_weights`` of Keras 2 wrote.

    Returns:
        By the name of the layer in the file (of one in a nested model or a model's attribute the names on the way to it, with
        slashes), its arrays in the order of ``get_weights()``, for `from_example`.

    Raises:
        CheckpointError: the file is missing, damaged, or holds no such layer.
    """
    try:
        import h5py
    except ImportError as error:
        raise missing_package(error.name, "keras") from error
    path = Path(file)
    if not path.is_file():
        raise CheckpointError(f"there is no file of Keras at {path}")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                source: Any = io.BytesIO(archive.read("model.weights.h5"))
        else:
            source = path
        with h5py.File(source, "r") as content:
            found = {name: _arrays(group) for name, group in _layers(content).items()}
    except (OSError, KeyError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} is damaged or no file of Keras: {in_one_line(error)}") from error
    if not found:
        raise CheckpointError(f"{path} holds no involution of the Keras example: expected layers with a part {_PART!r}")
    return found


def from_example(weights: Sequence[np.ndarray], kernel_size: int, stride: int = 1) -> nn.Module:
    """Return what computes, in evaluation mode, the first of the two results of the Keras example's layer, its output.

    Args:
        weights: as its ``get_weights()`` or `read_example` returns them, in the order of Keras 2 or 3.
        kernel_size: its argument of this name.
        stride: its argument of this name; 1.

    Returns:
        An `involution.Involution2d` for maps ``(B, C, H, W)``; where there are several groups, between two
        `ChannelOrder`.

    Raises:
        ValueError: the arrays are not those of such a layer, or the stride is above 1.
    """
    if stride != 1:
        raise ValueError(
            f"with stride {stride} the example pads one side more than the other, by a rule that depends on the size of "
            "the map; such a layer cannot be converted, train an Involution2d instead"
        )
    (reduce, reduce_bias, gamma, beta, mean, variance, span, span_bias) = _sorted(weights, kernel_size)
    channels, hidden = reduce.shape[2:]
    groups = span.shape[3] // kernel_size**2
    if channels % groups:
        raise ValueError(
            f"{channels} channels cannot be split into {groups} groups; is kernel_size {kernel_size} right?"
        )
    # Ours to theirs: channel i of group g is their channel i·G + g, and so are the rows of the last matrix.
    order = np.arange(channels).reshape(-1, groups).T.ravel()
    rows = np.arange(span.shape[3]).reshape(-1, groups).T.ravel()
    norm = partial(nn.BatchNorm2d, eps=_EPSILON, momentum=1 - _MOMENTUM)
    generator = BottleneckKernelGenerator(channels, kernel_size, groups, hidden_channels=hidden, norm_layer=norm)
    layer = Involution2d(channels, kernel_size=kernel_size, groups=groups, kernel_generator=generator)
    state = {
        "reduce.weight": reduce[:, :, order].transpose(3, 2, 0, 1),
        "norm.weight": gamma,
        "norm.bias": beta,
        # The norm takes the bias before it out again.
        "norm.running_mean": mean - reduce_bias,
        "norm.running_var": variance,
        "norm.num_batches_tracked": np.array(0),
        "span.weight": span[..., rows].transpose(3, 2, 0, 1),
        "span.bias": span_bias[rows],
    }
    generator.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in state.items()})
    if groups == 1:
        return layer.eval()
    return nn.Sequential(ChannelOrder(order.tolist()), layer, ChannelOrder(np.argsort(order).tolist())).eval()


def _sorted(weights: Sequence[np.ndarray], kernel_size: int) -> list[np.ndarray]:
    """Return the arrays in Keras 3's order; Keras 2 lists those that are not trained last."""
    arrays = [np.asarray(array) for array in weights]
    dims = [array.ndim for array in arrays]
    if dims == [4, 1, 1, 1, 4, 1, 1, 1]:
        arrays = [*arrays[:4], *arrays[6:], *arrays[4:6]]
        dims = [array.ndim for array in arrays]
    hidden = arrays[0].shape[-1] if arrays and arrays[0].ndim == 4 else 0
    shapes = [array.shape for array in arrays]
    fits = (
        dims == [4, 1, 1, 1, 1, 1, 4, 1]
        and shapes[0][:2] == (1, 1)
        and all(shape == (hidden,) for shape in shapes[1:6])
        and shapes[6][:3] == (1, 1, hidden)
        and shapes[6][3] % kernel_size**2 == 0
        and shapes[7] == shapes[6][3:]
    )
    if not fits:
        raise ValueError(
            "expected the arrays of an involution of the Keras example: 1×1 convolution and bias, gamma, beta, mean, "
            f"variance, 1×1 convolution to K²·G = a multiple of {kernel_size**2} channels and bias; got shapes "
            f"{', '.join(map(str, shapes)) or 'of nothing'}"
        )
    return arrays


def _layers(content: Any) -> dict[str, Any]:
    """Return the groups of a file that are layers with a part ``kernel_gen``, by the layer's name."""
    found: dict[str, Any] = {}

    def visit(path: str, group: Any) -> None:
        *way, last = path.split("/")
        if last == _PART and way:
            found["/".join(name for name in way if name != "layers")] = group

    # Keras 3: at any depth, behind "layers" or the attributes of a model.
    content.visititems(visit)
    if found or "layers" in content:
        return found
    # Keras 2: a group for every layer, which lists its arrays' names.
    groups = content.get("model_weights", content).items()
    return {
        name: group
        for name, group in groups
        if len(group.attrs.get("weight_names", ())) == 8 and all(array.ndim in (1, 4) for array in _arrays(group))
    }


def _arrays(group: Any) -> list[np.ndarray]:
    names = group.attrs.get("weight_names")
    if names is not None:
        return [np.array(group[name.decode() if isinstance(name, bytes) else name]) for name in names]
    # Keras 3: the parts by name, numbered in their order (conv2d, batch_normalization, conv2d_1).
    parts = group["layers"]
    convolutions = sorted((name for name in parts if name.startswith("conv2d")), key=lambda name: (len(name), name))
    norms = [name for name in parts if name.startswith("batch_normalization")]
    if len(convolutions) != 2 or len(norms) != 1:
        raise ValueError(f"expected two convolutions and a batch norm in {group.name}, got {', '.join(parts)}")
    return [
        np.array(parts[part]["vars"][number])
        for part in (convolutions[0], norms[0], convolutions[1])
        for number in sorted(parts[part]["vars"], key=int)
    ]
