"""Count a network's parameters and multiply-adds from the operators that one forward pass calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from .geometry import to_tuple
from .operators import generation

__all__ = ["Cost", "OperatorCounter", "count"]

# The kinds of work that are multiply-adds, and those that the paper's rule counts as well.
MULTIPLY_ADDS = ("convolution", "matrix product", "involution")
EXTRAS = ("convolution bias", "norm", "activation", "pooling")


@dataclass(frozen=True)
class Cost:
    """What one forward pass of a network costs.

    Attributes:
        params: number of parameters, shared ones once.
        trainable_params: number of those that require a gradient.
        kinds: operations by kind of work: ``"convolution"`` (transposed ones too), ``"matrix product"`` and
            ``"involution"`` in multiply-adds; ``"convolution bias"``, ``"norm"``, ``"activation"`` and ``"pooling"``
            as the paper's rule counts them, see `OperatorCounter`.
        uncounted: operators that were called and have no formula (custom ones, fused recurrent layers), so that
            nothing was counted for them.
    """

    params: int
    trainable_params: int
    kinds: Mapping[str, int]
    uncounted: tuple[str, ...]

    @property
    def macs(self) -> int:
        """Multiply-adds of convolutions, matrix products and involutions."""
        return sum(self.kinds[kind] for kind in MULTIPLY_ADDS)

    @property
    def paper_rule(self) -> int:
        """Operations by the rule behind the paper's "FLOPs" columns, see `OperatorCounter`."""
        return sum(self.kinds.values())


def count(
    model: nn.Module,
    input_size: Sequence[int],
    *,
    run: Callable[[nn.Module, Tensor], Any] | None = None,
) -> Cost:
    """Count parameters and multiply-adds of ``model``, in evaluation mode, for one input.

    The model runs once, where its parameters live. Built under ``torch.device("meta")`` it takes no memory and some
    milliseconds at any input size; a model that holds values is really run. It is left as it was.

    Args:
        model: any network; operators called as functions count as well as modules.
        input_size: size of one input without the batch, ``(C, H, W)`` for images.
        run: calls the model on the batch of one, ``model(x)`` by default; for networks that want their input in
            another form, or to count a part of one.

    Returns:
        The counts. Multiply-adds come from the formulas of ``torch.utils.flop_counter``, which know this library's
        operators; `Cost.uncounted` names those without one, ``register_flop_formula`` adds one.

    Raises:
        TypeError: ``model`` is not a module, or ``input_size`` not a sequence of ints.
        ValueError: a size is below 1.

    Example:
        >>> from torch import nn
        >>> from involution.counting import count
        >>> cost = count(nn.Conv2d(3, 8, 3, padding=1), (3, 10, 10))
        >>> cost.params, cost.macs, cost.paper_rule
        (224, 21600, 22400)
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}; create the network first")
    if not isinstance(input_size, Sequence) or isinstance(input_size, str) or not input_size:
        raise TypeError(f"input_size must be the size of one input, such as (3, 224, 224), got {input_size!r}")
    size = to_tuple(input_size, len(input_size), "input_size")
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    x = torch.zeros((1, *size), device=like.device, dtype=like.dtype)
    with in_evaluation(model), _without_fastpath(), torch.no_grad(), OperatorCounter() as counter:
        if run is None:
            model(x)
        else:
            run(model, x)
    # After the run, because lazy modules have their parameters only then.
    parameters = list(model.parameters())
    return Cost(
        params=sum(p.numel() for p in parameters),
        trainable_params=sum(p.numel() for p in parameters if p.requires_grad),
        kinds=counter.kinds,
        uncounted=tuple(sorted(counter.uncounted)),
    )


@contextmanager
def in_evaluation(model: nn.Module) -> Iterator[None]:
    """Put ``model`` into evaluation mode for a while; afterwards each module has the mode it had."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def _without_fastpath() -> Iterator[None]:
    """Keep attention in operators that can be counted for a while."""
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)


class OperatorCounter(TorchDispatchMode):
    """Counts the operators called inside its context by kind of work.

    The rule behind the paper's "FLOPs" columns is that of ``mmcv.cnn.get_model_complexity_info``, the counter of the
    code base it was written in, plus the involutions: multiply-adds of convolutions (plain and transposed) and linear
    layers; one operation per output of a convolution with bias, two per value of an affine norm (one without affine
    parameters), one per output of the ReLU family, one per input of a pooling; K²·C·H'·W' per involution. Sums of
    branches, interpolation and norms written out as products and sums (torchvision's ``FrozenBatchNorm2d``) are free.

    Attributes:
        kinds: operations so far by kind of work, see `Cost.kinds`.
        uncounted: names of the operators called that have no formula though they compute, see `Cost.uncounted`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kinds: dict[str, int] = dict.fromkeys((*MULTIPLY_ADDS, *EXTRAS), 0)
        self.uncounted: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Run ``func`` and count it."""
        kwargs = kwargs or {}
        operator = func.overloadpacket
        if operator not in flop_registry and operator not in _EXTRA_RULES:
            # In inference mode, operators that PyTorch composes of others arrive whole.
            with self:
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        if operator is _involution.forward_of_span:
            value, hidden, weight, bias = args[:4]
            window, span = generation.macs(value.shape, hidden.shape, weight.shape, args[5])
            self.kinds["involution"] += window
            self.kinds["convolution"] += span
            self.kinds["convolution bias"] += span // hidden.shape[1] if isinstance(bias, Tensor) else 0
        elif operator in flop_registry:
            # The formulas count a multiply-add as two operations.
            macs = flop_registry[operator](*args, **kwargs, out_val=out) // 2
            if operator in _CONVOLUTIONS:
                self.kinds["convolution"] += macs
                self.kinds["convolution bias"] += out.numel() if isinstance(args[2], Tensor) else 0
            else:
                self.kinds["involution" if operator in _INVOLUTIONS else "matrix product"] += macs
                # What is added to products is a bias where it is one value per row of all: that of a 1×1 convolution.
                is_bias = operator is _aten.baddbmm and args[0].ndim == 2 and args[0].shape[1] == 1
                self.kinds["convolution bias"] += out.numel() if is_bias else 0
        elif operator in _EXTRA_RULES:
            kind, operations = _EXTRA_RULES[operator]
            self.kinds[kind] += operations(args, out)
        elif operator in _HIDDEN or func.namespace not in ("aten", "prim", "prims"):
            self.uncounted.add(str(operator))
        return out


_aten = torch.ops.aten
_CONVOLUTIONS = (_aten.convolution, _aten._convolution)
_involution = torch.ops.involution
_INVOLUTIONS = (_involution.forward, _involution.input_gradient, _involution.kernel_gradient)


def _inputs(args: tuple, out: Any) -> int:
    return args[0].numel()


def _outputs(args: tuple, out: Any) -> int:
    return out.numel()


def _normalised(args: tuple, out: Any) -> int:
    affine = any(isinstance(argument, Tensor) for argument in args[1:3])
    return args[0].numel() * (2 if affine else 1)


def _reduced(args: tuple, out: Any) -> int:
    """Return the inputs of a global pooling: a reduction over all spatial dimensions of a map, and over no other."""
    x = args[0]
    dims = args[1] if len(args) > 1 else None
    if x.ndim < 3 or not dims or {d % x.ndim for d in dims} != set(range(2, x.ndim)):
        return 0
    return x.numel()


_NORMS = (
    _aten.native_batch_norm,
    _aten._native_batch_norm_legit,
    _aten._native_batch_norm_legit_no_training,
    _aten._batch_norm_with_update,
    _aten._batch_norm_no_update,
    _aten.cudnn_batch_norm,
    _aten.miopen_batch_norm,
    _aten.native_group_norm,
    _aten.native_layer_norm,
)
_ACTIVATIONS = (
    _aten.relu,
    _aten.relu_,
    _aten.leaky_relu,
    _aten.leaky_relu_,
    _aten.elu,
    _aten.elu_,
    _aten.hardtanh,
    _aten.hardtanh_,
    _aten._prelu_kernel,
)
_POOLINGS = (
    _aten.avg_pool1d,
    _aten.avg_pool2d,
    _aten.avg_pool3d,
    _aten._adaptive_avg_pool2d,
    _aten._adaptive_avg_pool3d,
    _aten.max_pool2d_with_indices,
    _aten.max_pool3d_with_indices,
    _aten.adaptive_max_pool2d,
    _aten.adaptive_max_pool3d,
)
# Multiply-adds behind operators that have neither a formula nor parts; without them PyTorch's own operators are free.
_HIDDEN = (_aten.mkldnn_rnn_layer, _aten._cudnn_rnn, _aten._trilinear)

# What PyTorch has no formula for: the kind of work and its operations, from the call's arguments and result.
_EXTRA_RULES: dict[Any, tuple[str, Callable[[tuple, Any], int]]] = {
    **dict.fromkeys((_aten.mv, _aten.dot), ("matrix product", _inputs)),
    _aten.addmv: ("matrix product", lambda args, out: args[1].numel()),
    **dict.fromkeys(_NORMS, ("norm", _normalised)),
    **dict.fromkeys(_ACTIVATIONS, ("activation", _outputs)),
    **dict.fromkeys(_POOLINGS, ("pooling", _inputs)),
    **dict.fromkeys((_aten.mean, _aten.amax), ("pooling", _reduced)),
}
