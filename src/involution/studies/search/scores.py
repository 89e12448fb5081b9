"""What proxies and a supernet say of the nets of a table, to be laid beside what their trainings gave."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch

from ...data import SmallImages
from ...models.searchable import Blocks
from ...recipes import merge
from . import evaluate
from .proxies import PROXIES, Batch
from .replay import TableNet
from .space import Space
from .supernet import Supernet, accuracy, recalibrate

__all__ = ["score"]

# Batches that ZiCo takes, and those that batch norms are recalibrated on.
_BATCHES, _RECALIBRATION = 2, 10


def score(
    recipe: Mapping[str, Any],
    space: Space,
    nets: Sequence[TableNet],
    *,
    epochs: int = 0,
    seed: int = 0,
    data_root: str | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, dict[str, float]]:
    """Return by predictor what it says of every net; minus infinity and what is no number are left out.

    Proxies see nets as they begin, but with the last norm of a block at one: at zero, where a training begins, no gradient
    would reach the layers inside.

    Args:
        recipe: that the nets of the table were trained by.
        space: of the table, whose nets a supernet is trained on.
        nets: of the table.
        epochs: of a supernet, on the recipe's training images; 0 for none.
        seed: of weights and batches.
        data_root: folder of the data sets; None for what the recipe or the environment says.
        say: called with every line of the log.

    Raises:
        CommandError: the recipe is one that `involution.studies.search.evaluate.check` refuses.
    """
    evaluate.check(recipe)
    change = {} if data_root is None else {"data_root": data_root}
    arguments = merge(deepcopy(recipe["data"].get("init_args", {})), {"seed": seed, **change})
    data = SmallImages(**arguments)
    open_norms = {"model": {"init_args": {"model_args": {"zero_init_last": False}}}}
    torch.manual_seed(seed)
    # In float64: float32's rounding, which the number of threads changes, moves gradients of untrained nets by half.
    batches = [(images.double(), labels) for (images, labels), _ in zip(_epoch(data, 0), range(_BATCHES))]
    found: dict[str, dict[str, float]] = {name: {} for name in PROXIES}
    for number, net in enumerate(nets, 1):
        for name, proxy in PROXIES.items():
            torch.manual_seed(seed)
            module = evaluate.build(merge(evaluate.recipe_of(recipe, net.blocks, seed), open_norms)).double().train()
            found[name][net.name] = proxy(module, batches)
        say(f"{net.name} ({number} of {len(nets)}): " + ", ".join(f"{k} {v[net.name]:.4g}" for k, v in found.items()))
    if epochs:
        found["supernet"] = _supernet(recipe, space, nets, data, epochs, seed, say)
    return {
        name: {net: value for net, value in values.items() if math.isfinite(value)} for name, values in found.items()
    }


def _supernet(
    recipe: Mapping[str, Any],
    space: Space,
    nets: Sequence[TableNet],
    data: SmallImages,
    epochs: int,
    seed: int,
    say: Callable[[str], None],
) -> dict[str, float]:
    supernet = Supernet(recipe, space, seed)
    supernet.fit(
        lambda epoch: _epoch(data, epoch),
        epochs=epochs,
        seed=seed,
        on_epoch=lambda epoch, loss: say(f"supernet: epoch {epoch} of {epochs}, loss {loss:.3f}"),
    )
    images = [batch[0] for batch, _ in zip(_epoch(data, epochs), range(_RECALIBRATION))]
    judged: list[Batch] = list(data.val_dataloader())
    found = {}
    for number, net in enumerate(nets, 1):
        module = supernet.net(Blocks.parse(net.blocks))
        recalibrate(module, images)
        found[net.name] = 100 * accuracy(module, judged)
        say(f"{net.name} ({number} of {len(nets)}): {found[net.name]:.2f} % by the supernet")
    return found


def _epoch(data: SmallImages, epoch: int) -> Iterator[Batch]:
    """Yield the training batches of an epoch, whole ones alone: a batch norm cannot take one image."""
    loader: Any = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return (batch for batch in loader if len(batch[1]) == data.batch_size)
