"""What ranks the nets of a table as their trainings do, beside how well one seed ranks them as another does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import Any

from ..statistics import bootstrap
from .replay import TableNet

__all__ = ["FEWEST", "correlations", "reliability"]

# Fewer nets have no rank worth speaking of.
FEWEST = 8
_ANOTHER_SEED = "another seed"


def correlations(nets: Sequence[TableNet], scores: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    """Return rank correlations with accuracy, Spearman's and Kendall's, with bootstrap intervals over nets.

    The first row is one seed against another, of the nets that have several. It is no ceiling: what told the true rank would
    reach about its root, and more where accuracies are means over seeds. Where not all nets have several, the other rows
    have Spearman's of these nets as well, to be laid beside it: other nets may be easier to tell apart. The first epoch is
    judged by the other seeds; where there are none by its own training, "first epoch of itself". Predictors are laid beside the one
    that ranks best, on the nets that both have: of two whose difference may be zero neither is the better. Of fewer than
    eight nets nothing is said.

    Args:
        nets: of the table.
        scores: further predictors, by their name and by the net's.
    """
    several = [net for net in nets if len(net.accuracies) > 1]
    rows = []
    if len(several) >= FEWEST:
        # Blocks of the bootstrap are nets: the pairs of one are not independent.
        seeds = [[net.accuracies[seed] for seed in sorted(net.accuracies)] for net in several]
        rows.append(_row(_ANOTHER_SEED, [list(combinations(values, 2)) for values in seeds]))
    predicted = {name: pairs for name, pairs in _predictions(nets, scores).items() if len(pairs) >= FEWEST}
    found = {name: _row(name, [[pair] for pair in pairs.values()]) for name, pairs in predicted.items()}
    best = max(found, key=lambda name: float(found[name]["spearman"]["value"]), default="")
    for name, row in found.items():
        of_several = [[predicted[name][net.name]] for net in several if net.name in predicted[name]]
        if FEWEST <= len(of_several) < len(predicted[name]):
            row["spearman_of_several_seeds"] = _row(name, of_several)["spearman"]
        if name != best:
            row["less_than_best"] = _behind(predicted[best], predicted[name])
    return [*rows, *found.values()]


def _predictions(
    nets: Sequence[TableNet], scores: Mapping[str, Mapping[str, float]]
) -> dict[str, dict[str, tuple[float, float]]]:
    """Return by predictor and net what is predicted and the accuracy that it is judged by."""
    reached = {net.name: net.accuracy for net in nets if net.accuracy is not None}
    first = {net.name: net.first_epoch for net in nets if net.first_epoch is not None}
    others = {net.name: net.accuracy_of_other_seeds for net in nets if net.accuracy_of_other_seeds is not None}
    predictors: dict[str, tuple[Mapping[str, float], Mapping[str, float]]] = {
        "params": ({net.name: float(net.params) for net in nets}, reached),
        "macs": ({net.name: float(net.macs) for net in nets}, reached),
        # A training that predicts itself would be no prediction.
        **({"first epoch": (first, others)} if len(others) >= FEWEST else {"first epoch of itself": (first, reached)}),
    }
    predictors.update({name: (values, reached) for name, values in scores.items()})
    return {
        name: {
            net.name: (values[net.name], judge[net.name]) for net in nets if net.name in values and net.name in judge
        }
        for name, (values, judge) in predictors.items()
    }


def _behind(best: Mapping[str, tuple[float, float]], other: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Return by how much Spearman's correlation of a predictor is below another's, on the same nets, with its interval."""

    def statistic(chosen: Sequence[tuple[Sequence[Any], Sequence[Any]]]) -> float:
        return _rank("spearman", [one for one, _ in chosen]) - _rank("spearman", [two for _, two in chosen])

    blocks = [([best[name]], [other[name]]) for name in best if name in other]
    low, high = bootstrap(blocks, statistic)
    return {"value": statistic(blocks), "low": low, "high": high}


def reliability(nets: Sequence[TableNet], ranks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return how well the means over seeds, by which nets are ranked, would agree with such means of other seeds.

    Spearman and Brown's formula: of n seeds ``n·r / (1 + (n − 1)·r)``, where r is the rank correlation of single ones. The
    number of seeds is that of the nets that have fewest; nothing is said of single ones, whose agreement is measured.

    Args:
        nets: of the table.
        ranks: what `correlations` found, whose first row is one seed against another.
    """
    seeds = min((len(net.accuracies) for net in nets if net.accuracies), default=0)
    if seeds < 2 or not ranks or ranks[0]["predictor"] != _ANOTHER_SEED:
        return {}
    single = ranks[0]["spearman"]
    # Below zero the formula means nothing: there is no agreement then.
    agreement = {key: max(0.0, r) for key, r in single.items()}
    return {"seeds": seeds, **{key: seeds * r / (1 + (seeds - 1) * r) for key, r in agreement.items()}}


def _row(name: str, blocks: Sequence[Sequence[tuple[float, float]]]) -> dict[str, Any]:
    row: dict[str, Any] = {"predictor": name, "nets": len(blocks)}
    for kind in ("spearman", "kendall"):
        low, high = bootstrap(blocks, partial(_rank, kind))
        row[kind] = {"value": _rank(kind, blocks), "low": low, "high": high}
    return row


def _rank(kind: str, blocks: Sequence[Sequence[tuple[float, float]]]) -> float:
    """Return a rank correlation, 0 where one side is all alike."""
    from scipy.stats import kendalltau, spearmanr

    ones, twos = zip(*(pair for block in blocks for pair in block))
    if len(set(ones)) == 1 or len(set(twos)) == 1:
        return 0.0
    return float({"spearman": spearmanr, "kendall": kendalltau}[kind](ones, twos).statistic)
