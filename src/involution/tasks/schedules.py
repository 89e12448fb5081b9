"""Learning-rate schedules of the published recipes, as PyTorch schedulers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from ..errors import InvolutionWarning, TrainingError
from .checks import warn_of_long_warmup
from .watched import plateau

__all__ = ["PolyLR", "Shared", "WarmupCosineLR", "configured", "create_optimizer", "end_with_training", "warmed_up"]


class Shared:
    """A function that a copy of a task has in common with the task, as with any function of a module.

    What the command line makes of ``--model.optimizer`` holds its parser, which nothing can copy; and a callback that
    averages weights copies the whole task.

    Args:
        function: to be called.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the function does."""
        return self.function(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Shared:
        return self


def create_optimizer(
    optimizer: Callable[..., Optimizer], parameters: Iterable[nn.Parameter], lr_scheduler: Callable[..., Any] | None
) -> tuple[Optimizer, Any]:
    """Return an optimiser and its schedule, None without one.

    Args:
        optimizer: from parameters to an optimiser.
        parameters: what it changes.
        lr_scheduler: from the optimiser to a schedule.

    Raises:
        TrainingError: one of them refuses its arguments.
    """
    what = "optimizer"
    try:
        made = optimizer(parameters)
        for group in made.param_groups:
            if not math.isfinite(group["lr"]):
                raise ValueError(f"lr must be a finite number, got {float(group['lr'])}")
        what = "lr_scheduler"
        return made, None if lr_scheduler is None else lr_scheduler(made)
    except (ValueError, TypeError) as error:
        raise TrainingError(f"the {what} cannot be made: {error}; correct --model.{what}") from error


def configured(
    optimizer: Callable[..., Optimizer],
    parameters: Iterable[nn.Parameter],
    lr_scheduler: Callable[..., Any] | None,
    interval: str = "epoch",
) -> Any:
    """Return an optimiser, with its schedule if there is one, as Lightning's ``configure_optimizers`` does.

    Args:
        optimizer: see `create_optimizer`.
        parameters: likewise.
        lr_scheduler: likewise.
        interval: after what a schedule is stepped that does not say it itself.

    Raises:
        TrainingError: see `create_optimizer` and `plateau`.
    """
    made, scheduler = create_optimizer(optimizer, parameters, lr_scheduler)
    if scheduler is None:
        return made
    return {
        "optimizer": made,
        "lr_scheduler": {
            "scheduler": scheduler,
            "interval": getattr(scheduler, "interval", interval),
            **plateau(scheduler),
        },
    }


def end_with_training(trainer: Trainer) -> None:
    """Tell the schedules here how long the training is, when it has its data and a checkpoint is restored.

    Not when they are made: to count the batches then would begin them before the checkpoint says where. Where a checkpoint
    brings a learning rate that the configuration does not say, and none of these schedules sets it, a warning tells so.

    Raises:
        TrainingError: a schedule ends before the training, or shall end with one that has no end.
    """
    planned = [c.scheduler for c in trainer.lr_scheduler_configs if isinstance(c.scheduler, (PolyLR, WarmupCosineLR))]
    waiting = [c.scheduler for c in trainer.lr_scheduler_configs if isinstance(c.scheduler, ReduceLROnPlateau)]
    for scheduler in planned:
        scheduler.end_with(trainer)
        scheduler.set_rates()
    for optimizer in trainer.optimizers:
        if trainer.ckpt_path and not any(scheduler.optimizer is optimizer for scheduler in (*planned, *waiting)):
            _warn_of_another_rate(optimizer)


def _warn_of_another_rate(optimizer: Optimizer) -> None:
    said, group = optimizer.defaults.get("lr"), optimizer.param_groups[0]
    restored = group.get("initial_lr", group["lr"])
    # Several groups may have rates of their own.
    if len(optimizer.param_groups) == 1 and said is not None and said != restored:
        rank_zero_warn(
            f"the training goes on with the learning rate {restored:g} of the checkpoint, not the {said:g} of the "
            "configuration; for another one start a new training from its weights",
            category=InvolutionWarning,
        )


class _Planned(LambdaLR):
    """A schedule that ends with the training: its length and its base rates belong to the configuration."""

    _CONFIGURED = ("steps", "warmup_steps", "epochs", "warmup_epochs", "base_lrs")

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps; not what a resumed training may be given anew."""
        return {key: value for key, value in super().state_dict().items() if key not in self._CONFIGURED}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what a checkpoint keeps; older ones have base rates as well."""
        super().load_state_dict({key: value for key, value in state_dict.items() if key not in self._CONFIGURED})

    def set_rates(self) -> None:
        """Set the rates of where the training is: a checkpoint's are of another length, or of other base rates."""
        for group, base, factor in zip(self.optimizer.param_groups, self.base_lrs, self.lr_lambdas, strict=True):
            group["initial_lr"], group["lr"] = base, base * factor(self.last_epoch)


class PolyLR(_Planned):
    """A power of what remains of the training, stepped after every optimiser step: the recipe of Cityscapes.

    Step t of T has the rate ``m + (lr − m) (1 − t / T)^p``, times ``f + (1 − f) t / W`` during the first W steps.

    Args:
        optimizer: what to schedule; its rates are the base rates.
        steps: T, length of the training; None leaves it to the task, which knows the length that the trainer plans.
        power: p.
        min_lr: m, the rate at the end.
        warmup_steps: W, length of the warm-up.
        warmup_factor: f, where the warm-up starts.

    Raises:
        ValueError: a number is out of range; ``min_lr``, too, may not be above a base rate.
    """

    # After what Lightning steps it, whatever the task.
    interval = "step"

    def __init__(
        self,
        optimizer: Optimizer,
        steps: int | None = None,
        power: float = 0.9,
        min_lr: float = 1e-4,
        warmup_steps: int = 0,
        warmup_factor: float = 0.1,
    ) -> None:
        if (steps is not None and steps < 1) or warmup_steps < 0:
            raise ValueError(f"steps must be at least 1 and warmup_steps 0, got {steps} and {warmup_steps}")
        _check_factor(warmup_factor)
        if not 0 <= power < math.inf:
            raise ValueError(f"power must be a number from 0 on, got {power}")
        rates = [group["lr"] for group in optimizer.param_groups]
        if not 0 <= min_lr <= min(rates):
            raise ValueError(f"min_lr must be between 0 and the base rate {min(rates)}, got {min_lr}")
        self.steps, self.warmup_steps = steps, warmup_steps

        def factor(step: int, rate: float) -> float:
            remaining = 1.0 if self.steps is None else 1 - min(step, self.steps) / self.steps
            least = min_lr / rate if rate else 0.0
            warm = 1.0 if step >= warmup_steps else warmup_factor + (1 - warmup_factor) * step / warmup_steps
            return warm * (least + (1 - least) * remaining**power)

        super().__init__(optimizer, [partial(factor, rate=rate) for rate in rates])

    def end_with(self, trainer: Trainer) -> None:
        """End with a training where no other length was given.

        Raises:
            TrainingError: it has no end.
        """
        steps = trainer.estimated_stepping_batches
        if self.steps is None and steps == math.inf:
            raise TrainingError("PolyLR ends with the training, which has no end; give it steps, or set max_epochs")
        self.steps = int(steps) if self.steps is None else self.steps
        warn_of_long_warmup(self.warmup_steps, steps, "--model.lr_scheduler.warmup_steps")


class WarmupCosineLR(_Planned):
    """A cosine from the base rate to zero, multiplied by a linear warm-up: the recipe of RedNet on ImageNet.

    Stepped after every epoch: epoch e of E has the factor ``(1 + cos(π e / E)) / 2``, times ``f + (1 − f) e / W`` during the
    first W epochs.

    Args:
        optimizer: what to schedule; its rates are the base rates.
        epochs: E, length of the training, which may be no longer; None leaves it to the task, which knows the length that the
            trainer plans.
        warmup_epochs: W, length of the warm-up.
        warmup_factor: f, where the warm-up starts.

    Raises:
        ValueError: ``epochs`` is below 1, the warm-up is longer than the training, or begins below zero or above the rate.
    """

    # After what Lightning steps it, whatever the task.
    interval = "epoch"

    def __init__(
        self, optimizer: Optimizer, epochs: int | None = None, warmup_epochs: int = 5, warmup_factor: float = 0.25
    ) -> None:
        if (epochs is not None and epochs < 1) or not 0 <= warmup_epochs <= (math.inf if epochs is None else epochs):
            raise ValueError(
                f"epochs must be at least 1 and warmup_epochs between 0 and epochs, got {epochs} and {warmup_epochs}"
            )
        _check_factor(warmup_factor)
        self.epochs, self.warmup_epochs = epochs, warmup_epochs

        def factor(epoch: int) -> float:
            cosine = 1.0
            if self.epochs is not None:
                cosine = (1 + math.cos(math.pi * min(epoch, self.epochs) / self.epochs)) / 2
            warm = 1 if epoch >= warmup_epochs else warmup_factor + (1 - warmup_factor) * epoch / warmup_epochs
            return cosine * warm

        super().__init__(optimizer, factor)

    def end_with(self, trainer: Trainer) -> None:
        """End with a training where no other length was given.

        Raises:
            TrainingError: it has no end, or goes on where the rate is zero.
        """
        epochs = _epochs(trainer)
        if self.epochs is None and epochs == math.inf:
            raise TrainingError(
                "WarmupCosineLR ends with the training, which has no end; give it epochs, or set max_epochs"
            )
        if self.epochs is not None and epochs > self.epochs:
            length = "no end" if epochs == math.inf else f"{epochs:.0f} epochs"
            raise TrainingError(
                f"WarmupCosineLR falls to zero in {self.epochs} epochs and the training has {length}, which would change "
                "nothing in the rest; leave out --model.lr_scheduler.epochs, or train for as many"
            )
        self.epochs = int(epochs) if self.epochs is None else self.epochs
        warn_of_long_warmup(self.warmup_epochs, epochs, "--model.lr_scheduler.warmup_epochs", "epochs")


def _epochs(trainer: Trainer) -> float:
    """Return how many epochs a training has, the last one perhaps not whole."""
    epochs = math.inf if trainer.max_epochs in (None, -1) else trainer.max_epochs
    if trainer.max_steps == -1:
        return epochs
    steps_of_epoch = trainer.num_training_batches / trainer.accumulate_grad_batches
    return (
        epochs if steps_of_epoch == math.inf else min(epochs, math.ceil(trainer.max_steps / math.ceil(steps_of_epoch)))
    )


def _check_factor(warmup_factor: float) -> None:
    if not 0 <= warmup_factor <= 1:
        raise ValueError(f"warmup_factor must be a share of the base rate from 0 to 1, got {warmup_factor}")


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
