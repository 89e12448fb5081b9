"""A comparison as one self-contained HTML page, in light and dark."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import fields
from importlib.resources import files
from io import BytesIO, StringIO
from typing import Any

from torch import Tensor

from ...pictures.heatmaps import colours
from ...pictures.plots import Theme
from . import plots
from .drawing import draw
from .kernel_pictures import kernel_layer, kernel_limit, kernel_pictures, rgb, shown_heat_maps, shown_kernels
from .results import Comparison, headline, table

__all__ = ["render"]

# Colours that no picture uses; they are replaced by the page's own, which follow its theme.
_PLACEHOLDERS = Theme(
    ink="#010203", muted="#010204", grid="#010205", paper="#010206", convolution="#010207", involution="#010208"
)


def render(comparison: Comparison, record: Mapping[str, Any]) -> str:
    """Return the page.

    Args:
        comparison: what was measured.
        record: of the same comparison, for date, command, commit, machine and versions.

    Raises:
        ImportError: Jinja2 is missing.
    """
    try:
        from jinja2 import Environment
    except ImportError as error:
        raise ImportError('the report needs Jinja2; install it with: pip install "involution[train]"') from error
    source = files(__package__).joinpath("report.html.jinja").read_text(encoding="utf-8")
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(source)
    samples = comparison.samples
    rows = table(comparison)
    largest = {id(row): max(max(row.values.values()), 1e-12) for row in rows}
    kernels = shown_kernels(samples)
    return template.render(
        comparison=comparison,
        headline=headline(comparison),
        operators=list(comparison.layers),
        rows=[(row, {o: 100 * v / largest[id(row)] for o, v in row.values.items()}) for row in rows],
        curves=_themed_svg(plots.curves(comparison, _PLACEHOLDERS)),
        architecture=draw(comparison.layers, tuple(samples.images.shape[1:])),
        strip=[
            {"label": label, "image": _image(rgb(image)), "heat": _image(heat), "kernels": _image(picture)}
            for label, image, heat, picture in zip(
                samples.labels,
                samples.images,
                colours(shown_heat_maps(samples)),
                kernel_pictures(kernels),
            )
        ],
        kernel={
            "size": "×".join(map(str, kernels.shape[1:3])),
            "grid": "×".join(map(str, kernels.shape[-2:])),
            "layer": 1 + list(samples.kernels).index(kernel_layer(samples)),
        },
        explorer={
            "shape": list(kernels.shape[1:]),
            "limit": kernel_limit(kernels),
            # Pixel after pixel, the weights of its kernel.
            "weights": [[float(f"{w:.3g}") for w in field.permute(2, 3, 0, 1).flatten().tolist()] for field in kernels],
        },
        layers=[
            {
                "groups": maps.shape[1],
                "size": "×".join(map(str, maps.shape[-2:])),
                "pictures": [[_image(tile) for tile in picture] for picture in colours(maps)],
            }
            for maps in samples.heat_maps.values()
        ],
        record=record,
    )


def _themed_svg(figure: Any) -> str:
    """Return a figure drawn with `_PLACEHOLDERS` as SVG that takes its colours and its font from the page."""
    from matplotlib import rc_context

    text = StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "involution"}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    for field in fields(_PLACEHOLDERS):
        svg = svg.replace(getattr(_PLACEHOLDERS, field.name), f"var(--{field.name})")
    return svg


def _image(pixels: Tensor) -> str:
    """Return uint8 (H, W, 3) as a data address."""
    from PIL import Image

    buffer = BytesIO()
    Image.fromarray(pixels.numpy()).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + b64encode(buffer.getvalue()).decode()
