"""Options predicted from features: each by itself as right or wrong, then the one of its item that is likeliest."""

from __future__ import annotations

from collections.abc import Sequence

from tunelift.core.records import Example, Options
from tunelift.evaluation.rows import Found, labelled
from tunelift.tasks.multiple_choice import RIGHT, WRONG, each_option, options_in


def have_options(examples: Sequence[Example]) -> bool:
    """Tell whether examples have options of their own to choose from."""
    return any(isinstance(example.given, Options) for example in examples)


def apart(examples: Sequence[Example]) -> list[Example]:
    """Return an example for each option of each item, right or wrong; examples without options as they are."""
    if not have_options(examples):
        return list(examples)
    return [part for example in examples for part in each_option(example)]


def together(examples: Sequence[Example], found: Sequence[Found]) -> list[Found]:
    """Return an answer for each item from those for its options: the options share its probability by their odds."""
    from scipy.special import log_softmax

    if not have_options(examples):
        return list(found)
    answers, each = list[Found](), iter(found)
    for example in examples:
        texts = options_in(example).texts
        odds = [one.label_scores[RIGHT] - one.label_scores[WRONG] for one in (next(each) for _ in texts)]
        scores = dict(zip(texts, map(float, log_softmax(odds)), strict=True))
        answers.append(labelled(example.completion, scores, None, tokens=1))
    return answers
