"""Leaving PyTorch: models with involutions in the formats of other runtimes."""

from . import onnx, openvino
from .decompositions import decompositions
from .onnx import to_onnx, translations

__all__ = ["decompositions", "onnx", "openvino", "to_onnx", "translations"]
