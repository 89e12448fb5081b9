"""The form that data from elsewhere must have, checked as a whole before anything is made of them.

A form is written as the data themselves would be: ``{"classes": [str], "stride?": int}`` is a mapping with a list of
strings, at least one, and perhaps a whole number.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = [
    "Form",
    "check_normalisation",
    "find_address",
    "find_large",
    "find_problem",
    "find_seed_problem",
    "find_unknown",
    "shown",
]

Form = Any
_NAMES = {
    str: "text",
    int: "a whole number of at most 18 digits",
    float: "a finite number",
    bool: "true or false",
    dict: "a mapping",
    list: "a list",
}


def find_problem(data: Any, form: Form, where: str = "") -> str:
    """Say where ``data`` differ from ``form``, nothing where they do not.

    Args:
        data: what was read.
        form: ``str``, ``int``, ``float``, ``bool``, ``dict`` or ``list`` for any value of that kind (a whole number is
            a ``float``, too; neither may be infinite or longer than 18 digits); None for null; a mapping of forms by
            key, where ``"key?"`` may be missing and further keys may be there; a list of one form for a list of at
            least one value; a tuple of forms of which one must fit; or a function that says what is wrong with a value.
        where: what the message calls ``data``.
    """
    here = where or "it"
    if isinstance(form, tuple):
        tried = [find_problem(data, one, where) for one in form]
        return "" if "" in tried else tried[-1]
    if isinstance(form, Mapping):
        return _mapping_problem(data, form, where)
    if isinstance(form, list):
        if not isinstance(data, (list, tuple)) or not data:
            return f"{here} must be a list with something in it, got {shown(data)}"
        problems = (find_problem(value, form[0], f"{where}[{i}]") for i, value in enumerate(data))
        return next(filter(None, problems), "")
    if form is None:
        return "" if data is None else f"{here} must be null, got {shown(data)}"
    if isinstance(form, type):
        return "" if _is(data, form) else f"{here} must be {_NAMES[form]}, got {shown(data)}"
    problem = form(data)
    return f"{here} {problem}" if problem else ""


def _mapping_problem(data: Any, form: Mapping[str, Form], where: str) -> str:
    if not isinstance(data, Mapping):
        return f"{where or 'it'} must be a mapping with the key {next(iter(form))!r}, got {shown(data)}"
    for key, inner in form.items():
        name = key.removesuffix("?")
        path = f"{where}.{name}" if where else name
        if name not in data:
            if name == key:
                return f"the key {path!r} is missing"
            continue
        problem = find_problem(data[name], inner, path)
        if problem:
            return problem
    return ""


def _is(data: Any, kind: type) -> bool:
    if kind is float:
        return _is(data, int) or (isinstance(data, float) and math.isfinite(data))
    if kind is int:
        return isinstance(data, int) and not isinstance(data, bool) and abs(data) < 10**18
    return isinstance(data, kind)


def find_unknown(data: Mapping[Any, Any], form: Mapping[str, Form], where: str = "") -> str:
    """Say which key of a mapping is none of its form's, as a misspelt one is; nothing where all are.

    Args:
        data: what was read.
        form: see `find_problem`.
        where: what the message calls ``data``.
    """
    known = {key.removesuffix("?") for key in form}
    unknown = next((str(key) for key in data if key not in known), None)
    if unknown is None:
        return ""
    place = f"{where}.{unknown}" if where else unknown
    return f"the key {place!r} is unknown; expected some of {', '.join(sorted(known))}"


def find_address(data: Any) -> str:
    """Return the first text inside ``data``, however deep, that names a place in a network or a hub; "" for none."""
    if isinstance(data, str):
        # "hf-hub:user/model" and the like of timm, and everything with a scheme.
        scheme, colon, rest = data.partition(":")
        is_address = colon and (rest.startswith("//") or scheme.lower().replace("_", "-") in ("hf-hub", "timm"))
        return data if is_address else ""
    values = data.values() if isinstance(data, Mapping) else data if isinstance(data, (list, tuple)) else ()
    return next(filter(None, map(find_address, values)), "")


def find_large(data: Any, most: float, where: str = "") -> str:
    """Return where inside ``data``, however deep, the first number is that is larger than ``most`` or none; "" for none."""
    if isinstance(data, (int, float)):
        return "" if abs(data) <= most else where
    entries: Iterable[tuple[str, Any]] = ()
    if isinstance(data, Mapping):
        entries = ((f"{where}.{key}" if where else str(key), value) for key, value in data.items())
    elif isinstance(data, (list, tuple)):
        entries = ((f"{where}[{i}]", value) for i, value in enumerate(data))
    return next(filter(None, (find_large(value, most, place) for place, value in entries)), "")


def find_seed_problem(seed: int, count: int = 1) -> str:
    """Say what is wrong with a seed of every generator (Python's, NumPy's, PyTorch's), nothing if it is right.

    Args:
        seed: the first one.
        count: of seeds that count on from it.
    """
    return "" if 0 <= seed <= 2**32 - count else f"must be from 0 to {2**32 - count}, got {shown(seed)}"


def check_normalisation(mean: Sequence[float], std: Sequence[float], names: tuple[str, str] = ("mean", "std")) -> None:
    """Refuse a mean and a standard deviation that the channels of an image cannot be normalised by.

    Args:
        mean: per channel, of pixels from 0 to 1.
        std: likewise.
        names: what a refusal calls the two.

    Raises:
        ValueError: they are not one or three finite numbers each, as many as the other, or a deviation is not above zero.
    """
    for name, values in zip(names, (mean, std), strict=True):
        problem = find_problem(values, [float], name)
        if problem or len(values) not in (1, 3):
            raise ValueError(problem or f"{name} must be a number per channel, 1 or 3 of them, got {len(values)}")
    if len(mean) != len(std):
        raise ValueError(f"{names[0]} and {names[1]} must be as many, got {len(mean)} and {len(std)}")
    if min(std) <= 0:
        raise ValueError(f"{names[1]} must be above zero in every channel, got {tuple(std)}")


def shown(data: Any) -> str:
    """Return data as a sentence shows them, of any size."""
    if isinstance(data, int) and abs(data) >= 10**18:
        return "a number beyond 18 digits"
    text = " ".join(repr(data).split())
    return text if len(text) <= 60 else text[:57] + "…"
