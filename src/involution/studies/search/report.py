"""What a search shows of itself: the picture of its nets and their front, anew after every net, and a page in the end."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from ... import records
from ...files import write_atomically
from ...models.searchable import Blocks, Layer
from ...pictures.plots import LIGHT, new_figure, png, style_axes
from .plan import OBJECTIVES, Plan, optuna
from .study import State, finished

__all__ = ["best", "draw", "picture", "rows", "write"]

_COLOURS = {
    "convolution": LIGHT.convolution,
    "depthwise": "#2b8a3e",
    "involution": LIGHT.involution,
    "attention": "#9c36b5",
}
_TITLES = {"params": "parameters", "macs": "multiply-adds", "latency": "milliseconds"}


def rows(study: optuna.Study) -> list[dict[str, Any]]:
    """Return every trial with an outcome, JSON's types; of nets that were trained, the accuracy in percent."""
    names = ("blocks", "params", "macs", "latency_ms", "accuracy_percent", "outcome", "history")
    return [
        {
            "trial": trial.number,
            "state": trial.state.name.lower(),
            "retry_of": trial.user_attrs.get("retry_of"),
            **{name: trial.user_attrs.get(name) for name in names},
        }
        for trial in finished(study)
    ]


def best(found: Sequence[dict[str, Any]], plan: Plan) -> list[dict[str, Any]]:
    """Return the trained nets that no other beats in all objectives, each once, the most accurate first."""
    trained = {row["blocks"]: row for row in reversed(found) if row["state"] == State.COMPLETE.name.lower()}.values()
    chosen = [row for row in trained if not any(_beats(other, row, plan) for other in trained)]
    return sorted(chosen, key=lambda row: (-row["accuracy_percent"], row["trial"]))


def _beats(one: dict[str, Any], two: dict[str, Any], plan: Plan) -> bool:
    signs = [1 if direction == "minimize" else -1 for direction in plan.directions]
    first, second = ([s * v for s, v in zip(signs, plan.values(row))] for row in (one, two))
    return first != second and all(a <= b for a, b in zip(first, second))


def picture(found: Sequence[dict[str, Any]], plan: Plan) -> Any:
    """Return a figure: accuracy against the first cost of the plan, all trained nets and the front."""
    cost = next((name for name in plan.objectives if name != "accuracy"), "params")
    key = OBJECTIVES[cost][0]
    trained = [row for row in found if row["accuracy_percent"] is not None]
    figure = new_figure(6.4, 4.2)
    figure.set_layout_engine("constrained")
    axes = figure.subplots()
    style_axes(axes)
    axes.scatter(
        [row[key] for row in trained], [row["accuracy_percent"] for row in trained], 22, LIGHT.muted, alpha=0.6
    )
    chosen = sorted(best(found, plan), key=lambda row: row[key])
    axes.plot(
        [row[key] for row in chosen],
        [row["accuracy_percent"] for row in chosen],
        color=LIGHT.involution,
        marker="o",
        markersize=5,
        drawstyle="steps-post",
    )
    axes.set_xlabel(_TITLES[cost], fontsize=9, color=LIGHT.muted)
    axes.set_ylabel("validation accuracy, %", fontsize=9, color=LIGHT.muted)
    axes.set_title(f"{plan.name}: {len(found)} nets, {plan.sampler}", loc="left", fontsize=11, color=LIGHT.ink)
    return figure


def draw(blocks: Blocks) -> str:
    """Return a net as SVG: a box for every block, as high as its channels are many, in the colour of its layer."""
    widest = max(blocks.channels)
    x, parts = 4, []
    for stage in blocks.stages:
        height = 14 + 40 * stage.channels / widest
        for layer in stage.layers:
            parts.append(
                f'<rect x="{x}" y="{58 - height:.0f}" width="62" height="{height:.0f}" rx="4" '
                f'fill="{_COLOURS[layer.kind]}"><title>{escape(_words(layer, stage.channels))}</title></rect>'
                f'<text x="{x + 31}" y="{52}" text-anchor="middle" font-size="11" fill="#ffffff">{layer}</text>'
            )
            x += 66
        x += 10
    return f'<svg viewBox="0 0 {x} 62" width="{x}" height="62" role="img" aria-label="{blocks}">{"".join(parts)}</svg>'


def _words(layer: Layer, channels: int) -> str:
    words = f"{layer.kind} {layer.kernel_size}×{layer.kernel_size}, {channels} channels"
    if layer.kind != "involution":
        return words
    phi = f"bottleneck φ, r = {layer.reduction}" if layer.reduction else "linear φ"
    return f"{words}, C/G = {layer.group_channels}, {phi}"


def write(study: optuna.Study, plan: Plan, folder: Path, *, predictions: Sequence[Any] = ()) -> list[Path]:
    """Write picture, record and page of a study, each whole or not at all.

    Args:
        study: with its trials.
        plan: that it follows.
        folder: made where it does not exist.
        predictions: whole nets timed beside what the table of parts said of them.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = rows(study)
    image = png(picture(found, plan))
    drawing, page = folder / "pareto.png", folder / "report.html"
    write_atomically(drawing, image)
    errors = [
        {"blocks": p.blocks, "predicted_ms": p.predicted_ms, "measured_ms": p.measured_ms, "error": p.error}
        for p in predictions
    ]
    payload = {"seed": plan.seed, "settings": plan.settings(), "latency_checks": errors, "results": found}
    record = records.write(plan.name, payload, folder)
    write_atomically(page, _page(found, plan, image, records.read(record)))
    return [drawing, record, page]


def _page(found: Sequence[dict[str, Any]], plan: Plan, image: bytes, record: dict[str, Any]) -> str:
    legend = " ".join(f'<span style="color:{colour}">■ {kind}</span>' for kind, colour in _COLOURS.items())
    nets = "".join(
        f"<h3>trial {row['trial']}: {row['accuracy_percent']:.2f} %, {row['params']:,} parameters, {row['macs']:,} "
        f"multiply-adds{_latency(row)}</h3>{draw(Blocks.parse(row['blocks']))}<p><code>{escape(row['blocks'])}</code></p>"
        for row in best(found, plan)
    )
    lines = "".join(
        f"<tr><td>{row['trial']}</td><td>{_percent(row)}</td><td>{row['params']:,}</td>"
        f"<td><code>{escape(row['blocks'])}</code></td><td>{escape(row['outcome'])}</td></tr>"
        for row in found
    )
    where = record["machine"]["processor"]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(plan.name)}</title>'
        "<style>body{font:15px/1.5 system-ui,sans-serif;max-width:1000px;margin:2em auto;padding:0 1em;color:#16181d}"
        "svg{max-width:100%}table{border-collapse:collapse}td,th{padding:2px 10px;text-align:left;border-bottom:1px solid "
        "#e4e7ec}</style>"
        f"<h1>Search {escape(plan.name)}</h1><p>{len(found)} nets of the {plan.space.name} space by {plan.sampler}; "
        f"objectives {', '.join(plan.objectives)}. {escape(record['date'])}, {escape(where)}.</p>"
        f'<img alt="accuracy against cost" style="max-width:100%" src="data:image/png;base64,{b64encode(image).decode()}">'
        f"<h2>Nets that none beats</h2><p>{legend}</p>{nets or '<p>none yet</p>'}"
        "<h2>All nets</h2><table><tr><th>trial</th><th>accuracy</th><th>parameters</th><th>net</th><th>outcome</th></tr>"
        f"{lines}</table></html>\n"
    )


def _latency(row: dict[str, Any]) -> str:
    return "" if row["latency_ms"] is None else f", {row['latency_ms']:.2f} ms"


def _percent(row: dict[str, Any]) -> str:
    return "–" if row["accuracy_percent"] is None else f"{row['accuracy_percent']:.2f} %"
