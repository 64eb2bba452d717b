"""The most frequent training label, or set of labels, whatever the item."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tunelift.core.records import Example, Options, Scores
from tunelift.evaluation import predicting
from tunelift.evaluation.baselines.base import Given
from tunelift.evaluation.measures import measure_for
from tunelift.evaluation.plan import Plan
from tunelift.evaluation.predicted_options import have_options
from tunelift.evaluation.rows import Found


def misfit(plan: Plan, train: Sequence[Example]) -> str | None:
    """Say why this baseline does not suit the plan and the training rows, or return None."""
    if not measure_for(plan).gives & {"label", "label-set"}:
        return "it predicts labels, and no metric here ranks any"
    return predicting.misfit(plan, train, likelihoods=False)


class Majority:
    """Answers every item alike; of equally frequent labels with the one that sorts first.

    Of items with options of their own it takes the one at the most frequent place.
    """

    def __init__(self, given: Given) -> None:
        self.given = given
        self.places = have_options(given.train)
        counts = Counter(map(self._said, given.train))
        self.label = min(counts, key=lambda label: (-counts[label], label))
        if self.places:
            self.description = f"the option that stands where most right ones of train do (number {int(self.label)})"
            return
        what = "set of labels" if "label-set" in measure_for(given.plan).gives else "training label"
        said = f'"{self.label.strip()}"' if self.label.strip() else "none"
        self.description = f"the most frequent {what} ({said})"

    def score(self, examples: Sequence[Example], title: str) -> Scores:
        """Return the scores of the one label."""
        made_by = self.given.made_by("majority", self.description)
        found = [Found(self._answer(example), tokens=1) for example in examples]
        return predicting.predicted_rows(self.given.plan, made_by, examples, found, likelihoods=False)

    def _said(self, example: Example) -> str:
        """Return what a training row says: its label, or where its right option stands, from 1 on."""
        given = example.given
        place = given.texts.index(example.completion) if self.places and isinstance(given, Options) else None
        return example.completion if place is None else f"{place + 1:03d}"

    def _answer(self, example: Example) -> str:
        given = example.given
        if not isinstance(given, Options):
            return self.label
        return given.texts[min(int(self.label), len(given.texts)) - 1]
