"""pass@k: how likely one at least of k sampled answers is right (Chen et al. 2021, arXiv 2107.03374).

Of an item n answers are sampled and c of them are right. Of the n, k can be drawn in C(n, k) ways, and in C(n - c, k)
of them none is right, so that 1 - C(n - c, k) / C(n, k) is an unbiased estimate: an item has one value, whatever n
is.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from math import comb

from tunelift.core.errors import InputError
from tunelift.metrics.registry import WITH_ARGUMENT, Answer, Metric, resolve

FORM = "pass_at:5-of-20:numeric_match: k, how many answers are drawn, and what makes one right"

MOST = 1000

_COUNTS = re.compile(r"(?P<k>[1-9]\d{0,3})(?:-of-(?P<drawn>[1-9]\d{0,3}))?")


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Return the estimate for an item of so many samples, of which so many are right; k is at most their number."""
    return 1.0 - comb(samples - right, k) / comb(samples, k)


def pass_at(argument: str) -> Metric:
    """Return the metric of K-of-N:METRIC, or K:METRIC, for which twice as many answers are drawn, and ten at least.

    METRIC must be 0 or 1 for each answer, and read its text alone. Raises InputError for another form, for fewer
    answers than k, and for a metric that is no such one.
    """
    counts, _, name = argument.partition(":")
    found = _COUNTS.fullmatch(counts)
    k = int(found["k"]) if found else 0
    drawn = int(found["drawn"]) if found and found["drawn"] else max(10, 2 * k)
    if not name or not 0 < k <= drawn <= MOST:
        raise InputError(
            f'The metric "pass_at:{argument}" is no k of at most {MOST} answers, and a metric.', fix=f"Such as {FORM}."
        )
    (inner,) = resolve([name])
    judge = inner.score
    if inner.needs != "text" or judge is None or not inner.higher_is_better:
        raise InputError(
            f'The metric "pass_at:{argument}": {name} does not tell from an answer\'s text whether it is right.',
            fix="Take one that is 0 or 1, such as exact_match, numeric_match, regex_match:PATTERN or FILE.py:FUNCTION.",
        )
    own, score = f"pass_at:{k}-of-{drawn}:{inner.name}", _score(k, drawn, judge, name)
    made = Metric(own, score, "samples", bounds=(0, 1), samples=drawn)
    return replace(made, package=inner.package, defined_by=inner.defined_by)


def _score(k: int, drawn: int, judge: Callable[[Answer], float], name: str) -> Callable[[Answer], float]:
    def score(answer: Answer) -> float:
        values = [judge(replace(answer, prediction=text)) for text in answer.samples[:drawn]]
        if wrong := next((value for value in values if value not in (0, 1)), None):
            raise InputError(
                f"pass_at:{k}:{name}: {name} gave {wrong!r:.20} for an answer, and whether it is right is 0 or 1.",
                fix="Take a metric that is 0 or 1.",
            )
        return pass_at_k(len(values), int(sum(values)), k)

    return score


WITH_ARGUMENT.add("pass_at", pass_at)
