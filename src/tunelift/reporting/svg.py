"""matplotlib's drawings as inline SVG, in colours that the page's style sheet sets for light and dark."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# matplotlib takes no CSS variables, so these stand in for them until the SVG is text.
INK, TRAIN, VALIDATION = "#010101", "#020202", "#030303"
VARIABLES = {INK: "var(--muted)", TRAIN: "var(--train)", VALIDATION: "var(--validation)"}


def drawn(key: str, label: str, size: tuple[float, float], draw: Callable[[Figure], None]) -> str:
    """Return what `draw` puts into a figure of `size` inches as an `<svg>` element.

    `label` is read out in the drawing's place; `key` keeps its ids apart from those of the page's other drawings.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": key, "font.size": 9.5, "font.family": "sans-serif"}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(buffer.getvalue(), key, label)


def plain_axes(axes: Axes, across: str, up: str, *, steps: bool = False) -> None:
    """Leave two thin axes, labelled `across` and `up` with their units; `steps` keeps to whole numbers across."""
    from matplotlib.ticker import MaxNLocator

    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.tick_params(color=INK, labelcolor=INK, length=3)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=steps))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.set_xlabel(across, color=INK)
    axes.set_ylabel(up, color=INK)


def _inline(svg: str, key: str, label: str) -> str:
    """Make a stand-alone SVG file an element of the page: themed, labelled, its ids its own."""
    svg = svg[svg.index("<svg") :]
    # A style sheet within an inline SVG would hold for the whole page.
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)
    svg = re.sub(r" font-family: [^;]*;", "", svg)
    svg = re.sub(r'\s(?:xmlns(?::\w+)?|version)="[^"]*"', "", svg)
    svg = svg.replace("xlink:href", "href").replace('id="', f'id="{key}-').replace("#", f"#{key}-")
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour.replace("#", f"#{key}-"), variable)
    svg = re.sub(r'<svg[^>]*(viewBox="[^"]*")[^>]*>', r"<svg \1>", svg, count=1)
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
