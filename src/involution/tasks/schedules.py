"""Learning-rate schedules of the published recipes, as PyTorch schedulers stepped once per epoch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

__all__ = ["WarmupCosineLR", "warmed_up"]


class WarmupCosineLR(LambdaLR):
    """A cosine from the base rate to zero, multiplied by a linear warm-up: the recipe of RedNet on ImageNet.

    Epoch e of E has the factor ``(1 + cos(π e / E)) / 2``, times ``f + (1 − f) e / W`` during the first W epochs.

    Args:
        optimizer: what to schedule; its rates are the base rates.
        epochs: E, length of the training.
        warmup_epochs: W, length of the warm-up.
        warmup_factor: f, where the warm-up starts.

    Raises:
        ValueError: ``epochs`` is below 1 or the warm-up is longer than the training.
    """

    def __init__(self, optimizer: Optimizer, epochs: int, warmup_epochs: int = 5, warmup_factor: float = 0.25) -> None:
        if epochs < 1 or not 0 <= warmup_epochs <= epochs:
            raise ValueError(
                f"epochs must be at least 1 and warmup_epochs between 0 and epochs, got {epochs} and {warmup_epochs}"
            )

        def factor(epoch: int) -> float:
            cosine = (1 + math.cos(math.pi * min(epoch, epochs) / epochs)) / 2
            warm = 1 if epoch >= warmup_epochs else warmup_factor + (1 - warmup_factor) * epoch / warmup_epochs
            return cosine * warm

        super().__init__(optimizer, factor)


@contextmanager
def warmed_up(optimizer: Optimizer, step: int, iterations: int, factor: float) -> Iterator[None]:
    """Lower the rates inside by the linear warm-up of the detection recipes, whatever schedule they follow.

    Step i of the first I has the rate of the schedule times ``1 − (1 − i / I) (1 − f)``.

    Args:
        optimizer: whose rates are lowered.
        step: i, number of steps taken before.
        iterations: I, length of the warm-up.
        factor: f, where it starts.
    """
    if step >= iterations:
        yield
        return
    rates = [group["lr"] for group in optimizer.param_groups]
    share = 1 - (1 - step / iterations) * (1 - factor)
    for group in optimizer.param_groups:
        group["lr"] *= share
    try:
        yield
    finally:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
