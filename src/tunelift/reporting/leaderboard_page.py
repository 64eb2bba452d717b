"""A leaderboard of a config as Markdown, with a figure of quality against what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tunelift.core import files
from tunelift.run_files.layout import LeaderboardPaths
from tunelift.wording import leaderboard_text as text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Summary = Mapping[str, Any]

AGAINST = (
    ("seconds", "seconds of training", 1.0),
    ("peak_bytes", "memory (GB)", 1e9),
    ("size_bytes", "size of what was made (MB)", 1e6),
    ("forgetting", "forgetting", 1.0),
)
"""What quality stands against: the cost, its axis, and what it is divided by."""


def write_leaderboard(paths: LeaderboardPaths, summary: Summary, left_out: Sequence[str]) -> None:
    """Write leaderboard.json, leaderboard.md and the figure beside it."""
    files.write_json(paths.summary, dict(summary))
    files.write_text(paths.figure, figure(summary))
    heading = f"# Leaderboard on {summary['metric']}\n\n"
    drawing = f"![Quality against time, memory, size and forgetting]({paths.figure.name})\n\n"
    blocks = text.describe(summary, left_out).split("\n\n") + text.further(summary)
    tables = [f"```\n{block}\n```" if "  " in block else block for block in blocks]
    files.write_text(paths.markdown, heading + drawing + "\n\n".join(tables) + "\n")


def figure(summary: Summary) -> str:
    """Return quality with its interval against each cost that is known, as a stand-alone SVG."""
    import io

    from matplotlib import rc_context
    from matplotlib.figure import Figure

    shown = [
        one for one in AGAINST if any(_cost(summary, c["name"], one[0]) is not None for c in summary["candidates"])
    ]
    settings = {"svg.fonttype": "none", "svg.hashsalt": "leaderboard", "font.size": 9, "font.family": "sans-serif"}
    with rc_context(settings):
        drawn = Figure(figsize=(4.2 * max(1, len(shown)), 3.4), layout="constrained")
        for axes, (key, label, unit) in zip(
            drawn.subplots(1, max(1, len(shown)), squeeze=False)[0], shown, strict=False
        ):
            _panel(axes, summary, key, label, unit)
        buffer = io.StringIO()
        drawn.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _panel(axes: Axes, summary: Summary, key: str, label: str, unit: float) -> None:
    """Draw every finalist: filled on the Pareto front, its interval of the difference from the base around it."""
    base, front = summary["base"], set(summary["front"])
    for one in summary["candidates"]:
        at = _cost(summary, one["name"], key)
        if at is None:
            continue
        colour = "#0b6bb3" if one["name"] in front else "#8a8a8a"
        if one["interval"] is not None:
            axes.plot([at / unit] * 2, [base + end for end in one["interval"]], color=colour, linewidth=1.4)
        fill = colour if one["name"] in front else "white"
        axes.plot([at / unit], [one["tuned"]], "o", color=colour, markerfacecolor=fill, markersize=6)
        axes.annotate(one["name"], (at / unit, one["tuned"]), xytext=(5, 4), textcoords="offset points")
    axes.axhline(base, color="#8a8a8a", linewidth=1, dashes=(3, 3))
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(f"{label} on {_set_of(summary)}" if key == "forgetting" else label)
    axes.set_ylabel(summary["metric"])
    axes.margins(x=0.15)


def _cost(summary: Summary, name: str, key: str) -> float | None:
    value = summary["costs"][name].get(key)
    return None if value is None else float(value)


def _set_of(summary: Summary) -> str:
    return next((str(cost["forgotten"]) for cost in summary["costs"].values() if cost["forgotten"]), "")
