"""From an effect to a verdict, and the sentence that says why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tunelift.comparison import power
from tunelift.comparison.numbers import interval_text, level_text, p_text
from tunelift.comparison.paired_tests import Effect

Word = Literal["better", "worse", "equivalent", "inconclusive"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The word, its reason, and (only with a margin) whether tuned is shown to be no worse than the margin allows."""

    word: Word
    reason: str
    no_worse: bool | None = None


def headline_verdict(effect: Effect, items: int, higher_is_better: bool, level: float, margin: float | None) -> Verdict:
    """The verdict on the chosen metric: from the interval of the paired difference.

    With a margin (in the metric's units, what a difference must exceed to matter), an interval inside it is
    `equivalent` even where it excludes 0, and `no_worse` says whether the interval's bad end stays inside it.
    """
    if effect.interval is None:
        return Verdict("inconclusive", f"{effect.missing}.", None if margin is None else False)
    low, high = effect.interval
    shown = f"the {level_text(level)} interval of the difference, {interval_text(low, high)},"
    bad_end = low if higher_is_better else -high
    no_worse = None if margin is None else bad_end > -margin
    if margin is not None and -margin < low and high < margin:
        return Verdict("equivalent", f"{shown} lies within {margin:g} on either side of 0.", no_worse)
    if low > 0 or high < 0:
        word: Word = "better" if (low > 0) == higher_is_better else "worse"
        return Verdict(word, f"{shown} lies {'above' if low > 0 else 'below'} 0{_lower(higher_is_better)}.", no_worse)
    return Verdict("inconclusive", f"{shown} contains 0; {_detectable(effect, items, level)}.", no_worse)


def further_verdict(
    effect: Effect, p_adjusted: float | None, higher_is_better: bool, level: float, over: str
) -> Verdict:
    """The verdict on one of several further questions: from its p after Holm's correction over them.

    `over` says how many there are of what ("3 further metrics"); it is empty for one alone.
    """
    if p_adjusted is None:
        return Verdict("inconclusive", f"{effect.missing}.")
    limit = 1 - level
    shown = p_text(p_adjusted) + (f" (Holm's, over {over})" if over else "")
    if p_adjusted >= limit or effect.difference == 0:
        return Verdict("inconclusive", f"{shown} is not below {limit:.2g}.")
    word: Word = "better" if (effect.difference > 0) == higher_is_better else "worse"
    side = "above" if effect.difference > 0 else "below"
    return Verdict(word, f"{shown} is below {limit:.2g} and the difference {side} 0{_lower(higher_is_better)}.")


def _lower(higher_is_better: bool) -> str:
    return "" if higher_is_better else " (lower is better)"


def _detectable(effect: Effect, items: int, level: float) -> str:
    """What these data could have shown: the power curve for right/wrong items, the interval's half width otherwise."""
    if effect.rose is not None:
        return power.describe(items, level)
    assert effect.interval is not None
    return f"differences much smaller than {(effect.interval[1] - effect.interval[0]) / 2:.2g} cannot be seen here"
