"""Why a training cannot go on."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["TrainingError", "check_finite"]


class TrainingError(RuntimeError):
    """A training cannot go on; the message says why and what to do."""


def check_finite(loss: Tensor, epoch: int, batch: int) -> None:
    """Stop a training that diverged.

    On an accelerator it looks at every fiftieth batch only: to look is to wait for it.

    Raises:
        TrainingError: the loss is infinite or no number.
    """
    if (loss.device.type == "cpu" or batch % 50 == 0) and not torch.isfinite(loss):
        raise TrainingError(
            f"the loss is {loss.item()} in epoch {epoch}, batch {batch}: the training diverged; "
            "lower the learning rate, lengthen the warm-up or clip the gradients, and go on from the last checkpoint"
        )
