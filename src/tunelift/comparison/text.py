"""A comparison as text: the verdict in a sentence, a small table, what it rests on, and a few flips."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunelift.comparison.numbers import decimals, interval_text, level_text, p_figure, p_text

if TYPE_CHECKING:
    from tunelift.comparison.results import Comparison, MetricResult

SHOWN_FLIPS = 3
_LONGEST = 60


def describe(comparison: Comparison) -> str:
    """Return the comparison as plain text of several lines."""
    parts = [
        sentence(comparison), _table(comparison), _baselines(comparison), _rests_on(comparison), _slices(comparison),
        _flips(comparison),
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part)


def sentence(comparison: Comparison) -> str:
    """Return the verdict in one sentence: the word, the metric, both values, the difference and its interval.

    Where a baseline is stronger than the base, the sentence is about that; beating the base alone is said as such.
    """
    result = comparison.judged
    base, tuned, difference = _values(result)
    interval = result.effect.interval
    extent = "" if interval is None else f", {level_text(comparison.level)} interval {interval_text(*interval)}"
    return f"{_opening(comparison)} on {result.name}: {base} -> {tuned} ({difference}{extent}; {result.counted})."


def _opening(comparison: Comparison) -> str:
    against, word = comparison.against, comparison.verdict
    if against == "base":
        return {
            "better": "The tuned model is better than the base model",
            "worse": "The tuned model is worse than the base model",
            "equivalent": "The tuned and the base model are equivalent",
            "different": "The tuned and the base model differ, and which is better is not known,",
            "inconclusive": "It is not clear which is better, the tuned or the base model,",
        }[word]
    if word != "better" and comparison.metrics[comparison.headline].verdict.word == "better":
        judged = {
            "worse": "is worse than",
            "equivalent": "is equivalent to",
            "different": "differs from",
            "inconclusive": "is not shown to be better than",
        }[word]
        return f"The tuned model beats zero-shot only: it {judged} {against}, the strongest baseline,"
    return {
        "better": f"The tuned model is better than {against}, the strongest baseline,",
        "worse": f"The tuned model is worse than {against}, the strongest baseline,",
        "equivalent": f"The tuned model and {against}, the strongest baseline, are equivalent",
        "different": f"The tuned model and {against}, the strongest baseline, differ, either way,",
        "inconclusive": f"It is not clear which is better, the tuned model or {against}, the strongest baseline,",
    }[word]


def _values(result: MetricResult) -> tuple[str, str, str]:
    """Base, tuned and difference, with as many decimals as the interval deserves."""
    interval = result.effect.interval
    places = max(3, decimals(interval[1] - interval[0])) if interval else 3
    if not result.items:
        return "-", "-", "-"
    return f"{result.base:.{places}f}", f"{result.tuned:.{places}f}", f"{result.effect.difference:+.{places}f}"


def _table(comparison: Comparison) -> str:
    head = ["metric", "base", "tuned", "difference", f"{level_text(comparison.level)} interval", "p", "verdict"]
    rows = [_table_row(result, result.name) for result in comparison.metrics.values()]
    rows += [
        _table_row(result, f"{result.name} on {name}, for forgetting") for name, result in comparison.forgetting.items()
    ]
    return _aligned([head, *rows])


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _baselines(comparison: Comparison) -> str:
    """The tuned model against each baseline on the same items, with the validation value that chose the strongest."""
    if not comparison.baselines:
        return ""
    validation = comparison.selection.values if comparison.selection else {}
    rows = [[f"baseline ({comparison.headline})", "validation", "test", "tuned", "difference", "interval", "tuned is"]]
    about = []
    for name, found in comparison.baselines.items():
        _, *cells = _table_row(found.result, name)
        known = f"{validation[name]:.3f}" if name in validation else "-"
        rows.append([name, known, *cells[:4], cells[-1]])
        about.append(f"{name}: {_short(found.description, 110)}.")
    if chosen := comparison.selection:
        base = f"base, zero-shot: {chosen.values['base']:.3f}"
        about.append(f"Strongest on {chosen.rows} validation rows: {chosen.strongest} ({base}).")
    return "\n".join([_aligned(rows), *about])


def _slices(comparison: Comparison) -> str:
    tables = []
    for column, values in comparison.slices.items():
        head = [column, "items", "base", "tuned", "difference", "interval", "verdict"]
        rows = [head]
        for value, result in values.items():
            name, *cells = _table_row(result, _short(value))
            rows.append([name, _counted(result), *cells[:4], cells[-1]])
        tables.append(_aligned(rows))
    return "\n\n".join(tables)


def _counted(result: MetricResult) -> str:
    one_sided = result.effect.one_sided
    return f"{result.items} of {result.items + one_sided}" if one_sided else str(result.items)


def _table_row(result: MetricResult, name: str) -> list[str]:
    interval = result.effect.interval
    return [
        f"{name} (lower is better)" if result.higher_is_better is False else name,
        *_values(result),
        "-" if interval is None else interval_text(*interval),
        p_figure(result.p_adjusted),
        result.verdict.word,
    ]


def _rests_on(comparison: Comparison) -> str:
    result = comparison.judged
    lines = [f"Why: {result.verdict.reason}", f"Test: {_test(result)}.", f"It speaks of {comparison.claim}."]
    if result.verdict.no_worse is not None:
        shown = "shown" if result.verdict.no_worse else "not shown"
        lines.append(f"No worse by {comparison.margin:g} or more: {shown}.")
    if len(comparison.metrics) > 2:
        lines.append("The p of the further metrics are corrected for their number (Holm).")
    if recipe := comparison.recipe:
        over = f"Over {len(recipe['seeds'])} seeds ({recipe['claim']})"
        lines.append(f"{over}: {recipe['verdict']}; {recipe['reason']}")
    if alone := comparison.without_duplicates:
        removed, difference = comparison.items - alone.items, _values(alone)[2]
        lines.append(
            f"Without the {removed} test items that training rows repeat: {difference} against the base, "
            f"{alone.verdict.word} ({alone.counted})."
        )
    if calibration := comparison.calibration:
        lines.append(
            "Calibration error of the labels' probabilities (lower is better): "
            f"{calibration['base']['ece']:.3f} -> {calibration['tuned']['ece']:.3f}."
        )
    if comparison.looks is not None and comparison.looks > 1:
        lines.append(f"This is look {comparison.looks} at these test items; the error rates hold for the first.")
    lines += [
        f"Left out of the values: {count} ({reason})."
        for reason, count in Counter(r for _, r in comparison.left_out).items()
    ]
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
    known = comparison.metrics[comparison.headline].higher_is_better is not None
    moved = {"gained": "gained", "lost": "lost"} if known else {"gained": "rose", "lost": "fell"}
    lines = [f"Items that changed on {comparison.headline}, {'worst' if known else 'those that fell'} first:"]
    for flip in comparison.flips[:SHOWN_FLIPS]:
        lines.append(f"  {moved.get(flip['direction'])}  {_short(flip['id'])}: {_short(flip['input'])}")
        answered = any(flip[side] is not None for side in ("base", "tuned"))
        sides = {side: flip[side] for side in ("reference", *["base", "tuned"] * answered)}
        if any(sides.values()):
            lines.append("    " + ", ".join(f"{side} {_quoted(value)}" for side, value in sides.items()))
    more = len(comparison.flips) - SHOWN_FLIPS
    return "\n".join([*lines, f"  ... and {more} more"] if more > 0 else lines)


def _quoted(value: Any) -> str:
    return "none" if value is None else f'"{_short(value)}"'


def _short(value: Any, longest: int = _LONGEST) -> str:
    """One line of printable text: a model's output must not move the terminal's cursor or colour it."""
    folded = " ".join(str(value).split())
    printable = "".join(letter for letter in folded if letter.isprintable())
    return printable if len(printable) <= longest else printable[: longest - 3] + "..."
