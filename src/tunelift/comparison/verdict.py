"""From an effect to a verdict, and the sentence that says why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tunelift.comparison import power
from tunelift.comparison.effect import Effect
from tunelift.wording.numbers import interval_text, level_text, p_text

Word = Literal["better", "worse", "equivalent", "different", "inconclusive"]
"""`different`: a difference is shown, and nobody says whether a higher value is better."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The word, its reason, and (only with a margin) whether tuned is shown to be no worse than the margin allows."""

    word: Word
    reason: str
    no_worse: bool | None = None


@dataclass(frozen=True, slots=True)
class Scale:
    """A metric's name, and whether a higher value is better; None where nobody says."""

    name: str
    higher_is_better: bool | None

    def word(self, sign: int) -> Word:
        """Return the word for a difference that is shown, above 0 or below."""
        if self.higher_is_better is None:
            return "different"
        return "better" if (sign > 0) == self.higher_is_better else "worse"

    @property
    def aside(self) -> str:
        """What a reason adds about the direction."""
        if self.higher_is_better is None:
            return f"; {unknown_direction(self.name)}"
        return "" if self.higher_is_better else " (lower is better)"

    def no_worse(self, low: float, high: float, margin: float | None) -> bool | None:
        """Return whether an interval's bad end stays inside the margin; without a direction both ends must."""
        if margin is None:
            return None
        bad = {True: (low,), False: (-high,), None: (low, -high)}[self.higher_is_better]
        return all(end > -margin for end in bad)


def unknown_direction(name: str) -> str:
    """Return that nobody says whether a higher value is better, and how the user can."""
    return (
        f"whether a higher {name} is better is not known, so it is called neither: "
        f'say --lower-better "{name}" or --higher-better "{name}"'
    )


def headline_verdict(effect: Effect, items: int, scale: Scale, level: float, margin: float | None) -> Verdict:
    """The verdict on the chosen metric: from the interval of the paired difference, or else from p.

    With a margin (in the metric's units, what a difference must exceed to matter), an interval inside it is
    `equivalent` even where it excludes 0, and `no_worse` says whether the interval's bad end stays inside it.
    """
    if effect.interval is None:
        no_worse = None if margin is None else False
        if effect.p is None:
            return Verdict("inconclusive", f"{effect.missing}.", no_worse)
        found = _by_p(effect, effect.p, scale, level, "")
        return Verdict(found.word, f"{effect.missing}; by the {effect.test}, {found.reason}", no_worse)
    low, high = effect.interval
    shown = f"the {level_text(level)} interval of the difference, {interval_text(low, high)},"
    no_worse = scale.no_worse(low, high, margin)
    if margin is not None and -margin < low and high < margin:
        return Verdict("equivalent", f"{shown} lies within {margin:g} on either side of 0.", no_worse)
    if low > 0 or high < 0:
        where = f"lies {'above' if low > 0 else 'below'} 0{_for_missing(effect, ', whatever')}{scale.aside}"
        return Verdict(scale.word(1 if low > 0 else -1), f"{shown} {where}.", no_worse)
    why = f"{shown} contains 0{_for_missing(effect, ' for some of what')}; {_detectable(effect, items, level)}."
    return Verdict("inconclusive", why, no_worse)


def further_verdict(effect: Effect, p_adjusted: float | None, scale: Scale, level: float, over: str) -> Verdict:
    """The verdict on one of several further questions: from its p after Holm's correction over them.

    `over` says how many there are of what ("3 further metrics"); it is empty for one alone.
    """
    if p_adjusted is None:
        return Verdict("inconclusive", f"{effect.missing}.")
    return _by_p(effect, p_adjusted, scale, level, f" (Holm's, over {over})" if over else "")


def _by_p(effect: Effect, p: float, scale: Scale, level: float, corrected: str) -> Verdict:
    limit = 1 - level
    shown = f"{p_text(p)}{corrected}"
    if p >= limit or effect.sign == 0:
        return Verdict("inconclusive", f"{shown} is not below {limit:.2g}{_for_missing(effect, ' for some of what')}.")
    if effect.leaning is None:
        where = f"the difference {'above' if effect.sign > 0 else 'below'} 0"
    else:
        where = f"more items {'rose' if effect.sign > 0 else 'fell'}"
    found = f"{shown} is below {limit:.2g} and {where}{_for_missing(effect, ', whatever')}{scale.aside}."
    return Verdict(scale.word(effect.sign), found)


def _for_missing(effect: Effect, how: str) -> str:
    return f"{how} the {effect.unknown} missing scores could have been" if effect.unknown else ""


def _detectable(effect: Effect, items: int, level: float) -> str:
    """What these data could have shown: the power curve for right/wrong items, the interval's half width otherwise."""
    if effect.rose is not None:
        return power.describe(items, level)
    assert effect.interval is not None
    return f"differences much smaller than {(effect.interval[1] - effect.interval[0]) / 2:.2g} cannot be seen here"
