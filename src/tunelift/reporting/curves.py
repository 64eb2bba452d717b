"""The loss over the steps, and the smallest difference that the items can show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tunelift.reporting.svg import INK, TRAIN, VALIDATION, drawn, plain_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
