"""Kernel generation φ: from a feature map to one K×K kernel per pixel and group."""

from .attention import LocalAttentionKernelGenerator
from .base import KernelGenerator, SpanMatrix
from .bottleneck import BottleneckKernelGenerator, LinearKernelGenerator
from .create import create_kernel_generator
from .local_relation import LocalRelationKernelGenerator
from .outlook import OutlookKernelGenerator
from .san import SANPairwiseKernelGenerator, SANPatchwiseKernelGenerator
from .stand_alone import StandAloneKernelGenerator
from .windows import softmax_inside, to_output_grid

__all__ = [
    "BottleneckKernelGenerator",
    "KernelGenerator",
    "LinearKernelGenerator",
    "LocalAttentionKernelGenerator",
    "LocalRelationKernelGenerator",
    "OutlookKernelGenerator",
    "SANPairwiseKernelGenerator",
    "SANPatchwiseKernelGenerator",
    "SpanMatrix",
    "StandAloneKernelGenerator",
    "create_kernel_generator",
    "softmax_inside",
    "to_output_grid",
]
