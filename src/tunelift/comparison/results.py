"""What was found: for one metric both values, the effect and the verdict; and all of it together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tunelift.comparison import power
from tunelift.comparison.effect import Effect
from tunelift.comparison.flips import Flip
from tunelift.comparison.pairing import LeftOut
from tunelift.comparison.verdict import Verdict, Word
from tunelift.run_files.layout import FORMAT
from tunelift.wording import comparison_text as text

CLAIM = "this tuned model, on items like these"
"""What one training run can show; that another seed would do as well takes several runs."""

BASE = "base"
"""The name of the base model among the baselines: it answers without examples and without training (zero-shot)."""


@dataclass(frozen=True, slots=True)
class MetricResult:
    """One metric compared. `base` and `tuned` are its values over the paired items.

    For a metric of single items these are means of the items' own values; for loss, perplexity and bits per byte they
    weigh by tokens or bytes. `higher_is_better` is None where nobody says, and the verdict then names no better side.
    `items` are those with a value on both sides, rows of equal content being one.
    """

    name: str
    items: int
    higher_is_better: bool | None
    base: float
    tuned: float
    effect: Effect
    p_adjusted: float | None
    verdict: Verdict

    def to_dict(self) -> dict[str, Any]:
        """Return the metric's entry in comparison.json; what cannot be known is null."""
        effect = self.effect
        entry = {
            "items": self.items,
            "one_sided": effect.one_sided or None,
            "higher_is_better": self.higher_is_better,
            "base": finite(self.base),
            "tuned": finite(self.tuned),
            "difference": finite(effect.difference),
            "interval": None if effect.interval is None else list(effect.interval),
            "p": effect.p,
            "p_exact": effect.p_exact,
            "p_permutation": effect.p_permutation,
            "p_adjusted": self.p_adjusted,
            "test": effect.test,
            "verdict": self.verdict.word,
            "reason": self.verdict.reason,
            "discordant": self.discordant,
            "clusters": effect.clusters,
            "no_worse": self.verdict.no_worse,
        }
        optional = ("one_sided", "p_exact", "p_permutation", "discordant", "clusters", "no_worse")
        return {key: value for key, value in entry.items() if value is not None or key not in optional}

    @property
    def discordant(self) -> dict[str, int] | None:
        """How many items were gained and lost, for a right/wrong metric of independent items and a sign test."""
        rose, fell = self.effect.rose, self.effect.fell
        if rose is None or fell is None or self.higher_is_better is None:
            return None
        return {"gained": rose, "lost": fell} if self.higher_is_better else {"gained": fell, "lost": rose}


@dataclass(frozen=True, slots=True)
class BaselineResult:
    """The tuned model against one baseline on the same test items; `result.base` is the baseline's value."""

    description: str
    result: MetricResult


@dataclass(frozen=True, slots=True)
class Selection:
    """Which baseline is the strongest, by the headline metric on validation rows; "base" is the base itself."""

    rows: int
    values: Mapping[str, float]
    strongest: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """The answer: is the tuned model better, by how much, and what does that rest on.

    `str()` gives it to read, `to_dict()` is comparison.json. `metrics` hold tuned against base; `against` names what
    the verdict is about, the strongest of `baselines` on validation or "base". `flips` are the items that changed on
    the headline metric, worst first; `quantising` holds a base in few bits against the same in full precision;
    `left_out` the items not compared, with their reasons; `notes` what a reader should know besides.
    """

    headline: str
    metrics: dict[str, MetricResult]
    level: float
    margin: float | None
    left_out: list[LeftOut]
    flips: list[Flip]
    notes: list[str]
    claim: str = CLAIM
    against: str = BASE
    baselines: dict[str, BaselineResult] = field(default_factory=dict)
    selection: Selection | None = None
    recipe: dict[str, Any] | None = None
    slices: dict[str, dict[str, MetricResult]] = field(default_factory=dict)
    without_duplicates: MetricResult | None = None
    calibration: dict[str, Any] | None = None
    forgetting: dict[str, MetricResult] = field(default_factory=dict)
    quantising: dict[str, MetricResult] = field(default_factory=dict)
    looks: int | None = None

    @property
    def verdict(self) -> Word:
        """The headline's verdict: better, worse, equivalent, different (no direction is known) or inconclusive."""
        return self.judged.verdict.word

    @property
    def judged(self) -> MetricResult:
        """The result that the verdict is about: the headline metric, against the base or the strongest baseline."""
        return self.metrics[self.headline] if self.against == BASE else self.baselines[self.against].result

    @property
    def items(self) -> int:
        """How many items the headline rests on."""
        return self.metrics[self.headline].items

    def to_dict(self) -> dict[str, Any]:
        """Return comparison.json: plain values only, and no NaN."""
        verdict, selection, alone = self.judged.verdict, self.selection, self.without_duplicates
        entries: dict[str, Any] = {
            "format": FORMAT,
            "items": self.items,
            "left_out": len(self.left_out),
            "level": self.level,
            "margin": self.margin,
            "headline": {
                "metric": self.headline,
                "against": self.against,
                "verdict": verdict.word,
                "reason": verdict.reason,
            },
            "metrics": _entries(self.metrics),
            "selection": selection and {
                "rows": selection.rows,
                "metric": self.headline,
                "values": dict(selection.values),
                "strongest": selection.strongest,
            },
            "baselines": {
                name: {"description": found.description, **found.result.to_dict()}
                for name, found in self.baselines.items()
            },
            "recipe": self.recipe,
            "slices": {column: _entries(values) for column, values in self.slices.items()},
            "without_duplicates": alone and {"removed": self.items - alone.items, **alone.to_dict()},
            "calibration": self.calibration,
            "forgetting": {
                name: {"metric": result.name, **result.to_dict()} for name, result in self.forgetting.items()
            },
            "quantising": _entries(self.quantising),
            "power": self._power(),
            "looks": self.looks,
            "claim": self.claim,
            "flips": {
                direction: [flip["id"] for flip in self.flips if flip["direction"] == direction]
                for direction in ("gained", "lost")
            },
            "notes": self.notes,
        }  # fmt: skip
        entries["headline"]["sentence"] = text.sentence(entries)
        return entries

    def __str__(self) -> str:
        return text.describe(self.to_dict(), self.flips, [reason for _, reason in self.left_out])

    def _power(self) -> dict[str, Any] | None:
        """The curve of a right/wrong headline metric of independent items; it says nothing of others."""
        effect = self.metrics[self.headline].effect
        if effect.rose is None or effect.one_sided:
            return None
        curve = power.curve(self.items, self.level)
        return {"items": self.items, "level": self.level, "power": power.POWER, "curve": curve}


def finite(value: float) -> float | None:
    """Return a number as JSON can hold it: None where it is none."""
    return value if math.isfinite(value) else None


def _entries(results: Mapping[str, MetricResult]) -> dict[str, Any]:
    return {name: result.to_dict() for name, result in results.items()}
