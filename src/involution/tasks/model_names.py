"""How a task is told which model to build: by a name, before anything looks for a class that is called so."""

from __future__ import annotations

import re
from typing import Any

from jsonargparse.typing import register_type

__all__ = ["ModelName"]


class ModelName(str):
    """The name of a model in small letters, such as ``rednet26``; any string of this form passes for one.

    As a plain string a parser would look for a class of this name first, among all modules that are imported, whenever it
    checks the value: seconds before a training begins.
    """


def _is_name(value: Any, _: type = ModelName) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[a-z][a-z0-9_]*", value) is not None


def _refuse(value: Any) -> None:
    raise ValueError(f"expected the name of a model in small letters, got {value!r}")


register_type(ModelName, deserializer=_refuse, type_check=_is_name)
