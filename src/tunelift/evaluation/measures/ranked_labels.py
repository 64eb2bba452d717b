"""Which of the labels a language model finds likeliest behind each prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from tunelift.core.errors import InputError
from tunelift.core.progress import Advance
from tunelift.core.records import Example, Options
from tunelift.evaluation.measures.base import MEASURES, Compute, labels_how, short_hash
from tunelift.evaluation.measures.likelihood import Likelihood
from tunelift.evaluation.plan import Plan
from tunelift.evaluation.ranking import Plain, ranker
from tunelift.evaluation.rows import Found, labelled
from tunelift.evaluation.tree_ranking import FEW_LABELS, Tree

MOST_LABELS = 1000
"""More distinct completions than this are answers, not labels; ranking them all would take for ever."""


def enough_labels(labels: Sequence[str]) -> Sequence[str]:
    """Return labels to rank; raise InputError where there are too few or too many."""
    if not 2 <= len(labels) <= MOST_LABELS:
        raise InputError(
            f"Accuracy ranks the labels, and there are {len(labels)}; 2 to {MOST_LABELS} are allowed.",
            fix="Name the labels with data.labels, or take a metric of the text, such as exact_match.",
        )
    return labels


class RankedLabels(Likelihood):
    """The label ranked first is the prediction, and the text of metrics that need one."""

    gives = frozenset({"label", "text", "likelihood", "text-likelihood", "label-probabilities"})
    ranks = True

    @classmethod
    def tells_probabilities(cls, plan: Plan) -> bool:
        return len(plan.labels) <= FEW_LABELS or _finishes(plan)

    def labels(self, example: Example) -> Sequence[str]:
        """Return those of the plan, or an item's own options; raise InputError where there are too few or too many."""
        return enough_labels(example.given.texts if isinstance(example.given, Options) else self.plan.labels)

    def how(self) -> Mapping[str, Any]:
        own = [example.given.texts for example in self.examples if isinstance(example.given, Options)]
        how = {"score": self.plan.label_score, "options_hash": short_hash(own)} if own else labels_how(self.plan)
        return {**super().how(), "label_scoring": how}

    def beside(self) -> Mapping[str, Any]:
        """All labels are finished where a metric is of their probabilities: such rows hold more of them."""
        return {"all_labels": True} if _finishes(self.plan) and len(self.plan.labels) > FEW_LABELS else {}

    def prepared(self) -> Compute:
        view = self.view()
        shortest = min(self.fitting, key=lambda i: len(self.prompts[i]))
        sample = self.prompts[shortest], self.choices[shortest]
        rank, self.fast_paths["label_tree"] = ranker(view, self.model.device, self.plan.rows_at_once, sample)
        return partial(self._ranked, rank)

    def _ranked(self, rank: Plain | Tree, some: Sequence[int], advance: Advance) -> dict[int, Found]:
        by_mean, labels = self.plan.label_score == "mean", {i: list(self.labels(self.examples[i])) for i in some}
        # A mean over tokens may rise with a further token, so no label can be left out early. An item's own options are
        # few, and how sure of them the model is can be told where all are finished.
        own = any(isinstance(self.examples[i].given, Options) for i in some)
        finishes = own or _finishes(self.plan)
        needed = None if finishes else [self._place(self.examples[i].completion, labels[i]) for i in some]
        prompts, choices = [self.prompts[i] for i in some], [self.choices[i] for i in some]
        found = {}
        for i, ids, scores in zip(some, choices, rank.rank(prompts, choices, needed, advance), strict=True):
            lengths = dict(zip(labels[i], map(len, ids), strict=True)) if by_mean else None
            known = {label: s for label, s in zip(labels[i], scores, strict=True) if s is not None}
            found[i] = labelled(self.examples[i].completion, known, lengths, len(self.completions[i]))
        return found

    def _place(self, wanted: str, labels: list[str]) -> int | None:
        return labels.index(wanted) if wanted in labels else None


def _finishes(plan: Plan) -> bool:
    """Return whether all labels are read to their end: by their mean, or since a metric is of their probabilities."""
    return plan.label_score == "mean" or any(metric.needs == "label-probabilities" for metric in plan.metrics)


MEASURES.add("ranked-labels", RankedLabels)
