"""The most frequent training label, or set of labels, whatever the item."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tunelift.core.records import Example, Scores
from tunelift.evaluation import predicting
from tunelift.evaluation.baselines.base import Given
from tunelift.evaluation.measures import measure_for
from tunelift.evaluation.plan import Plan
from tunelift.evaluation.rows import Found


def misfit(plan: Plan, train: Sequence[Example]) -> str | None:
    """Say why this baseline does not suit the plan and the training rows, or return None."""
    if not measure_for(plan).gives & {"label", "label-set"}:
        return "it predicts labels, and no metric here ranks any"
    return predicting.misfit(plan, train, likelihoods=False)


class Majority:
    """Answers every item alike; of equally frequent labels with the one that sorts first."""

    def __init__(self, given: Given) -> None:
        self.given = given
        counts = Counter(example.completion for example in given.train)
        self.label = min(counts, key=lambda label: (-counts[label], label))
        what = "set of labels" if "label-set" in measure_for(given.plan).gives else "training label"
        said = f'"{self.label.strip()}"' if self.label.strip() else "none"
        self.description = f"the most frequent {what} ({said})"

    def score(self, examples: Sequence[Example], title: str) -> Scores:
        """Return the scores of the one label."""
        made_by, found = self.given.made_by("majority", self.description), Found(self.label, tokens=1)
        return predicting.predicted_rows(self.given.plan, made_by, examples, [found] * len(examples), likelihoods=False)
