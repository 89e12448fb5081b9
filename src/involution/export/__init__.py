"""Leaving PyTorch: models with involutions in the formats of other runtimes."""

from .decompositions import decompositions
from .onnx import to_onnx, translations

__all__ = ["decompositions", "to_onnx", "translations"]
