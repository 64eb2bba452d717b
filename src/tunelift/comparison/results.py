"""What was found for one metric: both values, the effect, the verdict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tunelift.comparison.paired_tests import Effect
from tunelift.comparison.verdict import Verdict


@dataclass(frozen=True, slots=True)
class MetricResult:
    """One metric compared. `base` and `tuned` are means of the items' own values over the paired items.

    So their difference is the one tested, for loss, perplexity and bits per byte too; the aggregates in metrics.json
    weigh these by tokens or bytes and can differ.
    """

    name: str
    items: int
    higher_is_better: bool
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
            "higher_is_better": self.higher_is_better,
            "base": self.base,
            "tuned": self.tuned,
            "difference": effect.difference,
            "interval": None if effect.interval is None else list(effect.interval),
            "p": effect.p,
            "p_exact": effect.p_exact,
            "p_adjusted": self.p_adjusted,
            "test": effect.test,
            "verdict": self.verdict.word,
            "reason": self.verdict.reason,
            "discordant": self.discordant,
            "clusters": effect.clusters,
            "no_worse": self.verdict.no_worse,
        }
        optional = ("p_exact", "discordant", "clusters", "no_worse")
        return {key: value for key, value in entry.items() if value is not None or key not in optional}

    @property
    def discordant(self) -> dict[str, int] | None:
        """How many items were gained and lost, for a right/wrong metric of independent items."""
        rose, fell = self.effect.rose, self.effect.fell
        if rose is None or fell is None:
            return None
        return {"gained": rose, "lost": fell} if self.higher_is_better else {"gained": fell, "lost": rose}
