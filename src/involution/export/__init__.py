"""Leaving PyTorch: models with involutions in the formats of other runtimes."""

from .onnx import decompositions, to_onnx

__all__ = ["decompositions", "to_onnx"]
