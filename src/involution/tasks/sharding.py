"""Fully sharded training (FSDP2): parameters, gradients and optimiser state divided among all processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from torch import nn

__all__ = ["FullyShardedStrategy", "is_sharded", "shard", "units"]


class FullyShardedStrategy(ModelParallelStrategy):
    """Lightning's strategy for FSDP2 with all processes as one data-parallel group: ``--trainer.strategy fsdp2``.

    A checkpoint is one file with whole tensors, written by the first process, so that any number of processes, or one,
    goes on from it.
    """

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        """Make the group as large as the training."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Load model and optimisers; one that keeps nothing (SGD without momentum) is more than Lightning expects."""
        path = Path(self.broadcast(checkpoint_path))
        saved = torch.load(path, map_location="cpu", mmap=True, weights_only=True)["optimizer_states"]
        optimizers = self.optimizers  # type: ignore[has-type]
        if any(state["state"] for state in saved):
            return super().load_checkpoint(path, weights_only)
        try:
            self.optimizers = []
            checkpoint = super().load_checkpoint(path, weights_only)
        finally:
            self.optimizers = optimizers
        for optimizer, state in zip(optimizers, saved, strict=True):
            for group, values in zip(optimizer.param_groups, state["param_groups"], strict=True):
                group.update({name: value for name, value in values.items() if name != "params"})
        return checkpoint


StrategyRegistry.register(
    "fsdp2", FullyShardedStrategy, description="FSDP2: parameters, gradients and optimiser state are divided"
)


def units(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the modules that gather their parameters as one: the blocks of a net's stages.

    They are the children of the containers directly below the net; leaves (of a stem) stay with the whole.
    """
    for stage in model.children():
        if isinstance(stage, (nn.Sequential, nn.ModuleList)):
            for block in stage.children():
                if any(True for _ in block.children()) and any(True for _ in block.parameters()):
                    yield block


def shard(model: nn.Module, mesh: Any) -> None:
    """Divide the parameters of ``model`` among the processes of ``mesh``, in place."""
    from torch.distributed.fsdp import fully_shard

    for unit in units(model):
        fully_shard(unit, mesh=mesh)
    fully_shard(model, mesh=mesh)


def is_sharded(model: nn.Module) -> bool:
    """Whether parameters of ``model`` are divided among processes."""
    from torch.distributed.tensor import DTensor

    return any(isinstance(parameter, DTensor) for parameter in model.parameters())
