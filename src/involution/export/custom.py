"""The libraries that give other engines this library's operator."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ..errors import ExportError

__all__ = ["Operator", "onnx_library", "openvino_extension"]

Operator = Literal["standard", "custom"]


def onnx_library() -> Path:
    """Return the library of ONNX Runtime's custom operator."""
    raise ExportError("the custom operator of ONNX Runtime is not available; use --operator standard")


def openvino_extension() -> Path:
    """Return the extension for OpenVINO."""
    raise ExportError("the extension for OpenVINO is not available; use --operator standard")
