"""Leaving PyTorch: models with involutions in the formats of other runtimes."""

from . import onnx, openvino
from .checked import Parity, export
from .decompositions import decompositions
from .onnx import to_onnx, translations
from .openvino_model import to_openvino
from .programs import image_shapes
from .torch_package import load_pt2, to_pt2

__all__ = [
    "Parity",
    "decompositions",
    "export",
    "image_shapes",
    "load_pt2",
    "onnx",
    "openvino",
    "to_onnx",
    "to_openvino",
    "to_pt2",
    "translations",
]
