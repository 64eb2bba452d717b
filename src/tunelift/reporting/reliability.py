"""The reliability diagram: how often answers are right whose stated probability was about so high."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tunelift.reporting.svg import INK, TRAIN, VALIDATION, drawn, plain_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def reliability_diagram(bins: Sequence[Mapping[str, Any]], side: str) -> str:
    """Return share right over mean stated probability, with each bin's interval and its items below, as `<svg>`.

    Both axes run from 0 to 1; on the dashed diagonal probabilities are what they say.
    """
    filled = [entry for entry in bins if entry.get("items")]

    def draw(figure: Figure) -> None:
        upper, lower = figure.subplots(2, 1, height_ratios=(4, 1), sharex=True)
        _shares(upper, filled)
        _items(lower, filled)

    return drawn(f"reliability-{side}", f"Reliability diagram, {side} model", (3.3, 3.7), draw)


def _shares(axes: Axes, bins: Sequence[Mapping[str, Any]]) -> None:
    plain_axes(axes, "", "share right")
    axes.plot([0, 1], [0, 1], color=INK, linewidth=1, dashes=(3, 3))
    for entry in bins:
        if entry.get("interval"):
            axes.plot([entry["confidence"]] * 2, entry["interval"], color=VALIDATION, linewidth=1.6)
    axes.plot([entry["confidence"] for entry in bins], [entry["accuracy"] for entry in bins], "o", color=VALIDATION)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.tick_params(labelbottom=False)


def _items(axes: Axes, bins: Sequence[Mapping[str, Any]]) -> None:
    from matplotlib.ticker import MaxNLocator

    plain_axes(axes, "stated probability of the answer", "items")
    axes.yaxis.set_major_locator(MaxNLocator(nbins=2, integer=True))
    axes.bar([entry["confidence"] for entry in bins], [entry["items"] for entry in bins], width=0.035, color=TRAIN)
    axes.set_ylim(0, None)
