"""What a table answers, with intervals: which searches are worth it, what ranks nets, which space, and where involution stands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from math import log
from random import Random
from statistics import mean, median
from typing import Any

from ...pictures.plots import LIGHT, new_figure, style_axes
from ..statistics import CONFIDENCE, difference, estimate
from .pareto import hypervolume
from .plan import SAMPLERS
from .replay import TableNet, curve, points, replay, usual_distances
from .space import SPACES, Space

__all__ = ["answer", "correlations", "figure", "markdown", "placement", "searches", "spaces"]

# `TableNet`'s, with what a table calls them.
COSTS = {"params": "params", "macs": "macs", "latency_ms": "latency, ms"}

_ROUNDS = 1000
# Fewer nets have no rank worth speaking of.
_FEWEST = 8
_ANOTHER_SEED = "another seed"


def answer(
    space: Space,
    nets: Sequence[TableNet],
    *,
    seeds: int = 10,
    budget: int | None = None,
    scores: Mapping[str, Mapping[str, float]] | None = None,
) -> dict[str, Any]:
    """Return all answers as JSON's types; the same table gives the same ones.

    Args:
        space: of the table.
        nets: of the table.
        seeds: searches of every sampler.
        budget: trainings of a search; half of the table by default.
        scores: further predictors of nets, by their name and by the net's.
    """
    budget = budget or max(1, len(nets) // 2)
    ranks = correlations(nets, scores or {})
    costs = [cost for cost in COSTS if all(getattr(net, cost) is not None for net in nets)]
    return {
        "nets": len(nets),
        "trainings": sum(len(net.accuracies) for net in nets),
        "budget": budget,
        "searches": {cost: searches(space, nets, cost, seeds, budget) for cost in costs},
        "ranks": ranks,
        "reliability": reliability(nets, ranks),
        "spaces": {cost: spaces(nets, cost) for cost in costs},
        "placement": placement(nets),
    }


def searches(space: Space, nets: Sequence[TableNet], cost: str, seeds: int, budget: int) -> dict[str, Any]:
    """Return by sampler the mean hypervolume after every training, and in the end beside random search, with intervals."""
    places, usual = points(nets, cost), usual_distances(space, nets)
    found: dict[str, Any] = {}
    finals: dict[str, dict[int, float]] = {}
    for sampler in SAMPLERS:
        orders = [
            replay(space, nets, sampler=sampler, cost=cost, seed=seed, budget=budget, usual=usual)
            for seed in range(seeds)
        ]
        curves = [curve(order, places) for order in orders]
        finals[sampler] = {seed: values[-1] for seed, values in enumerate(curves)}
        last = estimate(list(finals[sampler].values()))
        found[sampler] = {
            "hypervolume": [mean(values) for values in zip(*curves)],
            "final": {"mean": last.mean, "low": last.low, "high": last.high, "n": last.n},
        }
    for sampler in SAMPLERS:
        if sampler != "random":
            than = difference(finals[sampler], finals["random"])
            found[sampler]["than_random"] = {"mean": than.mean, "low": than.low, "high": than.high, "n": than.n}
    return found


def correlations(nets: Sequence[TableNet], scores: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    """Return rank correlations with accuracy, Spearman's and Kendall's, with bootstrap intervals over nets.

    The first row is one seed against another, of the nets that have several. It is no ceiling: what told the true rank would
    reach about its root, and more where accuracies are means over seeds. Where not all nets have several, the other rows
    have Spearman's of these nets as well, to be laid beside it: other nets may be easier to tell apart. Of fewer than eight
    nets nothing is said.

    Args:
        nets: of the table.
        scores: further predictors, by their name and by the net's.
    """
    several = [net for net in nets if len(net.accuracies) > 1]
    rows = []
    if len(several) >= _FEWEST:
        # Blocks of the bootstrap are nets: the pairs of one are not independent.
        seeds = [[net.accuracies[seed] for seed in sorted(net.accuracies)] for net in several]
        rows.append(_row(_ANOTHER_SEED, [list(combinations(values, 2)) for values in seeds]))
    trained = [net for net in nets if net.accuracy is not None]
    predictors: dict[str, dict[str, float]] = {
        "params": {net.name: float(net.params) for net in trained},
        "macs": {net.name: float(net.macs) for net in trained},
        "first epoch": {net.name: net.first_epoch for net in trained if net.first_epoch is not None},
        **{name: dict(values) for name, values in scores.items()},
    }
    for name, values in predictors.items():
        judged = {
            net.name: [(values[net.name], net.accuracy)]
            for net in trained
            if net.name in values and net.accuracy is not None
        }
        if len(judged) >= _FEWEST:
            rows.append(_row(name, list(judged.values())))
            of_several = [judged[net.name] for net in several if net.name in judged]
            if _FEWEST <= len(of_several) < len(judged):
                rows[-1]["spearman_of_several_seeds"] = _row(name, of_several)["spearman"]
    return rows


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
    return {"seeds": seeds, **{key: seeds * r / (1 + (seeds - 1) * r) for key, r in single.items()}}


def _row(name: str, blocks: Sequence[Sequence[tuple[float, float]]]) -> dict[str, Any]:
    from scipy.stats import kendalltau, spearmanr

    row: dict[str, Any] = {"predictor": name, "nets": len(blocks)}
    for kind, function in (("spearman", spearmanr), ("kendall", kendalltau)):

        def statistic(chosen: Sequence[Sequence[tuple[float, float]]], function: Any = function) -> float:
            ones, twos = zip(*(pair for block in chosen for pair in block))
            return float(function(ones, twos).statistic) if len(set(ones)) > 1 and len(set(twos)) > 1 else 0.0

        low, high = _bootstrap(blocks, statistic)
        row[kind] = {"value": statistic(blocks), "low": low, "high": high}
    return row


def spaces(nets: Sequence[TableNet], cost: str) -> dict[str, Any]:
    """Return by space what its random nets reach, and how much more the mixed space's do at equal cost.

    Of more nets the best is better: hypervolume and best accuracy within a limit are means over samples of as many nets of
    every space as the smallest has. The limit is the median cost in the space whose nets cost most. They describe these
    nets; of a maximum no honest interval is to be had from so few. One is had of the points by which nets of the mixed
    space are above another's of the same cost: least squares of the accuracies on the logarithm of the cost, with one slope
    for all and a level for every space.

    Args:
        nets: of the table.
        cost: see `involution.studies.search.replay.points`.
    """
    places = dict(zip((net.name for net in nets), points(nets, cost)))
    groups = {name: [net for net in nets if net.space == name and net.accuracy is not None] for name in SPACES}
    groups = {name: group for name, group in groups.items() if group}
    number = min((len(group) for group in groups.values()), default=0)
    if number < _FEWEST or len(groups) < 2:
        return {}
    # Half of the nets of every space are within.
    limit = max(median(getattr(net, cost) for net in group) for group in groups.values())
    generator = Random(0)
    found: dict[str, Any] = {"nets": number, "cost_limit": limit}
    for name, group in groups.items():
        volumes: list[float] = []
        bests: list[float] = []
        while len(bests) < _ROUNDS:
            chosen = generator.sample(group, number)
            within = [net.accuracy for net in chosen if net.accuracy is not None and getattr(net, cost) <= limit]
            # A sample without a net within the limit is drawn again.
            if within:
                volumes.append(hypervolume([places[net.name] for net in chosen], (1.0, 1.0)))
                bests.append(max(within))
        found[name] = {"hypervolume": mean(volumes), "best_percent": mean(bests)}
    if "mixed" in groups:
        for name, above in _at_equal_cost(groups, cost).items():
            found[name]["mixed_less_this"] = above
    return found


def _at_equal_cost(groups: Mapping[str, Sequence[TableNet]], cost: str) -> dict[str, dict[str, float]]:
    """Return the points by which mixed nets are above those of every other space, by least squares, with Student's interval."""
    from numpy import array, linalg
    from scipy.stats import t

    names = [name for name in groups if name != "mixed"]
    nets = [(name, net) for name, group in groups.items() for net in group]
    # The mixed space's level, the slope, and what every other space is below.
    rows = array([[1.0, log(getattr(net, cost)), *(-float(name == other) for other in names)] for name, net in nets])
    reached = array([net.accuracy for _, net in nets])
    # Of nets that all cost the same the slope is any.
    inverse = linalg.pinv(rows.T @ rows)
    levels = inverse @ rows.T @ reached
    freedom = len(nets) - int(linalg.matrix_rank(rows))
    variance = float(((reached - rows @ levels) ** 2).sum()) / freedom
    quantile = float(t.ppf((1 + CONFIDENCE) / 2, freedom))
    found = {}
    for place, name in enumerate(names, 2):
        middle, half = float(levels[place]), quantile * float(variance * inverse[place, place]) ** 0.5
        found[name] = {"mean": middle, "low": middle - half, "high": middle + half}
    return found


def placement(nets: Sequence[TableNet]) -> list[dict[str, Any]]:
    """Return by stage the share of involutions among the layers of the better half of the mixed nets, less that of the other half.

    Nets are halved within halves of equal size by parameters, so that it is not size that is seen.
    """
    mixed = sorted(
        (net for net in nets if net.space == "mixed" and net.accuracy is not None),
        key=lambda net: (net.params, net.name),
    )
    if len(mixed) < 2 * _FEWEST:
        return []
    better, worse = [], []
    for group in (mixed[: len(mixed) // 2], mixed[len(mixed) // 2 :]):
        ranked = sorted(group, key=lambda net: (net.accuracy, net.name))
        worse += ranked[: len(ranked) // 2]
        better += ranked[len(ranked) // 2 :]
    rows = []
    for stage in range(4):
        shares = [[_share(net, stage) for net in part] for part in (better, worse)]
        generator = Random(stage)
        drawn = [
            mean(generator.choices(shares[0], k=len(shares[0]))) - mean(generator.choices(shares[1], k=len(shares[1])))
            for _ in range(_ROUNDS)
        ]
        rows.append(
            {"stage": stage + 1, "better": mean(shares[0]), "worse": mean(shares[1]), "difference": _summary(drawn)}
        )
    return rows


def _share(net: TableNet, stage: int) -> float:
    layers = net.blocks.split("/")[stage].split()[1:]
    return mean(layer.startswith("i") for layer in layers)


def _bootstrap(blocks: Sequence[Any], statistic: Callable[[Sequence[Any]], float]) -> tuple[float, float]:
    generator = Random(0)
    values = sorted(statistic(generator.choices(blocks, k=len(blocks))) for _ in range(_ROUNDS))
    tail = round((1 - CONFIDENCE) / 2 * _ROUNDS)
    return values[tail], values[-1 - tail]


def _summary(values: Sequence[float]) -> dict[str, float]:
    ordered, tail = sorted(values), round((1 - CONFIDENCE) / 2 * len(values))
    return {"mean": mean(values), "low": ordered[tail], "high": ordered[-1 - tail]}


def figure(found: Mapping[str, Any]) -> Any:
    """Return a figure: the mean hypervolume of the searches after every training, a panel for each cost."""
    drawn = new_figure(4.2 * len(found["searches"]), 3.6)
    drawn.set_layout_engine("constrained")
    panels = drawn.subplots(1, len(found["searches"]), squeeze=False, sharey=True)[0]
    colours = (LIGHT.involution, LIGHT.convolution, LIGHT.muted)
    for axes, (cost, samplers) in zip(panels, found["searches"].items()):
        style_axes(axes)
        for colour, (name, part) in zip(colours, samplers.items()):
            values = part["hypervolume"]
            axes.plot(range(1, len(values) + 1), values, color=colour, label=f"{name}, n = {part['final']['n']}")
        axes.set_title(f"accuracy and {COSTS[cost]}", loc="left", fontsize=11, color=LIGHT.ink)
        axes.set_xlabel("trainings", fontsize=9, color=LIGHT.muted)
        axes.legend(frameon=False, fontsize=9)
    panels[0].set_ylabel("hypervolume, share of the table's", fontsize=9, color=LIGHT.muted)
    return drawn


def markdown(found: Mapping[str, Any]) -> str:
    """Return the answers as tables in Markdown."""
    lines = [f"{found['nets']} nets, {found['trainings']} trainings; {found['budget']} trainings a search.", ""]
    for cost, samplers in found["searches"].items():
        lines += [
            f"| search, accuracy and {COSTS[cost]} | hypervolume of the table's | less random search's |",
            "|---|--:|--:|",
        ]
        lines += [
            f"| {name} | {_interval(part['final'])} | {_interval(part['than_random']) if 'than_random' in part else ''} |"
            for name, part in samplers.items()
        ]
        lines.append("")
    of_several = any("spearman_of_several_seeds" in row for row in found["ranks"])
    lines += [
        f"| predictor of accuracy | nets | Spearman | Kendall |{' Spearman, nets of several seeds |' if of_several else ''}",
        f"|---|--:|--:|--:|{'--:|' if of_several else ''}",
    ]
    for row in found["ranks"]:
        several = row.get("spearman_of_several_seeds")
        cells = [row["predictor"], str(row["nets"]), _interval(row["spearman"]), _interval(row["kendall"])]
        if of_several:
            cells.append(_interval(several) if several else "")
        lines.append(f"| {' | '.join(cells)} |")
    if found.get("reliability"):
        seeds = found["reliability"]["seeds"]
        lines += [
            "",
            f"Nets are ranked by means over {seeds} seeds or more. Those of {seeds} other seeds would agree by "
            f"{_interval(found['reliability'])}, by Spearman and Brown's formula from one seed against another.",
        ]
    for cost, part in found["spaces"].items():
        if not part:
            continue
        title = f"{part['nets']} random nets, {COSTS[cost]}"
        limit = f"{part['cost_limit']:,.0f}" if part["cost_limit"] >= 100 else f"{part['cost_limit']:.2f}"
        lines += ["", f"| {title} | hypervolume | best, at most {limit} | mixed less this, points at equal cost |"]
        lines += ["|---|--:|--:|--:|"]
        for name in SPACES:
            if name in part:
                row, less = part[name], part[name].get("mixed_less_this")
                lines.append(
                    f"| {name} | {row['hypervolume']:.2f} | {row['best_percent']:.2f} | {_interval(less) if less else ''} |"
                )
    if found["placement"]:
        lines += ["", "| stage | involutions in the better half | in the other | difference |", "|--:|--:|--:|--:|"]
        lines += [
            f"| {row['stage']} | {row['better']:.2f} | {row['worse']:.2f} | {_interval(row['difference'])} |"
            for row in found["placement"]
        ]
    return "\n".join(lines) + "\n"


def _interval(part: Mapping[str, float]) -> str:
    value = part.get("mean", part.get("value", 0.0))
    return f"{value:.2f} ({part['low']:.2f} to {part['high']:.2f})"
