"""Involution as a layer of Keras 3, on every backend of Keras; on PyTorch's by this library's operator."""

from __future__ import annotations

from functools import partial
from typing import Any

import keras
import numpy as np
import torch
from keras import ops
from torch import nn

from .. import functional
from ..geometry import IntOrTuple, Window, to_tuple
from ..kernel_generation import BottleneckKernelGenerator
from ..modules import Involution2d

__all__ = ["Involution2D", "from_torch", "to_torch"]

_ARGUMENTS = (
    *("filters", "kernel_size", "strides", "padding", "dilation_rate", "groups", "group_channels", "reduction"),
    *("hidden_channels", "use_bias", "epsilon", "momentum"),
)
# The arrays of a batch norm in the order in which Keras keeps them.
_NORM = ("weight", "bias", "running_mean", "running_var")


@keras.saving.register_keras_serializable(package="involution")
class Involution2D(keras.layers.Layer):
    r"""The layer of Li et al., CVPR 2021, for images with the channels last; `involution.Involution2d` in Keras.

    .. math::
        Y_{ij} = \sum_{u,v} \varphi(X_{ij})_{u,v} \, X_{i+u,\,j+v}, \qquad
        \varphi(x) = W_1 \, \mathrm{ReLU}(\mathrm{BN}(W_0 x))

    On PyTorch's backend the sum is computed by this library's kernels, on others by K² products of whole maps.

    Args:
        filters: C of the output; where it differs from the input's, a 1×1 convolution comes first. The input's by default.
        kernel_size: K, odd.
        strides: pixels between two windows.
        padding: ``"same"``, zeros on both sides alike as in PyTorch (Keras' own layers pad one side more where strides
            are above 1), or ``"valid"``.
        dilation_rate: pixels between two taps.
        groups: G, number of kernels per pixel; ``filters / group_channels`` by default.
        group_channels: C / G, channels that share a kernel (capped at ``filters``).
        reduction: r, the ratio of the input's channels to the hidden width of φ.
        hidden_channels: the hidden width itself, where it is no such part.
        use_bias: add a learned offset per output channel.
        epsilon: of φ's batch norm, PyTorch's by default.
        momentum: of φ's batch norm in Keras' sense, PyTorch's by default.
        **kwargs: of ``keras.layers.Layer``, such as ``name``.

    Shape:
        ``(B, H, W, C)`` to ``(B, ⌈H / s⌉, ⌈W / s⌉, filters)`` with ``padding="same"``.

    Raises:
        ValueError: an argument is out of range, the channels cannot be split into the groups, or (of the call) the map is
            smaller than a window with ``padding="valid"``.

    Example:
        >>> import numpy as np
        >>> from involution.keras import Involution2D
        >>> tuple(Involution2D(kernel_size=7, strides=2)(np.zeros((2, 15, 15, 64), "float32")).shape)
        (2, 8, 8, 64)
    """

    def __init__(
        self,
        filters: int | None = None,
        kernel_size: IntOrTuple = 7,
        strides: IntOrTuple = 1,
        padding: str = "same",
        dilation_rate: IntOrTuple = 1,
        *,
        groups: int | None = None,
        group_channels: int = 16,
        reduction: int = 4,
        hidden_channels: int | None = None,
        use_bias: bool = False,
        epsilon: float = 1e-5,
        momentum: float = 0.9,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.filters = None if filters is None else to_tuple(filters, 1, "filters")[0]
        self.groups, self.group_channels = groups, group_channels
        self.kernel_size = to_tuple(kernel_size, 2, "kernel_size")
        self.strides = to_tuple(strides, 2, "strides")
        self.dilation_rate = to_tuple(dilation_rate, 2, "dilation_rate")
        if any(k % 2 == 0 for k in self.kernel_size):
            raise ValueError(f"kernel_size must be odd, got {self.kernel_size}")
        if padding not in ("same", "valid"):
            raise ValueError(f"padding must be 'same' or 'valid', got {padding!r}")
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum must be a number from 0 to 1, got {momentum!r}")
        if not epsilon >= 0:
            raise ValueError(f"epsilon must be at least 0, got {epsilon!r}")
        self.padding, self.reduction, self.hidden_channels = padding, reduction, hidden_channels
        self.use_bias, self.epsilon, self.momentum = use_bias, epsilon, momentum

    def build(self, input_shape: Any) -> None:
        """Make the weights for inputs of ``input_shape``, ``(B, H, W, C)``."""
        channels = input_shape[-1]
        # Channels, groups and hidden width are resolved, and refused, as in PyTorch.
        with torch.device("meta"):
            twin = _torch_layer(self, channels)
        generator: Any = twin.kernel_generator
        self._out_channels, self._resolved_groups = twin.out_channels, twin.groups
        initial = keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")
        # Channels are last here, wherever Keras' own layers have them.
        convolution = partial(
            keras.layers.Conv2D,
            kernel_size=1,
            data_format="channels_last",
            kernel_initializer=initial,
            dtype=self.dtype_policy,
        )
        self.value: Any = None
        if twin.out_channels != channels:
            self.value = convolution(twin.out_channels, use_bias=False, name="value")
        self.reduce = convolution(generator.reduce.out_channels, use_bias=False, name="reduce")
        self.norm = keras.layers.BatchNormalization(
            epsilon=self.epsilon, momentum=self.momentum, name="norm", dtype=self.dtype_policy
        )
        self.span = convolution(len(generator.span.weight), name="span")
        for layer in filter(None, (self.value, self.reduce)):
            layer.build((None, None, None, channels))
        for layer in (self.norm, self.span):
            layer.build((None, None, None, generator.reduce.out_channels))
        self.bias: Any = None
        if self.use_bias:
            self.bias = self.add_weight(shape=(twin.out_channels,), initializer="zeros", name="bias")
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Apply the layer to ``inputs`` ``(B, H, W, C)``."""
        if self.padding == "valid":
            # Refuse a map that no window fits into; a size that is unknown while a function is traced is not compared.
            sizes = [n if isinstance(n, int) else None for n in inputs.shape[1:3]]
            self.compute_output_shape((None, *sizes, inputs.shape[-1]))
        value = inputs if self.value is None else self.value(inputs)
        hidden = ops.relu(self.norm(self.reduce(self._pooled(inputs)), training=training))
        field = self.span(hidden)
        torch_backend = keras.config.backend() == "torch"
        output = self._by_operator(value, field) if torch_backend else self._by_products(value, field)
        return output if self.bias is None else output + ops.cast(self.bias, output.dtype)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Return the shape of the output, ``(B, H', W', filters)``.

        Raises:
            ValueError: with ``padding="valid"``, the map is smaller than a window.
        """
        margins = self._margins()
        padding = (0, 0) if self.padding == "valid" else tuple(margins)
        # A size that is not known stands for one that fits.
        known = [2 * margin + 1 if n is None else n for n, margin in zip(input_shape[1:3], margins, strict=True)]
        found = Window(self.kernel_size, self.strides, padding, self.dilation_rate).output_size(known)
        sizes = [None if n is None else size for n, size in zip(input_shape[1:3], found, strict=True)]
        return (input_shape[0], *sizes, self.filters or input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, for Keras to build the layer again."""
        return {**super().get_config(), **{name: getattr(self, name) for name in _ARGUMENTS}}

    def _margins(self) -> list[int]:
        """Return how far a window reaches beyond its pixel, downwards and to the right."""
        return [d * (k - 1) // 2 for k, d in zip(self.kernel_size, self.dilation_rate, strict=True)]

    def _crops(self) -> list[int]:
        """Return the pixels at each border in whose middle no window lies."""
        return self._margins() if self.padding == "valid" else [0, 0]

    def _pooled(self, x: Any) -> Any:
        """Return the average over each stride; a last window that hangs over the border averages what it covers."""
        (top, left), (height, width) = self._crops(), ops.shape(x)[1:3]
        x = x[:, top : height - top, left : width - left]
        if max(self.strides) == 1:
            return x
        hang = [[0, 0], *[[0, -n % s] for n, s in zip(ops.shape(x)[1:3], self.strides, strict=True)], [0, 0]]
        inside = ops.pad(ops.ones_like(x[:1, :, :, :1]), hang)
        pool = partial(
            ops.average_pool, pool_size=self.strides, strides=self.strides, padding="valid", data_format="channels_last"
        )
        return pool(ops.pad(x, hang)) / pool(inside)

    def _by_operator(self, value: Any, field: Any) -> Any:
        batch, height, width, _ = field.shape
        field = field.permute(0, 3, 1, 2).reshape(batch, self._resolved_groups, *self.kernel_size, height, width)
        output = functional.involution2d(
            value.permute(0, 3, 1, 2), field, stride=self.strides, padding=self.padding, dilation=self.dilation_rate
        )
        return output.permute(0, 2, 3, 1)

    def _by_products(self, value: Any, field: Any) -> Any:
        """Add up, tap by tap, the shifted map times its share of the kernels; in float32, as the operator does, or wider."""
        dtype = value.dtype
        if keras.backend.standardize_dtype(dtype) in ("float16", "bfloat16"):
            value, field = ops.cast(value, "float32"), ops.cast(field, "float32")
        groups, channels = self._resolved_groups, self._out_channels
        batch, height, width, _ = ops.shape(field)
        field = ops.reshape(field, (batch, height, width, groups, int(np.prod(self.kernel_size)), 1))
        down, right = (0, 0) if self.padding == "valid" else self._margins()
        value = ops.pad(value, [[0, 0], [down, down], [right, right], [0, 0]])
        (step_y, step_x), (d_y, d_x) = self.strides, self.dilation_rate
        output: Any = 0
        for tap, (u, v) in enumerate(np.ndindex(*self.kernel_size)):
            rows = slice(u * d_y, u * d_y + step_y * (height - 1) + 1, step_y)
            columns = slice(v * d_x, v * d_x + step_x * (width - 1) + 1, step_x)
            shifted = ops.reshape(value[:, rows, columns], (batch, height, width, groups, channels // groups))
            output += field[:, :, :, :, tap] * shifted
        return ops.cast(ops.reshape(output, (batch, height, width, channels)), dtype)


def from_torch(layer: Involution2d) -> Involution2D:
    """Return the layer of Keras that computes what a layer of PyTorch does, with copies of its weights, in their dtype.

    Args:
        layer: with the bottleneck φ, batch norm with weights and running statistics and ReLU inside, padding ``"same"`` or
            ``"valid"``. A last matrix of φ without a bias gets one of zeros.

    Raises:
        TypeError: it is no `involution.Involution2d`.
        ValueError: the layer has another φ, norm, activation, value projection or padding, weights of several dtypes, or
            was folded.
    """
    # A subclass may compute anything else.
    if type(layer) is not Involution2d:
        raise TypeError(f"layer must be an involution.Involution2d itself, got {type(layer).__name__}")
    generator: Any = layer.kernel_generator
    value: Any = layer.value
    same = tuple(d * (k - 1) // 2 for k, d in zip(layer.kernel_size, layer.dilation, strict=True))
    dtypes = sorted({str(t.dtype).removeprefix("torch.") for t in layer.state_dict().values() if t.is_floating_point()})
    problem = (
        f"its φ is {type(generator).__name__}"
        if type(generator) is not BottleneckKernelGenerator
        else f"its norm is {type(generator.norm).__name__} and its activation {type(generator.act).__name__}"
        if type(generator.norm) is not nn.BatchNorm2d or type(generator.act) is not nn.ReLU
        else "its norm has no weight and bias (affine=False)"
        if generator.norm.weight is None
        else "its norm has no running statistics (track_running_stats=False)"
        if generator.norm.running_mean is None
        else "its first matrix has a bias"
        if generator.reduce.bias is not None
        else f"its value projection is {value}, not the layer's own"
        if not _is_own_value(layer)
        else f"its weights are of the dtypes {', '.join(dtypes)}; cast the layer to one of them"
        if len(dtypes) > 1
        else f"its padding is {layer.padding}"
        if layer.padding not in (same, (0, 0))
        else f"its padding_mode is {layer.padding_mode!r}"
        if layer.padding_mode != "zeros"
        else "batch norms were folded into it"
        if layer.scale is not None or layer.relu
        else ""
    )
    if problem:
        raise ValueError(
            f"involution.keras takes a bottleneck φ with batch norm and ReLU and the padding 'same' or 'valid'; {problem}"
        )
    twin = Involution2D(
        layer.out_channels,
        layer.kernel_size,
        layer.stride,
        "same" if layer.padding == same else "valid",
        layer.dilation,
        groups=layer.groups,
        hidden_channels=generator.reduce.out_channels,
        use_bias=layer.bias is not None,
        epsilon=generator.norm.eps,
        momentum=1 - (0.1 if generator.norm.momentum is None else generator.norm.momentum),
        dtype=dtypes[0],
    )
    twin.build((None, None, None, layer.in_channels))
    if twin.value is not None:
        twin.value.set_weights([_to_keras(value.weight)])
    twin.reduce.set_weights([_to_keras(generator.reduce.weight)])
    twin.norm.set_weights([_array(getattr(generator.norm, name)) for name in _NORM])
    span = generator.span
    bias = torch.zeros(len(span.weight)) if span.bias is None else span.bias
    twin.span.set_weights([_to_keras(span.weight), _array(bias)])
    if layer.bias is not None:
        twin.bias.assign(_array(layer.bias))
    return twin


def to_torch(layer: Involution2D) -> Involution2d:
    """Return the layer of PyTorch that computes what a layer of Keras does, in evaluation mode, with copies of its weights.

    Args:
        layer: that has seen an input, so that it has weights; their dtype is that of the copies.

    Raises:
        TypeError: it is no `Involution2D`.
        ValueError: it has seen none.
    """
    if not isinstance(layer, Involution2D):
        raise TypeError(f"layer must be an involution.keras.Involution2D, got {type(layer).__name__}")
    if not layer.built:
        raise ValueError("the layer has no weights before it has seen an input; call it once, or its build(shape)")
    dtype = keras.backend.standardize_dtype(layer.reduce.kernel.dtype)
    twin = _torch_layer(layer, layer.reduce.kernel.shape[2]).to(dtype=getattr(torch, dtype))
    generator: Any = twin.kernel_generator
    state = {
        "kernel_generator.reduce.weight": _to_torch(layer.reduce.kernel),
        "kernel_generator.span.weight": _to_torch(layer.span.kernel),
        "kernel_generator.span.bias": _tensor(layer.span.bias),
        "kernel_generator.norm.num_batches_tracked": generator.norm.num_batches_tracked,
    }
    for name, array in zip(_NORM, layer.norm.get_weights(), strict=True):
        state[f"kernel_generator.norm.{name}"] = _tensor(array)
    if layer.value is not None:
        state["value.weight"] = _to_torch(layer.value.kernel)
    if layer.bias is not None:
        state["bias"] = _tensor(layer.bias)
    twin.load_state_dict(state)
    return twin.eval()


def _torch_layer(layer: Involution2D, channels: int) -> Involution2d:
    """Return a layer of PyTorch with the arguments of one of Keras, and its own weights."""
    norm = partial(nn.BatchNorm2d, eps=layer.epsilon, momentum=1 - layer.momentum)
    twin = Involution2d(
        channels,
        layer.filters or channels,
        layer.kernel_size,
        layer.strides,
        layer.padding,
        layer.dilation_rate,
        groups=layer.groups,
        group_channels=layer.group_channels,
        reduction=layer.reduction,
        norm_layer=norm,
        bias=layer.use_bias,
    )
    if layer.hidden_channels is not None:
        twin.kernel_generator = BottleneckKernelGenerator(
            channels, layer.kernel_size, twin.groups, hidden_channels=layer.hidden_channels, norm_layer=norm
        )
    return twin


def _is_own_value(layer: Involution2d) -> bool:
    """Whether the value projection is what the layer makes itself: nothing, or a 1×1 convolution without a bias."""
    value: Any = layer.value
    if layer.in_channels == layer.out_channels:
        return type(value) is nn.Identity
    shape = (layer.out_channels, layer.in_channels, 1, 1)
    is_convolution = type(value) is nn.Conv2d and value.weight.shape == shape
    return is_convolution and value.bias is None and value.stride == (1, 1) and value.padding == (0, 0)


def _to_keras(weight: torch.Tensor) -> np.ndarray:
    """Return ``(out, in, 1, 1)`` as Keras' ``(1, 1, in, out)``."""
    return _array(weight.permute(2, 3, 1, 0))


def _to_torch(kernel: Any) -> torch.Tensor:
    """Return Keras' ``(1, 1, in, out)`` as ``(out, in, 1, 1)``."""
    return _tensor(kernel).permute(3, 2, 0, 1).contiguous()


def _array(tensor: torch.Tensor) -> np.ndarray:
    """Return what a layer of Keras takes; NumPy has no bfloat16, all of whose numbers float32 has, too."""
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _tensor(weight: Any) -> torch.Tensor:
    """Return a weight of a layer of Keras, whose bfloat16 PyTorch does not take from NumPy."""
    array = np.asarray(ops.convert_to_numpy(weight))
    return torch.from_numpy(array.astype("float32") if array.dtype.name == "bfloat16" else array)
