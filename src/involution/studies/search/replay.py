"""Searches on a table of trained nets: every training is a look into the table, and many search seeds cost nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import mean
from typing import Any

from ...errors import CommandError, in_one_line
from ..declared.results import read_record
from .pareto import Point, hypervolume
from .plan import ask, create_sampler, optuna
from .space import SPACES, Choices, Space, active

__all__ = ["REFERENCE", "TableNet", "curve", "points", "read", "replay", "usual_distances"]

# Of hypervolumes, beyond the dearest and the worst: with their own corner the most accurate net would add nothing where it is
# the dearest as well.
REFERENCE = (1.1, 1.1)
# Random proposals that say how near a net is to everything.
_PROPOSALS = 300

_FORM = {
    "settings": {"widths": [int]},
    "results": [
        {
            "net": str,
            "space": str,
            "seed": int,
            "blocks": str,
            "choices": dict,
            "params": int,
            "macs": int,
            "accuracy_percent": (float, None),
            "history": list,
        }
    ],
}


@dataclass(frozen=True)
class TableNet:
    """A net of a table.

    Attributes:
        name: in the table.
        space: that it was drawn from.
        choices: as the mixed space takes them.
        blocks: the net.
        params: number of parameters.
        macs: multiply-adds for an image.
        accuracies: percent after the last epoch, by seed, of the trainings that did not diverge.
        first_seed: of the training that is the first in the record.
        first_epoch: percent after its first epoch; None of one that diverged before.
        latency_ms: milliseconds for an image; None where it was not measured.
    """

    name: str
    space: str
    choices: Choices
    blocks: str
    params: int
    macs: int
    accuracies: Mapping[int, float]
    first_seed: int
    first_epoch: float | None
    latency_ms: float | None = None

    @property
    def accuracy(self) -> float | None:
        """Mean percent over the seeds; None where all trainings diverged."""
        return mean(self.accuracies.values()) if self.accuracies else None

    @property
    def accuracy_of_other_seeds(self) -> float | None:
        """Mean percent over the seeds but the first, of which `first_epoch` is; None where there are none."""
        others = [accuracy for seed, accuracy in self.accuracies.items() if seed != self.first_seed]
        return mean(others) if others else None


def read(path: str | Path) -> tuple[Space, list[TableNet]]:
    """Read the record of a table, of all its trainings or a part of them; return its mixed space and its nets.

    Args:
        path: of the record.

    Raises:
        CommandError: it is missing, damaged, or no record of a table.
    """
    record = read_record(path, _FORM, "a table")
    try:
        space = Space("mixed", tuple(record["settings"]["widths"]))
        rows: dict[str, list[dict[str, Any]]] = {}
        for row in record["results"]:
            rows.setdefault(row["net"], []).append(row)
        return space, [_net(space, name, trainings) for name, trainings in rows.items()]
    except (ValueError, KeyError, TypeError) as error:
        raise CommandError(f"{path} is no record of a table: {in_one_line(error)}") from error


def _net(space: Space, name: str, rows: Sequence[Mapping[str, Any]]) -> TableNet:
    first = rows[0]
    choices = space.completed(first["choices"])
    if str(space.net(choices)) != first["blocks"]:
        raise ValueError(f"the choices of {name} are not the net {first['blocks']}")
    if first["space"] not in SPACES:
        raise ValueError(f"{name} is of the space {first['space']!r}; expected one of {', '.join(SPACES)}")
    for kind in ("params", "macs"):
        if first[kind] < 1:
            raise ValueError(f"{name} has {kind} of {first[kind]}, which must be above zero")
    history = first["history"]
    return TableNet(
        name=name,
        space=first["space"],
        choices=choices,
        blocks=first["blocks"],
        params=first["params"],
        macs=first["macs"],
        accuracies={row["seed"]: row["accuracy_percent"] for row in rows if row["accuracy_percent"] is not None},
        first_seed=first["seed"],
        first_epoch=100 * history[0]["test_accuracy"] if history else None,
    )


def points(nets: Sequence[TableNet], cost: str) -> list[Point]:
    """Return cost and error of nets, each from 0 to 1 within them: the cheapest and best to the dearest and worst.

    Costs on a logarithmic scale; nets that diverged have the error of the worst.

    Args:
        nets: of a table.
        cost: ``"params"``, ``"macs"`` or, where it was measured, ``"latency_ms"``.
    """
    costs = [math.log(getattr(net, cost)) for net in nets]
    worst = min((net.accuracy for net in nets if net.accuracy is not None), default=0.0)
    errors = [-(worst if net.accuracy is None else net.accuracy) for net in nets]
    return list(zip(_scaled(costs), _scaled(errors)))


def _scaled(values: Sequence[float]) -> list[float]:
    low, high = min(values), max(values)
    return [(value - low) / (high - low) if high > low else 0.0 for value in values]


def replay(
    space: Space,
    nets: Sequence[TableNet],
    *,
    sampler: str,
    cost: str,
    seed: int,
    budget: int,
    usual: Sequence[float] | None = None,
) -> list[int]:
    """Return the nets, by their places in the table, that a search trains one after the other.

    What the sampler proposes is hardly ever in the table: it gets the net there that was not seen before and is nearest, and
    learns that this one was trained. So does random search. Near is what differs in few choices, less what it differs
    in from random proposals in the mean: nets of few blocks are near to everything, and would be trained first by any
    search.

    Args:
        space: of the table.
        nets: of the table.
        sampler: see `involution.studies.search.plan.SAMPLERS`.
        cost: what is small for good nets, beside a high accuracy: see `points`.
        seed: of the search.
        budget: trainings, at most as many as there are nets.
        usual: of `usual_distances`, which all searches of a table share; made here by default.
    """
    budget = min(budget, len(nets))
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    distributions = {
        name: optuna.distributions.CategoricalDistribution(values) for name, values in space.parameters().items()
    }
    study = optuna.create_study(directions=["maximize", "minimize"])
    shown = [active(net.choices) for net in nets]
    usual = usual_distances(space, nets) if usual is None else usual
    order: list[int] = []
    for turn in range(budget):
        study.sampler = create_sampler(sampler, (seed, turn))
        proposal = study.ask(distributions)
        wanted = active(proposal.params)
        study.tell(proposal, state=optuna.trial.TrialState.FAIL)
        left = sorted(set(range(len(nets))) - set(order))
        place = min(left, key=lambda place: _distance(wanted, shown[place]) - usual[place])
        study.enqueue_trial(nets[place].choices)
        trial, accuracy = ask(study, distributions), nets[place].accuracy
        if accuracy is None:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(trial, [accuracy, float(getattr(nets[place], cost))])
        order.append(place)
    return order


def usual_distances(space: Space, nets: Sequence[TableNet]) -> list[float]:
    """Return in how many choices every net of a table differs from random proposals, in the mean.

    Args:
        space: of the table.
        nets: of the table.
    """
    generator = Random(0)
    parameters = space.parameters()
    drawn = [active({name: generator.choice(values) for name, values in parameters.items()}) for _ in range(_PROPOSALS)]
    return [mean(_distance(one, active(net.choices)) for one in drawn) for net in nets]


def _distance(one: Choices, two: Choices) -> int:
    return sum(one.get(name) != two.get(name) for name in one.keys() | two.keys())


def curve(order: Sequence[int], places: Sequence[Point]) -> list[float]:
    """Return the hypervolume after every training of a search, as a share of the whole table's.

    Args:
        order: nets as they were trained.
        places: cost and error of every net, see `points`.
    """
    whole = hypervolume(places, REFERENCE)
    return [hypervolume([places[i] for i in order[:end]], REFERENCE) / whole for end in range(1, len(order) + 1)]
