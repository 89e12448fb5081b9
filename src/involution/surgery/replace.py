"""Put involutions where a model has spatial convolutions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils import parametrize

from ..counting import count
from ..errors import in_one_line
from ..modules import Involution1d, Involution2d, Involution3d
from .attributes import modules_beside
from .hooks import has_hooks
from .report import ConvolutionReport, ReplacementReport

__all__ = ["replace_convolutions"]

_LAYERS = {nn.Conv1d: Involution1d, nn.Conv2d: Involution2d, nn.Conv3d: Involution3d}
_FEWEST_CHANNELS, _GROUP_CHANNELS = 16, 16


def replace_convolutions(
    model: nn.Module,
    where: Callable[[str, nn.Module], bool] | None = None,
    *,
    kernel_size: int | None = None,
    depthwise: bool = False,
    input_size: Sequence[int] | None = None,
    dry_run: bool = False,
    **arguments: Any,
) -> ReplacementReport:
    """Replace the spatial convolutions of ``model`` by involutions, in place, keeping the shape of every output.

    Each new layer has the convolution's channels, stride, dilation, device, dtype, bias and padding mode, and the padding
    that gives the same output size; its weights are new, so train (or fine-tune) the model afterwards. All of them train,
    also where those of the convolution were frozen (``requires_grad``), and none is another module's, also where the
    convolution shared its weight with one. Where 16 channels do not make a group, the groups have the largest number of channels below
    that divides the layer's. A convolution that stands in several places is replaced by one involution in all of them; one
    that is watched by a hook, or that an ordinary attribute (a list, a tuple, a dict) holds as well, is left. In what another
    object holds, or a global variable, the convolution would stay.

    Args:
        model: any module; a convolution that is ``model`` itself cannot be replaced in place.
        where: which convolutions, from the name in ``model`` and the module; by default all with a kernel larger
            than 1 and at least 16 input channels, so that a stem that sees pixels stays.
        kernel_size: K of the involutions, the convolution's own by default. A convolution whose output could not keep
            its size, for its kernel is even and K odd, or K even and its padding ``"same"``, is left where ``where`` did not
            choose it, and so is one whose padding mode the φ of ``arguments`` does not take.
        depthwise: whether depthwise convolutions are replaced, too, which are cheaper than an involution is; one that
            ``where`` chooses is.
        input_size: size of one input without the batch, such as ``(3, 224, 224)``, for which the model is run before
            and after to count multiply-adds.
        dry_run: whether to leave the model as it is and report what would be done.
        **arguments: passed on to `involution.Involution2d` (``groups``, ``reduction``, ``kernel_generator``, …).

    Returns:
        What was done, and why not, for every convolution; ``print`` shows it as a table.

    Raises:
        TypeError: ``model`` is itself a convolution, ``where`` is no function, ``kernel_size`` no whole number above 0, or
            ``kernel_generator`` one module for several layers.
        ValueError: a module that ``where`` chose is no convolution, or its kernel of another parity; the channels do not
            split into the groups, or ``where`` raises; the message names the module. Or the model cannot be run on ``input_size``.
            Nothing has been replaced then.

    Example:
        >>> from torch import nn
        >>> from involution import replace_convolutions
        >>> model = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, padding=1))
        >>> print(replace_convolutions(model, kernel_size=7))
        1 of 2 convolutions replaced
        convolution  parameters  now    what was done
        0            896         –      3 input channels, fewer than 16
        2            18,496      4,148  7×7 involution of 4 groups
        parameters: 19,392 before, 5,044 after
        >>> model[2].kernel_size, model[2].padding, model[2].stride
        ((7, 7), (3, 3), (2, 2))
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if isinstance(model, tuple(_LAYERS)):
        raise TypeError("model is itself a convolution; put it into a container, or make the involution directly")
    if where is not None and not callable(where):
        test = f"name.startswith({where!r})" if isinstance(where, str) else f"name in {where!r}"
        raise TypeError(
            f"where must be a function of a name and a module, got {where!r}; such as where=lambda name, module: {test}"
        )
    if kernel_size is not None and (type(kernel_size) is not int or kernel_size < 1):
        raise TypeError(
            f"kernel_size must be one whole number from 1 on, for every direction alike, got {kernel_size!r}"
        )
    modules = list(model.named_modules(remove_duplicate=False))
    # What makes their kernels is theirs.
    involutions = tuple(f"{name}." for name, module in modules if isinstance(module, tuple(_LAYERS.values())))
    # By the module and whether it is chosen, which it may be in some of its places alone.
    found: dict[tuple[nn.Module, bool], list[str]] = {}
    for name, module in modules:
        if not name:
            continue
        is_convolution = isinstance(module, tuple(_LAYERS)) and not name.startswith(involutions)
        is_chosen = is_convolution if where is None else _chosen(where, name, module)
        if is_convolution or is_chosen:
            found.setdefault((module, is_chosen), []).append(name)
    places = {module: names for (module, is_chosen), names in found.items() if is_chosen}
    made: dict[nn.Module, nn.Module] = {}
    reasons: dict[nn.Module, str] = {}
    beside = modules_beside(model)
    for module, names in places.items():
        if not isinstance(module, tuple(_LAYERS)):
            raise ValueError(
                f"{names[0]} is no convolution but a {type(module).__name__}; choose convolutions with where="
            )
        reason = _obstacle(module)
        if not reason and id(module) in beside:
            reason = f"it also stands in the attribute {beside[id(module)]}, which would keep it"
        if where is None:
            reason = reason or _unsuitable(module, depthwise) or _misfit(module, kernel_size)
        if reason:
            reasons[module] = reason
            continue
        try:
            made[module] = _involution(names[0], module, kernel_size, arguments)
        except ValueError as error:
            if where is not None or "padding_mode" in arguments:
                raise
            # With zeros around raises again what is not the padding mode's fault.
            _involution(names[0], module, kernel_size, {**arguments, "padding_mode": "zeros"})
            reasons[module] = in_one_line(str(error.__cause__))
    generator = arguments.get("kernel_generator")
    if len(made) > 1 and isinstance(generator, nn.Module):
        raise TypeError(
            f"kernel_generator is one {type(generator).__name__}, whose weights {len(made)} layers would share; pass a "
            "name, or choose one convolution at a time with where="
        )
    entries = []
    for (module, is_chosen), names in found.items():
        layer = made.get(module) if is_chosen else None
        reason = reasons.get(module, "") if is_chosen else "it is not chosen"
        outcome = reason if layer is None else _described(layer)
        entries.append(
            ConvolutionReport(tuple(names), layer is not None, outcome, _params(module), _params(layer or module))
        )
    params, macs = [_params(model)], [_macs(model, input_size, replaced=False)] if input_size is not None else []
    _put(model, {name: made[module] for module in made for name in places[module]})
    keeps = False
    try:
        params.append(_params(model))
        macs += [_macs(model, input_size, replaced=True)] if input_size is not None else []
        keeps = not dry_run
    finally:
        if not keeps:
            _put(model, {name: module for module in made for name in places[module]})
    return ReplacementReport(tuple(entries), (params[0], params[1]), (macs[0], macs[1]) if macs else None)


def _chosen(where: Callable[[str, nn.Module], bool], name: str, module: nn.Module) -> bool:
    try:
        return bool(where(name, module))
    except Exception as error:
        raise ValueError(
            f"where cannot judge {name}, a {type(module).__name__}: {type(error).__name__}, {in_one_line(error)}; let it "
            "return True or False for every module"
        ) from error


def _macs(model: nn.Module, input_size: Sequence[int], *, replaced: bool) -> int:
    try:
        return count(model, input_size).macs
    except Exception as error:
        what = "the model cannot be run on an input"
        remedy = "give the size of one input without the batch, such as (3, 224, 224)"
        if replaced:
            what = "with the involutions the model cannot be run any more on an input"
            remedy = "leave out by where= what the model uses as more than a layer"
        raise ValueError(f"{what} of size {input_size!r}: {in_one_line(error)}; {remedy}") from error


def _obstacle(module: Any) -> str:
    """Say why an involution cannot do what this convolution does around its products; nothing if it can."""
    if any(isinstance(parameter, UninitializedParameter) for parameter in module.parameters()):
        return "it has no channels before its first input; run the model once"
    if parametrize.is_parametrized(module) or not isinstance(module.weight, nn.Parameter):
        return "its weight is computed from others (a weight norm, a spectral norm, pruning); remove that first"
    if not _pads_like_tensorflow(module) and not _computes_as_torch_does(module):
        return f"{type(module).__name__} computes something of its own"
    if not module.weight.is_floating_point():
        return f"its numbers are {str(module.weight.dtype).removeprefix('torch.')}, an involution's real ones"
    if has_hooks(module):
        return "it is watched by a hook, which an involution would be without; remove that first"
    return ""


def _computes_as_torch_does(module: Any) -> bool:
    """Whether no class or object replaces one of the two methods that make a convolution."""
    # Of Python's data model: the methods that an object itself was given.
    own = vars(module)
    return any(
        all(
            getattr(type(module), name) is getattr(kind, name) and name not in own
            for name in ("forward", "_conv_forward")
        )
        for kind in _LAYERS
    )


def _unsuitable(module: Any, depthwise: bool) -> str:
    """Say why this convolution is left without being chosen; nothing if it is not."""
    if all(k == 1 for k in module.kernel_size):
        return "it is pointwise"
    if module.in_channels < _FEWEST_CHANNELS:
        channels = "channel" if module.in_channels == 1 else "channels"
        return f"{module.in_channels} input {channels}, fewer than {_FEWEST_CHANNELS}"
    if module.groups == module.in_channels and not depthwise:
        return "it is depthwise; depthwise=True replaces such, too"
    return ""


def _pads_like_tensorflow(module: nn.Module) -> bool:
    """Whether it is timm's convolution that pads by the size of its input, as ``padding="same"`` does with a stride."""
    kind = type(module)
    return kind.__name__ in ("Conv2dSame", "Conv2dSameExport") and kind.__module__.startswith("timm.")


def _sizes(module: Any, kernel_size: int | None) -> tuple[tuple[int, ...], Any]:
    """Return kernel size and padding that keep the size of a convolution's output; no padding where none does."""
    new_size = module.kernel_size if kernel_size is None else (kernel_size,) * len(module.kernel_size)
    padding = "same" if _pads_like_tensorflow(module) else module.padding
    if padding == "valid":
        # What an involution of another K takes for it is another output size.
        padding = (0,) * len(module.kernel_size)
    if isinstance(padding, str):
        return new_size, padding
    margins = [d * (new - old) for d, new, old in zip(module.dilation, new_size, module.kernel_size, strict=True)]
    padding = tuple(p + margin // 2 for p, margin in zip(padding, margins, strict=True))
    return new_size, None if any(margin % 2 for margin in margins) or min(padding) < 0 else padding


def _misfit(module: Any, kernel_size: int | None) -> str:
    """Say why the output would have another size; nothing if it would not."""
    new_size, padding = _sizes(module, kernel_size)
    old, new = ("×".join(map(str, size)) for size in (module.kernel_size, new_size))
    if padding == "same" and any(k % 2 == 0 for k in new_size):
        return f"its padding is 'same', which an involution has for odd kernels alone, not for one of {new}"
    if padding is not None:
        return ""
    return f"its kernel is {old}, with one of {new} its output would have another size"


# Weights made in inference mode could never be trained.
@torch.inference_mode(False)
def _involution(name: str, module: Any, kernel_size: int | None, arguments: dict[str, Any]) -> nn.Module:
    new_size, padding = _sizes(module, kernel_size)
    if padding is None:
        raise ValueError(
            f"{name} has a kernel of {module.kernel_size} and padding {module.padding}; a kernel of {new_size} "
            "cannot keep its output size, choose one of the same parity that is not smaller"
        )
    if not arguments.keys() & {"groups", "group_channels"}:
        divisors = (n for n in range(_GROUP_CHANNELS, 0, -1) if module.out_channels % n == 0)
        arguments = {**arguments, "group_channels": next(divisors)}
    kind = next(layer for convolution, layer in _LAYERS.items() if isinstance(module, convolution))
    make: Callable[..., nn.Module] = kind
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
            **{"bias": module.bias is not None, "padding_mode": module.padding_mode, **arguments},
        ).train(module.training)
    except (ValueError, TypeError) as error:
        raise type(error)(f"{name} cannot be replaced: {error}") from error


def _described(layer: Any) -> str:
    return (
        f"{'×'.join(map(str, layer.kernel_size))} involution of {layer.groups} group{'s' if layer.groups > 1 else ''}"
    )


def _params(module: nn.Module) -> int:
    # What a lazy module has before its first input has no size.
    return sum(p.numel() for p in module.parameters() if not isinstance(p, UninitializedParameter))


def _put(model: nn.Module, modules: dict[str, nn.Module]) -> None:
    for name, module in modules.items():
        model.set_submodule(name, module)
