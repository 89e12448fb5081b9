"""What all plots share: colours, figures, axes, and the file they become."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from ..errors import InvolutionWarning

# What matplotlib says of every letter by itself.
_MISSING = "Glyph .* missing from"


@dataclass(frozen=True)
class Theme:
    """Colours of a picture."""

    ink: str
    muted: str
    grid: str
    paper: str
    convolution: str
    involution: str

    def of(self, operator: str) -> str:
        """Return the colour of an operator."""
        return self.convolution if operator == "convolution" else self.involution


LIGHT = Theme(
    ink="#16181d", muted="#667085", grid="#e4e7ec", paper="#ffffff", convolution="#3b6fd4", involution="#e8590c"
)


def png(figure: Any, dpi: int = 150) -> bytes:
    """Render a figure as PNG; of all letters that the font lacks one warning tells."""
    buffer = BytesIO()
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", _MISSING)
        figure.savefig(buffer, format="png", dpi=dpi)
    others = [warning for warning in caught if not re.match(_MISSING, str(warning.message))]
    for warning in others:
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    if len(others) < len(caught):
        warnings.warn(
            "matplotlib's font lacks some letters of the names, which the picture shows as boxes; name a font that has them "
            "in a file matplotlibrc (font.family)",
            InvolutionWarning,
            stacklevel=2,
        )
    return buffer.getvalue()


def new_figure(width: float, height: float, theme: Theme = LIGHT) -> Any:
    """Return an empty figure of matplotlib, its size in inches."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('plots need matplotlib; install it with: pip install "involution[train]"') from error
    return Figure(figsize=(width, height), facecolor=theme.paper)


def style_axes(axes: Any, theme: Theme = LIGHT, grid: str = "y") -> None:
    """Give axes their look: no frame, and pale lines at the ticks of the axis ``grid``."""
    axes.set_facecolor("none")
    axes.grid(axis=grid, color=theme.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=theme.muted, length=0, labelsize=9)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(theme.grid)
