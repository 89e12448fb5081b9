"""A drawing of two networks side by side, as SVG: what they share stands in the middle, once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import zip_longest

from .architecture import Layer

__all__ = ["draw"]

_WIDTH, _CARD, _SHARED, _GAP = 1000, 486, 520, 22
_LEFT, _MIDDLE, _RIGHT = _CARD / 2, _WIDTH / 2, _WIDTH - _CARD / 2


def draw(networks: Mapping[str, Sequence[Layer]], input_shape: Sequence[int]) -> str:
    """Draw two networks from the steps that `involution.studies.comparison.architecture.trace` found.

    Args:
        networks: two lists of steps by the name of the network.
        input_shape: of one image.

    Returns:
        An ``<svg>`` whose colours are the CSS variables ``--ink``, ``--muted``, ``--line``, ``--card``,
        ``--convolution`` and ``--involution`` of the page it stands in.

    Raises:
        ValueError: there are not two networks.
    """
    if len(networks) != 2:
        raise ValueError(f"two networks are drawn side by side, got {len(networks)}")
    first, second = networks.values()
    parts: list[str] = []
    y = 0.0
    parts.append(_pill(_MIDDLE, y, f"image, {_shape(input_shape)}"))
    y += 30
    ends = [_MIDDLE]
    for a, b in zip_longest(first, second):
        tops = [_MIDDLE] if a == b else [x for x, layer in ((_LEFT, a), (_RIGHT, b)) if layer]
        parts += [_line(start, y, end, y + _GAP) for start, end in _pairs(ends, tops)]
        y += _GAP
        present = [layer for layer in (a, b) if layer]
        height = max(map(_height, present))
        if a == b:
            parts.append(_card(_MIDDLE, y, _SHARED, height, present[0]))
        else:
            parts += [_card(x, y, _CARD, height, layer) for x, layer in ((_LEFT, a), (_RIGHT, b)) if layer]
        y += height
        ends = tops
    parts += [_line(start, y, _MIDDLE if len(ends) == 1 else start, y + _GAP) for start in ends]
    y += _GAP
    for x, layers in zip(ends, (first, second)):
        parts.append(_pill(x, y, f"{_shape(layers[-1].output_shape)} classes"))
    names = " and ".join(networks)
    return (
        f'<svg class="architecture" viewBox="0 -2 {_WIDTH} {y + 34:.0f}" role="img" aria-label="The layers of the '
        f'{escape(names)} net">{"".join(parts)}</svg>'
    )


def _pairs(starts: Sequence[float], ends: Sequence[float]) -> list[tuple[float, float]]:
    if len(starts) == len(ends):
        return list(zip(starts, ends))
    return [(start, end) for start in starts for end in ends]


def _height(layer: Layer) -> float:
    return 104 if layer.kind == "involution" else 64 if layer.kind == "convolution" else 46


def _shape(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))


def _line(x0: float, y0: float, x1: float, y1: float) -> str:
    middle = (y0 + y1) / 2
    return f'<path class="wire" d="M{x0} {y0} C{x0} {middle} {x1} {middle} {x1} {y1}"/>'


def _text(x: float, y: float, text: str, style: str, anchor: str = "start") -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _pill(x: float, y: float, text: str) -> str:
    width = 40 + 7 * len(text)
    return f'<rect class="pill" x="{x - width / 2:.1f}" y="{y}" width="{width}" height="30" rx="15"/>' + _text(
        x, y + 19.5, text, "name", "middle"
    )


def _card(x: float, y: float, width: float, height: float, layer: Layer) -> str:
    left, right = x - width / 2, x + width / 2
    kind = layer.kind if layer.is_spatial else "shared"
    parts = [f'<rect class="card {kind}" x="{left}" y="{y}" width="{width}" height="{height}" rx="9"/>']
    if layer.is_spatial:
        parts.append(f'<rect class="spine {kind}" x="{left}" y="{y + 9}" width="4" height="{height - 18}" rx="2"/>')
    parts.append(_text(left + 20, y + 21, layer.title, f"title {kind}"))
    params = layer.params + layer.follower_params
    figures = f"{params:,} parameters" if params else "no parameters"
    parts.append(_text(right - 62, y + 20, _shape(layer.output_shape), "name", "end"))
    parts.append(_text(right - 62, y + 36, figures, "detail", "end"))
    parts.append(_stack(right - 50, y + 6, layer.output_shape))
    followers = " · ".join(layer.followers)
    taps = "×".join(map(str, layer.kernel_size))
    if layer.kind == "involution":
        kernels = "1 kernel" if layer.groups == 1 else f"{layer.groups} kernels"
        parts.append(_text(left + 20, y + 39, f"φ makes {kernels} of {taps} for every pixel:", "detail"))
        parts.append(_chips(left + 20, y + 49, layer.generator))
        parts.append(_text(left + 20, y + 92, f"then {followers}" if followers else "", "detail"))
    elif layer.kind == "convolution":
        parts.append(_text(left + 20, y + 38, f"the same {taps} kernels at every pixel", "detail"))
        parts.append(_text(left + 20, y + 54, f"then {followers}" if followers else "", "detail"))
    else:
        parts.append(_text(left + 20, y + 37, followers, "detail"))
    return "".join(parts)


def _chips(x: float, y: float, steps: Sequence[str]) -> str:
    """Draw φ: its steps in a row."""
    parts = [_text(x, y + 17, "φ", "phi")]
    x += 20
    for step in steps:
        width = 16 + 6.3 * len(step)
        parts.append(f'<rect class="chip" x="{x:.1f}" y="{y}" width="{width:.1f}" height="25" rx="6"/>')
        parts.append(_text(x + width / 2, y + 16.5, step, "detail", "middle"))
        x += width + 7
    return "".join(parts)


def _stack(x: float, y: float, shape: Sequence[int]) -> str:
    """Draw a map as sheets: their side grows with its pixels, their number with its channels."""
    if len(shape) != 3:
        return ""
    side = 6 + min(20.0, 3.4 * shape[1] ** 0.5)
    sheets = min(5, max(1, shape[0].bit_length() - 1))
    step = 2.5
    return "".join(
        f'<rect class="sheet" x="{x + i * step:.1f}" y="{y + (sheets - 1 - i) * step:.1f}" '
        f'width="{side:.1f}" height="{side:.1f}" rx="1.5"/>'
        for i in reversed(range(sheets))
    )
