"""matplotlib's drawings as inline SVG, in colours that the page's style sheet sets for light and dark.

They are the loss over the steps, the smallest difference that the items can show, and how often answers are right whose
stated probability was about so high.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# matplotlib takes no CSS variables, so these stand in for them until the SVG is text.
INK, TRAIN, VALIDATION = "#010101", "#020202", "#030303"
VARIABLES = {INK: "var(--muted)", TRAIN: "var(--train)", VALIDATION: "var(--validation)"}

Points = Sequence[tuple[float, float]]
MOST_POINTS = 300


def loss_points(events: Sequence[Mapping[str, Any]], kind: str) -> list[tuple[float, float]]:
    """Return (step, loss) of each event of a kind ("train" or "validation") that has a finite loss."""
    steps = {event["step"]: event for event in events if event.get("event") == kind and "step" in event}
    # A training that was killed and went on has some steps twice.
    return [(step, event["loss"]) for step, event in sorted(steps.items()) if _finite(event.get("loss"))]


def thinned(points: Points, most: int = MOST_POINTS) -> tuple[list[tuple[float, float]], int]:
    """Average neighbouring points so that at most `most` are left; return them and how many stand in each."""
    width = max(1, math.ceil(len(points) / most))
    groups = [points[start : start + width] for start in range(0, len(points), width)]
    return [(group[-1][0], sum(loss for _, loss in group) / len(group)) for group in groups], width


def loss_curve(train: Points, validation: Points, best: Points) -> str:
    """Return both losses over the steps, a ring around the best, as an `<svg>` element."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        plain_axes(axes, "step", "loss", steps=True)
        if train:
            axes.plot(*_columns(train), color=TRAIN, linewidth=1.2, label="training")
        if validation:
            steps, losses = _columns(validation)
            axes.plot(steps, losses, "o-", color=VALIDATION, linewidth=1.2, markersize=4, label="validation")
        if best:
            axes.scatter(*_columns(best), s=81, facecolors="none", edgecolors=VALIDATION, label="best", zorder=3)
        axes.legend(frameon=False, labelcolor=INK, loc="upper right")

    return drawn("loss", "Training and validation loss over optimiser steps", (4.8, 2.5), draw)


def power_curve(power: Mapping[str, Any]) -> str:
    """Return the smallest visible difference over the assumed discordance, both as shares, as an `<svg>` element.

    A difference cannot exceed the share of answers that change: the dashed line. Empty where nothing can be seen.
    """
    points = [(point["discordance"], point["smallest"]) for point in power.get("curve") or []]
    visible = [(share, smallest) for share, smallest in points if smallest is not None]
    if not visible:
        return ""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        plain_axes(axes, "share of answers that change (assumed)", "smallest difference seen")
        top = 1.25 * max(smallest for _, smallest in visible)
        axes.plot([0, top], [0, top], color=INK, linewidth=1, dashes=(3, 3), label="all changes are gains")
        axes.plot(*_columns(visible), "o-", color=VALIDATION, linewidth=1.2, markersize=4, label="smallest difference")
        axes.set(xlim=(0, 1.05 * max(share for share, _ in points)), ylim=(0, top))
        axes.legend(frameon=False, labelcolor=INK, loc="lower right")

    return drawn("power", "Smallest difference seen, over the assumed share of answers that change", (4.8, 2.5), draw)


def _columns(points: Points) -> tuple[list[float], list[float]]:
    return [step for step, _ in points], [loss for _, loss in points]


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def reliability_diagram(bins: Sequence[Mapping[str, Any]], side: str) -> str:
    """Return share right over mean stated probability, with each bin's interval and its items below, as `<svg>`.

    Both axes run from 0 to 1; on the dashed diagonal probabilities are what they say.
    """
    filled = [entry for entry in bins if entry.get("items")]

    def draw(figure: Figure) -> None:
        from matplotlib.ticker import MaxNLocator

        shares, items = figure.subplots(2, 1, height_ratios=(4, 1), sharex=True)
        stated = [entry["confidence"] for entry in filled]
        plain_axes(shares, "", "share right")
        shares.plot([0, 1], [0, 1], color=INK, linewidth=1, dashes=(3, 3))
        for entry in filled:
            if entry.get("interval"):
                shares.plot([entry["confidence"]] * 2, entry["interval"], color=VALIDATION, linewidth=1.6)
        shares.plot(stated, [entry["accuracy"] for entry in filled], "o", color=VALIDATION)
        shares.set(xlim=(0, 1), ylim=(0, 1))
        shares.tick_params(labelbottom=False)
        plain_axes(items, "stated probability of the answer", "items")
        items.yaxis.set_major_locator(MaxNLocator(nbins=2, integer=True))
        items.bar(stated, [entry["items"] for entry in filled], width=0.035, color=TRAIN)
        items.set_ylim(0, None)

    return drawn(f"reliability-{side}", f"Reliability diagram, {side} model", (3.3, 3.7), draw)


def coverage_curve(calibration: Mapping[str, Any]) -> str:
    """Return share right over share answered of both sides, with the points chosen on validation, as `<svg>`.

    Empty where there are no such curves.
    """
    sides = {side: calibration.get(side) or {} for side in ("base", "tuned")}
    curves = {side: entry["curve"] for side, entry in sides.items() if entry.get("curve")}
    if not curves:
        return ""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        plain_axes(axes, "share of cases answered", "share right")
        for side, colour in (("base", TRAIN), ("tuned", VALIDATION)):
            if side in curves:
                axes.plot(*_columns(curves[side]), color=colour, linewidth=1.4, label=side)
            for point in sides[side].get("points") or []:
                if point["right"] is not None:
                    axes.scatter(
                        point["answered"], point["right"], s=49, facecolors="none", edgecolors=colour, zorder=3
                    )
        axes.set(xlim=(0, 1.02), ylim=(None, 1.02))
        axes.legend(frameon=False, labelcolor=INK, loc="best")

    return drawn("coverage", "Share right over the share of cases answered", (4.8, 2.5), draw)


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
