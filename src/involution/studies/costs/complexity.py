"""The figures of the cost tables: what the networks of the paper cost, counted, beside what was published."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import torch

from ...counting import count
from .published import rounding_interval
from .rows import TABLES, Row

__all__ = ["measure", "select"]

# A difference above this needs a reason in words.
TOLERANCE_PERCENT = 0.5


def select(table: str | None = None, name: str | None = None) -> list[tuple[str, Row]]:
    """Choose rows of the cost tables, each with its table, for `measure`.

    Args:
        table: one of `TABLES`; all by default.
        name: only rows whose name contains this, letter case and punctuation aside.

    Raises:
        ValueError: no table or no row is called so.
    """
    if table is not None and table not in TABLES:
        raise ValueError(f"unknown table {table!r}; expected one of {', '.join(TABLES)}")
    candidates = [(key, row) for key in ([table] if table else TABLES) for row in TABLES[key].rows()]
    chosen = [(key, row) for key, row in candidates if name is None or _plain(name) in _plain(row.name)]
    if not chosen:
        raise ValueError(
            f"no row is called {name!r}; expected a part of one of: {'; '.join(r.name for _, r in candidates)}"
        )
    return chosen


def _plain(text: str) -> str:
    return "".join(character for character in text.lower() if character.isalnum())


def measure(table: str, row: Row) -> dict[str, Any]:
    """Count one network, on the meta device, and put the counts beside the published figures.

    Returns:
        ``table``, ``name``, ``params_m`` (millions), ``macs_g`` and ``paper_rule_g`` (10⁹), ``published_params_m`` and
        ``published_flops_g``, ``params_difference_percent`` (each None where nothing was published) and
        ``flops_difference_percent`` (of the count by the paper's rule), ``published_accuracy`` (percent, by metric),
        ``note`` (what explains a difference), and how to build the network again: ``model``, ``options``,
        ``input_size``.
    """
    with torch.device("meta"):
        model = row.create(row.model, **row.options)
    cost = count(model, row.input_size, run=row.run)
    params_m = (cost.trainable_params if row.trainable_only else cost.params) / 1e6
    paper_rule_g = cost.paper_rule / 1e9
    published = row.published
    reasons = [
        _rounding("parameters", params_m, published.params_m),
        _rounding("FLOPs", paper_rule_g, published.flops_g),
        row.note,
    ]
    return {
        "table": table,
        "name": row.name,
        "params_m": params_m,
        "macs_g": cost.macs / 1e9,
        "paper_rule_g": paper_rule_g,
        "published_params_m": None if published.params_m is None else float(published.params_m),
        "published_flops_g": None if published.flops_g is None else float(published.flops_g),
        "params_difference_percent": _difference(params_m, published.params_m),
        "flops_difference_percent": _difference(paper_rule_g, published.flops_g),
        "published_accuracy": {metric: float(percent) for metric, percent in published.accuracy.items()},
        "note": "; ".join(reason for reason in reasons if reason),
        "model": row.model,
        "options": dict(row.options),
        "input_size": list(row.input_size),
    }


def _difference(counted: float, published: Decimal | None) -> float | None:
    return None if published is None else round(100 * (counted / float(published) - 1), 2)


def _rounding(what: str, counted: float, published: Decimal | None) -> str:
    """Say that a difference comes from the rounding of the published figure, where it is large and does."""
    difference = _difference(counted, published)
    if published is None or difference is None or abs(difference) <= TOLERANCE_PERCENT:
        return ""
    low, high = rounding_interval(published)
    return f"published {what} are rounded: {published} is {low} to {high}" if low <= counted <= high else ""
