"""What the records say: tables per stage, batch and dtype, tables of nets, and how far the aims were reached."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from involution.studies.markdown import table

Row = dict[str, Any]
_ON, _OFF = "reached", "not reached"


def tables(rows: Sequence[Row]) -> list[str]:
    """Return lines of Markdown: the aims, the times of the operator, of the layers, then of the nets."""
    lines = ["**Aims**", "", *table(["aim", "measured", ""], aims(rows))]
    shapes = defaultdict(list)
    for row in rows:
        if "stage" in row:
            shapes[row["stage"], row["batch"], row["dtype"]].append(row)
    for (stage, batch, dtype), found in shapes.items():
        cells = [_line(row, "name", "median_us", "gb_per_s", "of_copy") for row in found]
        lines += ["", f"**Stage {stage}, batch {batch}, {dtype}**", ""]
        lines += table(["", "median µs", "GB/s", "of copy"], cells, ["---", *["--:"] * 3])
    layers = [row for row in rows if "layer" in row]
    if layers:
        cells = [_line(row, "layer", "at_stage", "batch", "forward_us", "backward_us", "peak_mib") for row in layers]
        head = ["layer", "stage", "batch", "forward µs", "backward µs", "peak MiB"]
        lines += ["", "**Layers**", "", *table(head, cells, ["---", *["--:"] * 5])]
    nets = [
        [
            *(row[key] for key in ("net", "step", "mode", "batch")),
            row.get("images_per_s", row.get("failed", row.get("stopped"))),
            row.get("peak_mib", ""),
        ]
        for row in rows
        if "net" in row
    ]
    head = ["net", "step", "mode", "batch", "images/s", "peak MiB"]
    return [*lines, "", "**Nets**", "", *table(head, nets, ["---"] * 3 + ["--:"] * 3)]


def _line(row: Row, name: str, *keys: str) -> list[Any]:
    """Return a row's name, with the reason where it has no figures, and its figures."""
    reason = row.get("failed", row.get("stopped", ""))
    return [f"{row.get(name, '')} {reason}".strip(), *(row.get(key, "") for key in keys)]


def aims(rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    """Return each aim, what was measured, and whether it was reached, all for batch 64 in bfloat16."""
    first = [row for row in rows if (row.get("batch"), row.get("dtype")) == (64, "bfloat16")]

    def best(stage: int, *names: str) -> Row | None:
        found = [row for row in first if row["stage"] == stage and row.get("name") in names and "median_us" in row]
        return min(found, key=lambda row: row["median_us"]) if found else None

    forward = ("strips forward, pixels together", "strips forward, weights together")
    with_generation = ("fused forward", "generation and strips")
    found: list[tuple[str, str, str]] = []
    for stage in (1, 2):
        ours = best(stage, *forward)
        share = None if ours is None else ours.get("of_copy")
        found.append(_judged(f"stage {stage}: forward ≥ 70 % of the copy's bandwidth", share, 0.7, "{:.0%}"))
    for stage in (1, 2, 3, 4):
        ours, plain = best(stage, *forward), best(stage, "plain CUDA, one thread per output")
        ratio = plain["median_us"] / ours["median_us"] if ours and plain else None
        found.append(_judged(f"stage {stage}: forward ≥ 5 × the plain CUDA kernel", ratio, 5, "{:.1f} ×"))
    for stage in (1, 2, 3, 4):
        ours, convolution = best(stage, *with_generation), best(stage, "convolution 3x3")
        ratio = convolution["median_us"] / ours["median_us"] if ours and convolution else None
        found.append(_judged(f"stage {stage}: with generation ≥ 1 × the 3×3 convolution's speed", ratio, 1, "{:.2f} ×"))
    nets = {(row["net"], row["step"], row["mode"]): row for row in rows if "images_per_s" in row}
    for mode in ("eager", "graph", "compiled"):
        for step, key, aim in (
            ("inference", "images_per_s", "RedNet-50's images/s ≥ ResNet-50's"),
            ("training", "peak_mib", "RedNet-50's peak memory ≤ ResNet-50's"),
        ):
            ours, theirs = nets.get(("rednet50", step, mode)), nets.get(("resnet50", step, mode))
            ratio = ours[key] / max(theirs[key], 1) if ours and theirs else None
            if ratio is not None and key == "peak_mib":
                ratio = 1 / max(ratio, 1e-9)
            found.append(_judged(f"{step}, {mode}: {aim}", ratio, 1, "{:.2f} ×"))
    return found


def _judged(aim: str, value: float | None, least: float, form: str) -> tuple[str, str, str]:
    if value is None:
        return aim, "", "not measured"
    return aim, form.format(value), _ON if value >= least else _OFF
