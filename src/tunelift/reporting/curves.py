"""The loss curve as inline SVG, in colours that the page's style sheet sets for light and dark."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Points = Sequence[tuple[float, float]]

# matplotlib takes no CSS variables, so these stand in for them until the SVG is text.
INK, TRAIN, VALIDATION = "#010101", "#020202", "#030303"
VARIABLES = {INK: "var(--muted)", TRAIN: "var(--train)", VALIDATION: "var(--validation)"}
MOST_POINTS = 300


def loss_points(events: Sequence[dict[str, Any]], kind: str) -> list[tuple[float, float]]:
    """Return (step, loss) of each event of a kind ("train" or "validation") that has a finite loss."""
    chosen = [event for event in events if event.get("event") == kind and "step" in event]
    return [(event["step"], event["loss"]) for event in chosen if _finite(event.get("loss"))]


def thinned(points: Points, most: int = MOST_POINTS) -> tuple[list[tuple[float, float]], int]:
    """Average neighbouring points so that at most `most` are left; return them and how many stand in each."""
    width = max(1, math.ceil(len(points) / most))
    groups = [points[start : start + width] for start in range(0, len(points), width)]
    return [(group[-1][0], sum(loss for _, loss in group) / len(group)) for group in groups], width


def loss_curve(train: Points, validation: Points, best: Points) -> str:
    """Return both losses over the steps, a ring around the best, as an `<svg>` element in the page's colours."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "loss", "font.size": 10, "font.family": "sans-serif"}):
        figure = Figure(figsize=(6.4, 2.9), layout="constrained")
        axes = figure.add_subplot()
        _plain_axes(axes)
        if train:
            axes.plot(*_columns(train), color=TRAIN, linewidth=1.2, label="training")
        if validation:
            steps, losses = _columns(validation)
            axes.plot(steps, losses, "o-", color=VALIDATION, linewidth=1.2, markersize=4, label="validation")
        if best:
            axes.plot(
                *_columns(best), "o", markersize=9, markerfacecolor="none", markeredgecolor=VALIDATION, label="best"
            )
        axes.legend(frameon=False, labelcolor=INK, loc="upper right")
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(buffer.getvalue(), "Training and validation loss over optimiser steps")


def _plain_axes(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.tick_params(color=INK, labelcolor=INK, length=3)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.set_xlabel("step", color=INK)
    axes.set_ylabel("loss", color=INK)


def _columns(points: Points) -> tuple[list[float], list[float]]:
    return [step for step, _ in points], [loss for _, loss in points]


def _inline(svg: str, label: str) -> str:
    """Make a stand-alone SVG file an element of the page: themed, labelled, its ids kept apart from the page's."""
    svg = svg[svg.index("<svg") :]
    # A style sheet within an inline SVG would hold for the whole page.
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)
    svg = re.sub(r" font-family: [^;]*;", "", svg)
    svg = re.sub(r'\s(?:xmlns(?::\w+)?|version)="[^"]*"', "", svg)
    svg = svg.replace("xlink:href", "href").replace('id="', 'id="loss-').replace("#", "#loss-")
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour.replace("#", "#loss-"), variable)
    svg = re.sub(r'<svg[^>]*(viewBox="[^"]*")[^>]*>', r"<svg \1>", svg, count=1)
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
