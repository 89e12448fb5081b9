"""Fold batch norms into the convolutions and involutions before them, those inside φ included, for inference."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import in_one_line
from . import chains, norms
from .chains import Chain
from .report import FoldReport, NormReport

__all__ = ["fold_batch_norms"]


# Weights made in inference mode could never have gradients, also for inputs alone.
@torch.inference_mode(False)
def fold_batch_norms(model: nn.Module) -> tuple[nn.Module, FoldReport]:
    """Return a copy of ``model`` whose batch norms are part of the layers before them, and what became of each.

    In evaluation a batch norm is a scale and an offset per channel. The weights and the bias of a convolution can hold
    them; an involution, whose kernels are shared by channels, takes them along as ``scale`` and ``bias``, and the ReLU
    after the norm as ``relu``. The result computes the same function up to rounding, with fewer passes over memory.
    Class, attributes, memory format and dtypes stay as they are; a norm or ReLU that is now part of a layer is an
    ``nn.Identity``. The copy is for evaluation only, and ``model`` is not changed.

    A norm is folded where it is the only reader of the layer's output, both are called once in ``forward`` and nobody
    watches or replaces either, whether optional arguments are given or not; ``nn.Identity`` in between counts as nothing.
    That is what ``torch.fx`` sees: a ``forward`` that asks whether it is given a tensor, or reads its own weights, shows it
    something else than it computes. A ``forward`` that cannot be traced is named in ``untraced`` of the report; its
    children are folded, each as its own ``forward`` says, so it has to call them as wholes. Compare the outputs of both
    models where one does otherwise (``involution export`` does in any case). Known are PyTorch's batch norms, torchvision's
    ``FrozenBatchNorm2d`` and timm's ``BatchNormAct2d``; inside φ it is the norm after ``reduce``.

    Args:
        model: a module in evaluation mode.

    Returns:
        The copy, and the report: a norm that could not be folded costs time but is no error, so the report is handed
        over where nobody can miss it instead of being an attribute of the copy, which would be saved along with it.
        ``print(report)`` shows a table.

    Raises:
        TypeError: ``model`` is no module.
        ValueError: ``model`` is in training mode, or cannot be copied.

    Example:
        >>> import timm, involution.models
        >>> from involution import fold_batch_norms
        >>> net, report = fold_batch_norms(timm.create_model("rednet26").eval())
        >>> len(report.folded), len(report.left)
        (40, 0)
        >>> block = net.layer1[0]
        >>> block.bn2, block.act2, block.conv2.relu
        (Identity(), Identity(), True)
        >>> print(report)  # doctest: +ELLIPSIS
        40 of 40 batch norms folded
        layer ...
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if model.training:
        raise ValueError("batch norms can be folded in evaluation mode only; call model.eval() first")
    try:
        model = copy.deepcopy(model)
    except Exception as error:
        raise ValueError(
            f"model must be one that copy.deepcopy copies, got {type(error).__name__}: {in_one_line(error)}; take out of its "
            "attributes what cannot be copied, such as open files and tensors with gradients; of weight norms and pruning, "
            "torch.nn.utils.remove_weight_norm and prune.remove do"
        ) from error
    found, untraced = chains.find(model)
    entries = []
    for finding in found:
        if isinstance(finding, Chain):
            entries.append(_fold(model, finding))
        else:
            entries.append(NormReport(finding.norm, None, None, f"left: {finding.reason}"))
    return model, FoldReport(tuple(entries), untraced)


@torch.no_grad()
def _fold(model: nn.Module, chain: Chain) -> NormReport:
    layer: Any = model.get_submodule(chain.layer)
    norm: Any = model.get_submodule(chain.norm)
    weight: Tensor = next(layer.parameters(), norm.running_mean)
    # Half precision would lose a second time what it loses when the folded weights are stored.
    affine = norms.affine(norm, torch.promote_types(weight.dtype, torch.float32))
    kind = type(layer).__name__
    if type(layer) in chains.CONVOLUTIONS:
        outcome = f"in weight and bias of {kind}"
        scale = affine.scale.view(-1, *[1] * (layer.weight.ndim - 1))
        layer.weight = _parameter(layer.weight * scale, layer.weight, layer.weight.requires_grad)
    else:
        outcome = f"in scale and bias of {kind}"
        scale = affine.scale if layer.scale is None else affine.scale * layer.scale
        layer.scale = _parameter(
            scale, weight, affine.scale_trains if layer.scale is None else layer.scale.requires_grad
        )
    if layer.bias is None:
        layer.bias = _parameter(affine.offset, weight, affine.offset_trains)
    else:
        bias = layer.bias * affine.scale + affine.offset
        layer.bias = _parameter(bias, layer.bias, layer.bias.requires_grad)
    model.set_submodule(chain.norm, affine.act.eval())
    if chain.relu is not None:
        layer.relu = True
        outcome += ", with the ReLU"
        place = chain.norm if chain.relu == f"{chain.norm}.act" else chain.relu
        model.set_submodule(place, nn.Identity().eval())
    if chain.note:
        outcome += f"; {chain.note}"
    return NormReport(chain.norm, chain.layer, chain.relu, outcome)


def _parameter(values: Tensor, like: Tensor, requires_grad: bool) -> nn.Parameter:
    """Return ``values`` in dtype and, where the shapes are equal, memory layout of ``like``."""
    if values.shape != like.shape:
        return nn.Parameter(values.to(like.dtype), requires_grad)
    return nn.Parameter(torch.empty_like(like).copy_(values), requires_grad)
