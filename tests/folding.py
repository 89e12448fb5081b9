"""Nets whose norms do something, and the comparison of folded ones with them."""

import copy

import torch
from timm.layers import FrozenBatchNormAct2d
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from involution import fold_batch_norms

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, FrozenBatchNorm2d, FrozenBatchNormAct2d)
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.03, torch.float16: 0.005}


def settled(model, *size):
    """Give every norm the statistics of ``batch(*size)``, and weights that a wrong folding would show."""
    for module in model.modules():
        if isinstance(module, BATCH_NORMS[:3]):
            module.momentum = None
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.3)
        elif isinstance(module, (FrozenBatchNorm2d, FrozenBatchNormAct2d)):
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2)
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(std=0.3)
    with torch.no_grad():
        model.train()(batch(*size))
    return model.eval()


def with_statistics(model):
    """Give every norm other statistics than those it starts with, without a batch."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    return model.eval()


def batch(*size, dtype=torch.float32):
    """Return inputs that are always the same: the products in involutions make new ones grow with depth."""
    return torch.randn(size, generator=torch.Generator().manual_seed(1)).to(dtype)


def norms(model):
    return [name for name, module in model.named_modules() if isinstance(module, BATCH_NORMS)]


def leaves(outputs):
    if isinstance(outputs, dict):
        outputs = list(outputs.values())
    return [leaf for output in outputs for leaf in leaves(output)] if isinstance(outputs, (list, tuple)) else [outputs]


def assert_same(folded, model, x):
    """Compare all outputs, each relative to its magnitude."""
    with torch.inference_mode():
        found, expected = leaves(folded(x.clone())), leaves(model(x.clone()))
    for a, b in zip(found, expected, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert b.isfinite().all()
        assert (a - b).abs().max() <= TOLERANCE[b.dtype] * b.abs().max()


def assert_same_within_rounding(folded, model, x):
    """Compare deep nets, whose involutions multiply what they make of rounding: as ten units in the last place of ``x``.

    One unit changes a converted ResNet of random weights by 1e-12 to 7e-11 of its output.
    """
    with torch.inference_mode():
        found, expected = leaves(folded(x.clone())), leaves(model(x.clone()))
        nudged = leaves(model(torch.nextafter(x, torch.full_like(x, torch.inf))))
    for a, b, c in zip(found, expected, nudged, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert b.isfinite().all()
        bound = max(TOLERANCE[b.dtype] * b.abs().max(), 10 * (c - b).abs().max())
        assert bound < 1e-8 * b.abs().max()
        assert (a - b).abs().max() <= bound


def assert_no_less_exact(folded, model, x):
    """Compare a deep net in float32 with itself in float64, which rounding alone takes further than one layer.

    The largest errors of two orders of rounding differ by chance, up to twice either way.
    """
    exact = copy.deepcopy(model).double()
    with torch.inference_mode():
        outputs = zip(leaves(folded(x)), leaves(model(x)), leaves(exact(x.double())), strict=True)
    for a, b, c in outputs:
        assert (a - c).abs().max() <= max(4 * (b - c).abs().max(), 1e-5 * c.abs().max())


def left(report):
    return {entry.norm: entry.outcome for entry in report.left}


def folded_as_reported(model, x):
    """Fold ``model``, check the result and that the report speaks of every norm, and return both."""
    folded, report = fold_batch_norms(model)
    assert_same(folded, model, x)
    assert [entry.norm for entry in report.norms] == norms(model)
    assert [entry.norm for entry in report.left] == norms(folded)
    assert {entry.norm for entry in report.folded} == set(norms(model)) - set(norms(folded))
    return folded, report
