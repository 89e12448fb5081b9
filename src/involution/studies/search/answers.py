"""What a table answers, with intervals: which searches are worth it, what ranks nets, which space, and where involution stands."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from math import log
from random import Random
from statistics import mean, median
from typing import Any

from ...errors import CommandError
from ...pictures.plots import LIGHT, new_figure, style_axes
from ..statistics import CONFIDENCE, ROUNDS, difference, estimate, interval_of
from .pareto import hypervolume
from .plan import SAMPLERS
from .ranking import FEWEST, correlations, reliability
from .replay import REFERENCE, TableNet, curve, points, replay, usual_distances
from .space import SPACES, Space

__all__ = ["answer", "figure", "markdown", "placement", "searches", "spaces"]

# `TableNet`'s, with what a table calls them.
COSTS = {"params": "params", "macs": "macs", "latency_ms": "latency, ms"}


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

    Raises:
        CommandError: no net has an accuracy.
    """
    if all(net.accuracy is None for net in nets):
        raise CommandError(
            "no net of the table has an accuracy: all its trainings failed, so there is nothing to answer"
        )
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


def spaces(nets: Sequence[TableNet], cost: str) -> dict[str, Any]:
    """Return by space what its random nets reach, and how much more the mixed space's do at equal cost.

    Of more nets the best is better: hypervolume and best accuracy within a limit are means over samples of as many nets of
    every space as the smallest has. The limit is the median cost in the space whose nets cost most. They describe these
    nets; of a maximum no honest interval is to be had from so few. One is had of the points by which nets of the mixed
    space are above another's of the same cost: least squares of the accuracies on the logarithm of the cost, with one slope
    and a level for either space, of the nets whose costs both spaces have. Where these are fewer than eight of one, nothing
    is said: a slope would have to carry what no net shows.

    Args:
        nets: of the table.
        cost: see `involution.studies.search.replay.points`.
    """
    places = dict(zip((net.name for net in nets), points(nets, cost)))
    groups = {name: [net for net in nets if net.space == name and net.accuracy is not None] for name in SPACES}
    groups = {name: group for name, group in groups.items() if group}
    number = min((len(group) for group in groups.values()), default=0)
    if number < FEWEST or len(groups) < 2:
        return {}
    # Half of the nets of every space are within.
    limit = max(median(getattr(net, cost) for net in group) for group in groups.values())
    generator = Random(0)
    whole = hypervolume(list(places.values()), REFERENCE)
    found: dict[str, Any] = {"nets": number, "cost_limit": limit}
    for name, group in groups.items():
        volumes: list[float] = []
        bests: list[float] = []
        while len(bests) < ROUNDS:
            chosen = generator.sample(group, number)
            within = [net.accuracy for net in chosen if net.accuracy is not None and getattr(net, cost) <= limit]
            # A sample without a net within the limit is drawn again.
            if within:
                volumes.append(hypervolume([places[net.name] for net in chosen], REFERENCE) / whole)
                bests.append(max(within))
        found[name] = {"hypervolume": mean(volumes), "best_percent": mean(bests)}
    for name, group in groups.items():
        above = _at_equal_cost(groups["mixed"], group, cost) if name != "mixed" and "mixed" in groups else {}
        if above:
            found[name]["mixed_less_this"] = above
    return found


def _at_equal_cost(mixed: Sequence[TableNet], others: Sequence[TableNet], cost: str) -> dict[str, Any]:
    """Return the points by which mixed nets are above others, by least squares, with Student's interval and their numbers."""
    from numpy import array, linalg
    from scipy.stats import t

    costs = [[getattr(net, cost) for net in group] for group in (mixed, others)]
    low, high = max(map(min, costs)), min(map(max, costs))
    groups = [[net for net in group if low <= getattr(net, cost) <= high] for group in (mixed, others)]
    if min(map(len, groups)) < FEWEST:
        return {}
    # A level, the slope, and what mixed nets are above the level.
    rows = array([[1.0, log(getattr(net, cost)), float(group is groups[0])] for group in groups for net in group])
    reached = array([net.accuracy for group in groups for net in group])
    # Of nets that all cost the same the slope is any.
    inverse = linalg.pinv(rows.T @ rows)
    levels = inverse @ rows.T @ reached
    freedom = len(rows) - int(linalg.matrix_rank(rows))
    variance = float(((reached - rows @ levels) ** 2).sum()) / freedom
    middle = float(levels[2])
    half = float(t.ppf((1 + CONFIDENCE) / 2, freedom)) * float(variance * inverse[2, 2]) ** 0.5
    return {"mean": middle, "low": middle - half, "high": middle + half, "nets": [len(group) for group in groups]}


def placement(nets: Sequence[TableNet]) -> list[dict[str, Any]]:
    """Return by stage the share of involutions among the layers of the better half of the mixed nets, less that of the other half.

    Nets are halved within halves of equal size by parameters, so that it is not size that is seen.
    """
    mixed = sorted(
        (net for net in nets if net.space == "mixed" and net.accuracy is not None),
        key=lambda net: (net.params, net.name),
    )
    if len(mixed) < 2 * FEWEST:
        return []
    halves = []
    for group in (mixed[: len(mixed) // 2], mixed[len(mixed) // 2 :]):
        ranked = sorted(group, key=lambda net: (net.accuracy, net.name))
        halves.append((ranked[len(ranked) // 2 :], ranked[: len(ranked) // 2]))
    rows = []
    for stage in range(4):
        shares = [[[_share(net, stage) for net in part] for part in half] for half in halves]
        better, worse = (mean(itertools.chain(*parts)) for parts in zip(*shares))
        generator = Random(stage)
        drawn = []
        for _ in range(ROUNDS):
            # As many of either size as there are.
            again = [[generator.choices(part, k=len(part)) for part in half] for half in shares]
            one, two = (mean(itertools.chain(*parts)) for parts in zip(*again))
            drawn.append(one - two)
        low, high = interval_of(drawn)
        difference = {"mean": better - worse, "low": low, "high": high}
        rows.append({"stage": stage + 1, "better": better, "worse": worse, "difference": difference})
    return rows


def _share(net: TableNet, stage: int) -> float:
    layers = net.blocks.split("/")[stage].split()[1:]
    return mean(layer.startswith("i") for layer in layers)


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
        "| predictor of accuracy | nets | Spearman | Kendall | Spearman, less than the best's |"
        f"{' Spearman, nets of several seeds |' if of_several else ''}",
        f"|---|--:|--:|--:|--:|{'--:|' if of_several else ''}",
    ]
    for row in found["ranks"]:
        several = row.get("spearman_of_several_seeds")
        cells = [row["predictor"], str(row["nets"]), _interval(row["spearman"]), _interval(row["kendall"])]
        cells.append(_interval(row["less_than_best"]) if "less_than_best" in row else "")
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
        lines += [
            "",
            f"| {title} | hypervolume of the table's | best, at most {limit} | mixed less this, points at equal cost |",
        ]
        lines += ["|---|--:|--:|--:|"]
        for name in SPACES:
            if name in part:
                row, less = part[name], part[name].get("mixed_less_this")
                nets = f"{_interval(less)}, {less['nets'][0]} mixed, {less['nets'][1]} of this" if less else ""
                lines.append(f"| {name} | {row['hypervolume']:.2f} | {row['best_percent']:.2f} | {nets} |")
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
