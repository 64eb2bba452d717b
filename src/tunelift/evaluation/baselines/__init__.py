"""What a tuned model should beat besides its own base: answers to the same items that need no tuning.

A baseline knows the training rows only, so that validation can tell which is the strongest. Its scores
are ordinary scores, with the items' plain inputs.
"""

from __future__ import annotations

from collections.abc import Sequence

from tunelift.core.errors import InputError, did_you_mean, listed
from tunelift.core.records import Example
from tunelift.core.registry import Registry
from tunelift.evaluation import endpoint
from tunelift.evaluation.baselines import (
    bm25,
    few_shot,
    larger_model,
    linear_probe,
    majority,
    mean,
    median,
    pixels,
    span_regression,
    tf_idf,
    tf_idf_cosine,
    word_majority,
    word_regression,
)
from tunelift.evaluation.baselines.base import Baseline, Given, Kind
from tunelift.evaluation.plan import Plan

LARGER = "larger-model"

__all__ = ["BASELINES", "Baseline", "Given", "suitable"]

BASELINES: Registry[Kind] = Registry("baseline")
BASELINES.add("few-shot", Kind(few_shot.misfit, few_shot.FewShot))
BASELINES.add("majority", Kind(majority.misfit, majority.Majority))
BASELINES.add("mean", Kind(mean.misfit, mean.make))
BASELINES.add("median", Kind(median.misfit, median.make))
BASELINES.add("pixels", Kind(pixels.misfit, pixels.Pixels))
BASELINES.add("tf-idf", Kind(tf_idf.misfit, tf_idf.TfIdf))
BASELINES.add("linear-probe", Kind(linear_probe.misfit, linear_probe.LinearProbe))
BASELINES.add("tf-idf-cosine", Kind(tf_idf_cosine.misfit, tf_idf_cosine.Cosine))
BASELINES.add("bm25", Kind(bm25.misfit, bm25.BM25))
BASELINES.add("larger-model", Kind(larger_model.misfit, larger_model.LargerModel))
BASELINES.add("span-regression", Kind(span_regression.misfit, span_regression.SpanRegression))
BASELINES.add("word-majority", Kind(word_majority.misfit, word_majority.WordMajority))
BASELINES.add("word-regression", Kind(word_regression.misfit, word_regression.WordRegression))


def suitable(plan: Plan, train: Sequence[Example], named: Sequence[str] | None) -> list[str]:
    """Return the names of the baselines to measure: those `named`, or all that fit the plan and the rows (None).

    Raises InputError, with every problem found, for names that do not exist or do not fit.
    """
    reason = larger_model.misfit(plan, train)
    if plan.larger_model is not None:
        if reason or (named is not None and LARGER not in named):
            raise InputError(
                f"larger_model.address is named, and {reason or f'evaluate.baselines does not name {LARGER}'}.",
                fix="Leave the address out, or the list of baselines.",
            )
        endpoint.check(plan.larger_model)
    if named is None:
        return [name for name in BASELINES if BASELINES.get(name).misfit(plan, train) is None]
    problems = []
    for name in dict.fromkeys(named):
        if name not in BASELINES:
            problems.append(f'evaluate.baselines: there is no baseline "{name}".{did_you_mean(name, BASELINES)}')
        elif reason := BASELINES.get(name).misfit(plan, train):
            problems.append(f"evaluate.baselines: {name} does not fit: {reason}.")
    if problems:
        fitting = suitable(plan, train, None)
        raise InputError(*problems, fix=f"Those that fit here: {listed(fitting) or 'none'}; [] measures none.")
    return list(dict.fromkeys(named))
