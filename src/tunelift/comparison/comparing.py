"""Compare base and tuned on the same items: read, pair, test, judge."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tunelift.comparison import text
from tunelift.comparison.flips import Flip, find_flips
from tunelift.comparison.measured import Measured, chosen, common_metrics, effect_of, measure
from tunelift.comparison.paired_tests import holm
from tunelift.comparison.pairing import LeftOut, Side, Source, pair, read_side
from tunelift.comparison.results import MetricResult
from tunelift.comparison.verdict import Word, further_verdict, headline_verdict
from tunelift.core.errors import InputError
from tunelift.core.records import FORMAT

CLAIM = "this adapter, on items like these"
"""What one training run can show; that another seed would do as well takes several runs."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The answer: is the tuned model better, by how much, and what does that rest on.

    `str()` gives it to read, `to_dict()` is comparison.json. `flips` are the items that changed on the headline metric,
    worst first; `left_out` the items not compared, with their reasons; `notes` what a reader should know besides.
    """

    headline: str
    metrics: dict[str, MetricResult]
    level: float
    margin: float | None
    left_out: list[LeftOut]
    flips: list[Flip]
    notes: list[str]
    claim: str = CLAIM

    @property
    def verdict(self) -> Word:
        """The headline's verdict: better, worse, equivalent or inconclusive."""
        return self.metrics[self.headline].verdict.word

    @property
    def items(self) -> int:
        """How many items the headline rests on."""
        return self.metrics[self.headline].items

    def to_dict(self) -> dict[str, Any]:
        """Return comparison.json: plain values only, and no NaN."""
        return {
            "format": FORMAT,
            "items": self.items,
            "left_out": len(self.left_out),
            "level": self.level,
            "margin": self.margin,
            "metrics": {name: result.to_dict() for name, result in self.metrics.items()},
            "headline": {"metric": self.headline, "against": "base"},
            "claim": self.claim,
            "baselines": {},
            "flips": {
                direction: [flip["id"] for flip in self.flips if flip["direction"] == direction]
                for direction in ("gained", "lost")
            },
            "notes": self.notes,
        }

    def __str__(self) -> str:
        return text.describe(self)


def compare(
    base: Source, tuned: Source, *, metric: str | None = None, margin: float | None = None, level: float = 0.95
) -> Comparison:
    """Compare two sides that answered the same items, pair by pair.

    A side is a scores.jsonl file, a folder that holds one, a run folder (its tuned side is meant), a list of such
    rows, or what `evaluate` returned. The verdict is about `metric` (base's first one otherwise): it follows from the
    interval at `level` of tuned - base. `margin`, in the metric's units, is the difference that would matter; with it a
    verdict can be `equivalent`. Raises InputError where the sides cannot be compared: other items, other content under
    an id, ids twice, no common metric, another prompt, decoding, label scoring, task or length.
    """
    _check_settings(margin, level)
    one, other = read_side(base, "base"), read_side(tuned, "tuned")
    pairs, left_out = pair(one, other)
    names, alone = common_metrics(one, other, pairs)
    headline = chosen(metric, names)
    measured = {name: measure(name, one, other, pairs) for name in names}
    if not measured[headline].pairs:
        raise InputError(f"No item has a finite {headline} on both sides.", fix="Choose another metric.")
    empty = [name for name in names if not measured[name].pairs]
    return Comparison(
        headline=headline,
        metrics=_judge({name: measured[name] for name in names if name not in empty}, headline, level, margin),
        level=level,
        margin=margin,
        left_out=[*left_out, *measured[headline].left_out],
        flips=find_flips(measured[headline]),
        notes=_notes(one, other, alone, empty),
    )


def _judge(measured: dict[str, Measured], headline: str, level: float, margin: float | None) -> dict[str, MetricResult]:
    """Test every metric; the headline by its interval, the others by Holm's p over the others."""
    effects = {name: effect_of(values, level) for name, values in measured.items()}
    further = {name: effect.p for name, effect in effects.items() if name != headline and effect.p is not None}
    adjusted = dict(zip(further, holm(list(further.values())), strict=True))
    results = {}
    for name, values in measured.items():
        effect, count, higher = effects[name], len(values.pairs), values.higher_is_better
        if name == headline:
            p_adjusted, verdict = effect.p, headline_verdict(effect, count, higher, level, margin)
        else:
            p_adjusted = adjusted.get(name)
            verdict = further_verdict(effect, p_adjusted, higher, level, len(adjusted))
        results[name] = MetricResult(name, count, higher, *values.aggregates, effect, p_adjusted, verdict)
    return results


def _notes(base: Side, tuned: Side, alone: Sequence[str], empty: Sequence[str]) -> list[str]:
    notes = [f"{name} is there on one side only and is not compared." for name in alone]
    notes += [f"{name} has no finite value on both sides of any item and is not compared." for name in empty]
    dtypes = [(side.info.get("made_with") or {}).get("dtype") for side in (base, tuned)]
    if None not in dtypes and dtypes[0] != dtypes[1]:
        notes.append(f"base was computed in {dtypes[0]}, tuned in {dtypes[1]}: part of the difference may be rounding.")
    return notes


def _check_settings(margin: float | None, level: float) -> None:
    problems = []
    if margin is not None and not (margin > 0 and math.isfinite(margin)):
        problems.append(f"margin is {margin:g}; it must be a number above 0, in the metric's units.")
    if not 0.5 <= level < 1:
        problems.append(f"level is {level:g}; it must be from 0.5 to below 1, such as 0.95.")
    if problems:
        raise InputError(*problems)
