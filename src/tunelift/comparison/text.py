"""A comparison as text: the verdict in a sentence, a small table, what it rests on, and a few flips."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from tunelift.comparison.numbers import decimals, interval_text, p_text

if TYPE_CHECKING:
    from rich.text import Text

    from tunelift.comparison.comparing import Comparison
    from tunelift.comparison.results import MetricResult

SHOWN_FLIPS = 3
_LONGEST = 60

_OPENINGS = {
    "better": "The tuned model is better than the base model",
    "worse": "The tuned model is worse than the base model",
    "equivalent": "The tuned and the base model are equivalent",
    "inconclusive": "It is not clear which is better, the tuned or the base model,",
}
_COLOURS = {"better": "bold green", "worse": "bold red", "equivalent": "bold cyan", "inconclusive": "bold yellow"}


def describe(comparison: Comparison) -> str:
    """Return the comparison as plain text of several lines."""
    parts = [sentence(comparison), _table(comparison), _rests_on(comparison), _flips(comparison)]
    return "\n\n".join(part for part in parts if part)


def styled(comparison: Comparison) -> Text:
    """Return the same text for a terminal, the first line in the verdict's colour."""
    from rich.text import Text

    text = Text(describe(comparison))
    text.stylize(_COLOURS[comparison.verdict], 0, len(sentence(comparison)))
    return text


def sentence(comparison: Comparison) -> str:
    """Return the verdict in one sentence: the word, the metric, both values, the difference and its interval."""
    result = comparison.metrics[comparison.headline]
    base, tuned, difference = _values(result)
    interval = result.effect.interval
    extent = "" if interval is None else f", {comparison.level:.0%} interval {interval_text(*interval)}"
    items = f"{result.items} item{'s' * (result.items != 1)}"
    return f"{_OPENINGS[comparison.verdict]} on {result.name}: {base} -> {tuned} ({difference}{extent}; {items})."


def _values(result: MetricResult) -> tuple[str, str, str]:
    """Base, tuned and difference, with as many decimals as the interval deserves."""
    interval = result.effect.interval
    places = max(3, decimals(interval[1] - interval[0])) if interval else 3
    return f"{result.base:.{places}f}", f"{result.tuned:.{places}f}", f"{result.effect.difference:+.{places}f}"


def _table(comparison: Comparison) -> str:
    head = ["metric", "base", "tuned", "difference", f"{comparison.level:.0%} interval", "p", "verdict"]
    rows = [head, *(_table_row(result) for result in comparison.metrics.values())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _table_row(result: MetricResult) -> list[str]:
    interval = result.effect.interval
    return [
        result.name if result.higher_is_better else f"{result.name} (lower is better)",
        *_values(result),
        "-" if interval is None else interval_text(*interval),
        "-" if result.p_adjusted is None else p_text(result.p_adjusted).removeprefix("p = ").removeprefix("p "),
        result.verdict.word,
    ]


def _rests_on(comparison: Comparison) -> str:
    result = comparison.metrics[comparison.headline]
    lines = [f"Why: {result.verdict.reason}", f"Test: {_test(result)}.", f"It speaks of {comparison.claim}."]
    if result.verdict.no_worse is not None:
        shown = "shown" if result.verdict.no_worse else "not shown"
        lines.append(f"No worse by {comparison.margin:g} or more: {shown}.")
    if len(comparison.metrics) > 2:
        lines.append("The p of the further metrics are corrected for their number (Holm).")
    lines += [f"Left out: {count} ({reason})." for reason, count in Counter(r for _, r in comparison.left_out).items()]
    return "\n".join([*lines, *(f"Note: {note}" for note in comparison.notes)])


def _test(result: MetricResult) -> str:
    effect = result.effect
    parts = [effect.test]
    if effect.clusters is not None:
        parts.append(f"{effect.clusters} clusters")
    if effect.p is not None:
        parts.append(p_text(effect.p))
    if effect.p_exact is not None:
        parts.append(f"exact {p_text(effect.p_exact)}")
    if counts := result.discordant:
        parts.append(f"{counts['gained']} items gained and {counts['lost']} lost")
    return ", ".join(parts)


def _flips(comparison: Comparison) -> str:
    if not comparison.flips:
        return ""
    lines = [f"Items that changed on {comparison.headline}, worst first:"]
    for flip in comparison.flips[:SHOWN_FLIPS]:
        lines.append(f"  {flip['direction']}  {_short(flip['id'])}: {_short(flip['input'])}")
        lines.append(
            f"    reference {_quoted(flip['reference'])}, base {_quoted(flip['base'])}, tuned {_quoted(flip['tuned'])}"
        )
    more = len(comparison.flips) - SHOWN_FLIPS
    return "\n".join([*lines, f"  ... and {more} more"] if more > 0 else lines)


def _quoted(value: Any) -> str:
    return "none" if value is None else f'"{_short(value)}"'


def _short(value: Any) -> str:
    """One line of printable text: a model's output must not move the terminal's cursor or colour it."""
    folded = " ".join(str(value).split())
    printable = "".join(letter for letter in folded if letter.isprintable())
    return printable if len(printable) <= _LONGEST else printable[: _LONGEST - 3] + "..."
