"""Figures of an untrained net that are said to tell how well it will train, each from a batch or two."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["PROXIES", "gradient_norm", "naswot", "zico"]

Batch = tuple[Tensor, Tensor]


def gradient_norm(net: nn.Module, batches: Sequence[Batch]) -> float:
    """Return the Euclidean norm of the gradient of the cross-entropy of the first batch, over all parameters.

    After Abdelfattah et al., ICLR 2021, whose code adds the norms of the layers up instead.

    Args:
        net: in training mode; its weights stay as they are.
        batches: images ``(B, C, H, W)`` and labels ``(B,)``.
    """
    return sum(float(gradient.square().sum()) for gradient in _gradients(net, batches[0]).values()) ** 0.5


def naswot(net: nn.Module, batches: Sequence[Batch]) -> float:
    r"""Return how differently images pass the ReLUs: :math:`\log |\det K|`, the most for images that share no pattern.

    :math:`K_{ij} = \sum_l (N_l - d_l(i, j))`, with N the values that ReLU l gives for an image and d the number of those that
    are zero for one of two images and positive for the other (Mellor et al., ICML 2021). Of the first batch; minus
    infinity where two images pass alike.

    Args:
        net: as in `gradient_norm`.
        batches: likewise.
    """
    images = batches[0][0]
    total = torch.zeros(len(images), len(images), dtype=torch.float64)

    def add(module: nn.Module, inputs: Any, output: Tensor) -> None:
        pattern = (output.detach() > 0).flatten(1).double()
        total.add_(pattern @ pattern.T + (1 - pattern) @ (1 - pattern).T)

    handles = [module.register_forward_hook(add) for module in net.modules() if isinstance(module, nn.ReLU)]
    try:
        with torch.no_grad():
            net(images)
    finally:
        for handle in handles:
            handle.remove()
    sign, logarithm = torch.linalg.slogdet(total)
    return float(logarithm) if sign > 0 else float("-inf")


def zico(net: nn.Module, batches: Sequence[Batch]) -> float:
    r"""Return :math:`\sum_l \log \sum_{\omega \in l} E|\nabla_\omega| / \sigma(|\nabla_\omega|)` over several batches.

    A layer is a matrix or a kernel of the net; weights whose gradients do not vary are left out (Li et al., ICLR 2023).

    Args:
        net: as in `gradient_norm`.
        batches: two or more.
    """
    gradients = [_gradients(net, batch) for batch in batches]
    total = 0.0
    for name, first in gradients[0].items():
        if first.ndim < 2:
            continue
        sizes = torch.stack([each[name].abs().flatten() for each in gradients]).double()
        means, deviations = sizes.mean(0), sizes.std(0, correction=0)
        ratio = float((means / deviations)[deviations > 0].sum())
        total += torch.tensor(ratio).log().item() if ratio > 0 else 0.0
    return total


def _gradients(net: nn.Module, batch: Batch) -> dict[str, Tensor]:
    names, parameters = zip(*net.named_parameters())
    images, labels = batch
    found = torch.autograd.grad(F.cross_entropy(net(images), labels), parameters, allow_unused=True)
    return {name: gradient.detach() for name, gradient in zip(names, found) if gradient is not None}


PROXIES: dict[str, Callable[[nn.Module, Sequence[Batch]], float]] = {
    "gradient norm": gradient_norm,
    "NASWOT": naswot,
    "ZiCo": zico,
}
