"""What builders of nets refuse: each says so in a way of its own, and the user reads one sentence."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch

from ..errors import DataError, in_one_line
from ..schema import check_normalisation, find_problem, shown

__all__ = ["built", "check_options", "check_proportions", "refuse_arguments", "refuse_numbers"]

Net = TypeVar("Net")

# What arguments that do not fit make the constructors of torch, torchvision and timm raise.
_RAISED = (TypeError, ValueError, RuntimeError, AssertionError, AttributeError, LookupError, ArithmeticError)
_LONGEST_SIDE = 2**12
# By timm's names: of what is dropped.
_RATES = ("drop_rate", "drop_path_rate", "drop_block_rate", "attn_drop_rate", "proj_drop_rate")


def built(name: str, build: Callable[..., Net], *numbers: Any, **arguments: Any) -> Net:
    """Build a net.

    Args:
        name: of it, for the refusal.
        build: makes it of what follows.
        *numbers: first arguments.
        **arguments: of the user's.

    Raises:
        ValueError: ``build`` refuses an argument, however it does so, or a rate of dropout is none, which fails in a
            step. That memory is not enough stays what it was.
    """
    _check_rates(arguments)
    try:
        return build(*numbers, **arguments)
    except _RAISED as error:
        if isinstance(error, (ValueError, torch.OutOfMemoryError)) or "allocate memory" in str(error):
            raise
        raise ValueError(f"{name} cannot be built with {arguments}: {in_one_line(error)}") from error


def _check_rates(arguments: Mapping[str, Any]) -> None:
    for name, value in arguments.items():
        if isinstance(value, Mapping):
            _check_rates(value)
        elif name in _RATES and value is not None and (find_problem(value, float) or not 0 <= value < 1):
            raise ValueError(f"{name} must be a share from 0 to below 1, got {shown(value)}")


def refuse_arguments(net: str, arguments: Mapping[str, Any], reasons: Mapping[str, str]) -> None:
    """Refuse arguments of another class that would be set twice, or would have no effect.

    Args:
        net: that they are given to.
        arguments: by name.
        reasons: why ``net`` takes none of these names.

    Raises:
        ValueError: one of ``arguments`` is among them.
    """
    for name in arguments:
        if name in reasons:
            raise ValueError(f"{net} takes no {name}: {reasons[name]}; leave it out")


def refuse_numbers(least: int, **numbers: Any) -> None:
    """Refuse what is no whole number from ``least`` on, by the name of the argument.

    Raises:
        ValueError: one is none.
    """
    for name, value in numbers.items():
        if find_problem(value, int) or value < least:
            raise ValueError(f"{name} must be a whole number from {least} on, got {shown(value)}")


def check_options(options: Mapping[str, Any], *classes: Any) -> None:
    """Refuse what torchvision's detectors would take and fail by later: in a step, or with nothing found.

    A whole number by default has to be one from 1 on, a share by default one from 0 to 1.

    Args:
        options: by name.
        *classes: whose arguments they are.

    Raises:
        ValueError: a value is none of that kind; sizes of images are limited to 4,096 pixels.
    """
    defaults = {name: p.default for cls in classes for name, p in inspect.signature(cls).parameters.items()}
    for name, value in options.items():
        default = defaults.get(name)
        if name in ("min_size", "max_size"):
            sides = value if name == "min_size" and isinstance(value, (list, tuple)) and value else [value]
            if any(find_problem(side, int) or not 1 <= side <= _LONGEST_SIDE for side in sides):
                raise ValueError(f"{name} must be a number of pixels from 1 to {_LONGEST_SIDE}, got {shown(value)}")
        elif name == "fixed_size" and value is not None:
            if find_problem(value, [int]) or len(value) != 2 or not all(1 <= side <= _LONGEST_SIDE for side in value):
                raise ValueError(
                    f"fixed_size must be a width and a height from 1 to {_LONGEST_SIDE}, got {shown(value)}"
                )
        elif type(default) is int:
            refuse_numbers(1, **{name: value})
        elif isinstance(default, float) and (find_problem(value, float) or not 0 <= value <= 1):
            raise ValueError(f"{name} must be a number from 0 to 1, got {shown(value)}")
    mean, std = (options.get(f"image_{key}") for key in ("mean", "std"))
    if mean is not None or std is not None:
        check_normalisation(mean or (0,) * 3, std or (1,) * 3, ("image_mean", "image_std"))


def check_proportions(detector: Any, sizes: Sequence[tuple[object, int, int]]) -> None:
    """Refuse images of which nothing is left when a detector has resized them.

    Args:
        detector: of torchvision's form, or any other, which is not asked then.
        sizes: name, width and height of each in pixels.

    Raises:
        DataError: the longer side of one would have the detector's most pixels, and the shorter side none.
    """
    most = getattr(getattr(detector, "transform", None), "max_size", None)
    for name, width, height in sizes:
        longer, shorter = max(width, height), min(width, height)
        # Rounded off as torch does, whose factor may be a little less than the fraction.
        if most is not None and most < longer and int(shorter * (most / longer)) < 1:
            raise DataError(
                f"{name} is {width} pixels wide and {height} high, of which nothing is left where its longer side has the "
                f"{most} that the net sees; crop or remove it"
            )
