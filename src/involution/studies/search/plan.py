"""What a search looks for: its space, its objectives, its limits, and the sampler that proposes nets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import CommandError, missing_package
from .space import Space

try:
    import optuna
except ImportError as error:
    raise missing_package("optuna", "search") from error

__all__ = ["OBJECTIVES", "SAMPLERS", "Plan", "ask", "create_sampler"]

# The figure of a net behind every objective, and which way is better.
OBJECTIVES = {
    "accuracy": ("accuracy_percent", "maximize"),
    "latency": ("latency_ms", "minimize"),
    "params": ("params", "minimize"),
    "macs": ("macs", "minimize"),
}
SAMPLERS = ("tpe", "nsga2", "random")

# Small, since a search has some fifty trainings and a generation learns from the one before it.
_POPULATION = 10


@dataclass(frozen=True)
class Plan:
    """What is searched, and how.

    Attributes:
        name: of the study.
        recipe: that trains every net.
        space: of the nets.
        objectives: of `OBJECTIVES`, ``"accuracy"`` among them.
        limits: the most that a net may have of an objective that is smaller for better nets; nets beyond are not trained.
        sampler: of `SAMPLERS`.
        seed: of the sampler; all nets are trained with seed 0.
        engine: in which latency is measured, see ``involution benchmark``.
        prune: whether a net that is behind is given up before its last epoch.

    Raises:
        CommandError: one of them is unknown.
    """

    name: str
    recipe: Mapping[str, Any]
    space: Space
    objectives: tuple[str, ...] = ("accuracy", "params")
    limits: Mapping[str, float] | None = None
    sampler: str = "tpe"
    seed: int = 0
    engine: str = "eager"
    prune: bool = True

    def __post_init__(self) -> None:
        for kind, values, known in (
            ("objective", self.objectives, OBJECTIVES),
            ("limit", self.limits or (), [name for name in OBJECTIVES if name != "accuracy"]),
            ("sampler", (self.sampler,), SAMPLERS),
        ):
            for value in values:
                if value not in known:
                    raise CommandError(f"unknown {kind} {value!r}; expected one of {', '.join(known)}")
        if "accuracy" not in self.objectives or len(set(self.objectives)) < len(self.objectives):
            raise CommandError(f"a search needs accuracy among its objectives, each once, got {self.objectives}")

    @property
    def needs_latency(self) -> bool:
        """Whether nets have to be timed."""
        return "latency" in (*self.objectives, *(self.limits or ()))

    @property
    def directions(self) -> list[str]:
        """Which way every objective is better."""
        return [OBJECTIVES[name][1] for name in self.objectives]

    def settings(self) -> dict[str, Any]:
        """Return, as JSON's types, what two processes must agree on to work on one study."""
        return {
            "recipe": {key: value for key, value in self.recipe.items() if key != "run"},
            "space": self.space.name,
            "widths": list(self.space.widths),
            "objectives": list(self.objectives),
            "limits": dict(self.limits or {}),
            "sampler": self.sampler,
            "seed": self.seed,
            "engine": self.engine if self.needs_latency else None,
            "prune": self.prune,
        }

    def distributions(self) -> dict[str, optuna.distributions.BaseDistribution]:
        """Return the space as Optuna takes it."""
        return {
            name: optuna.distributions.CategoricalDistribution(values)
            for name, values in self.space.parameters().items()
        }

    def values(self, figures: Mapping[str, Any]) -> list[float]:
        """Return the objectives of a net, in their order."""
        return [float(figures[OBJECTIVES[name][0]]) for name in self.objectives]

    def costs(self, figures: Mapping[str, Any]) -> list[float]:
        """Return the objectives of a net that are known before it is trained."""
        return [float(figures[OBJECTIVES[name][0]]) for name in self.objectives if name != "accuracy"]

    def excess(self, figures: Mapping[str, Any]) -> dict[str, float]:
        """Return by limit how far a net is beyond it, relative to the limit; not above zero where it is not."""
        return {name: figures[OBJECTIVES[name][0]] / most - 1 for name, most in (self.limits or {}).items()}


def create_sampler(name: str, seeds: Sequence[int]) -> optuna.samplers.BaseSampler:
    """Return a sampler of `SAMPLERS` for one proposal.

    What a sampler knows lies in the study; what it draws depends on ``seeds`` alone. A new one for every trial, seeded by its
    number, goes on after an interruption as if there had been none.
    """
    seed = 0
    for part in seeds:
        seed = (seed * 1_000_003 + part) % 2**32
    if name == "tpe":
        return optuna.samplers.TPESampler(seed=seed)
    if name == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=seed, population_size=_POPULATION)
    return optuna.samplers.RandomSampler(seed=seed)


def ask(study: optuna.Study, distributions: Mapping[str, Any]) -> optuna.Trial:
    """Return the next trial, a queued one first.

    Optuna asks a sampler for a queued trial only where something is left to choose; one that counts generations has to see
    it all the same.
    """
    trial = study.ask(dict(distributions))
    _ = trial.relative_params
    return trial
