"""Changes to whole models: involutions for convolutions, norms folded into the layers before them."""

from .fold import fold_batch_norms
from .replace import replace_convolutions
from .report import ConvolutionReport, FoldReport, NormReport, ReplacementReport

__all__ = [
    "ConvolutionReport",
    "FoldReport",
    "NormReport",
    "ReplacementReport",
    "fold_batch_norms",
    "replace_convolutions",
]
