"""Involution: per-pixel dynamic kernels for vision in PyTorch."""

from . import backends, kernel_generation
from .functional import (
    Span,
    correlation1d,
    correlation2d,
    correlation3d,
    involution1d,
    involution2d,
    involution3d,
    involution_of_span,
)
from .modules import Involution1d, Involution2d, Involution3d
from .surgery import fold_batch_norms, replace_convolutions

__all__ = [
    "Involution1d",
    "Involution2d",
    "Involution3d",
    "Span",
    "__version__",
    "backends",
    "correlation1d",
    "correlation2d",
    "correlation3d",
    "fold_batch_norms",
    "involution1d",
    "involution2d",
    "involution3d",
    "involution_of_span",
    "kernel_generation",
    "replace_convolutions",
]

__version__ = "0.1.0"
