"""Put involutions where a model has spatial convolutions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from ..modules import Involution1d, Involution2d, Involution3d

__all__ = ["replace_convolutions"]

_LAYERS = {nn.Conv1d: Involution1d, nn.Conv2d: Involution2d, nn.Conv3d: Involution3d}


def replace_convolutions(
    model: nn.Module,
    where: Callable[[str, nn.Module], bool] | None = None,
    *,
    kernel_size: int | None = None,
    **arguments: Any,
) -> list[str]:
    """Replace the spatial convolutions of ``model`` by involutions, in place, keeping the shape of every output.

    Each new layer has the convolution's channels, stride, dilation, device, dtype and bias, and the padding that gives
    the same output size; its weights are new, so train (or fine-tune) the model afterwards.

    Args:
        model: any module; a convolution that is ``model`` itself cannot be replaced in place.
        where: which convolutions, from the name in ``model`` and the module; by default all with a kernel larger
            than 1, zero padding and at least 16 input channels, so that a stem that sees pixels stays.
        kernel_size: K of the involutions, the convolution's own by default. It has to have the same parity as the
            convolution's, so that the sizes can be kept.
        **arguments: passed on to `involution.Involution2d` (``groups``, ``reduction``, ``kernel_generator``, …).

    Returns:
        The names of the replaced modules, in the order of ``model.named_modules()``.

    Raises:
        TypeError: ``model`` is itself a convolution.
        ValueError: a chosen module is no convolution, a kernel's parity differs, or the channels do not split into the
            groups; the message names the module. Nothing has been replaced then.

    Example:
        >>> from torch import nn
        >>> from involution import replace_convolutions
        >>> model = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, padding=1))
        >>> replace_convolutions(model, kernel_size=7)
        ['2']
        >>> model[2].kernel_size, model[2].padding, model[2].stride
        ((7, 7), (3, 3), (2, 2))
    """
    if type(model) in _LAYERS:
        raise TypeError("model is itself a convolution; put it into a container, or make the involution directly")
    chosen = [(name, module) for name, module in model.named_modules() if name and (where or _is_spatial)(name, module)]
    new = [(name, _involution(name, module, kernel_size, arguments)) for name, module in chosen]
    for name, layer in new:
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer)
    return [name for name, _ in new]


def _is_spatial(name: str, module: Any) -> bool:
    return (
        type(module) in _LAYERS
        and module.padding_mode == "zeros"
        and module.in_channels >= 16
        and any(k > 1 for k in module.kernel_size)
    )


def _involution(name: str, module: Any, kernel_size: int | None, arguments: dict[str, Any]) -> nn.Module:
    if type(module) not in _LAYERS:
        raise ValueError(f"{name} is no convolution but a {type(module).__name__}; choose convolutions with where=")
    new_size = module.kernel_size if kernel_size is None else (kernel_size,) * len(module.kernel_size)
    padding = module.padding
    if not isinstance(padding, str):
        margins = [d * (new - old) for d, new, old in zip(module.dilation, new_size, module.kernel_size, strict=True)]
        padding = tuple(p + margin // 2 for p, margin in zip(padding, margins, strict=True))
        if any(margin % 2 for margin in margins) or min(padding) < 0:
            raise ValueError(
                f"{name} has a kernel of {module.kernel_size} and padding {module.padding}; a kernel of {new_size} "
                "cannot keep its output size, choose one of the same parity that is not smaller"
            )
    make = partial(_LAYERS[type(module)], bias=module.bias is not None)
    try:
        return make(
            module.in_channels,
            module.out_channels,
            new_size,
            module.stride,
            padding,
            module.dilation,
            device=module.weight.device,
            dtype=module.weight.dtype,
            **arguments,
        ).train(module.training)
    except ValueError as error:
        raise ValueError(f"{name} cannot be replaced: {error}") from error
