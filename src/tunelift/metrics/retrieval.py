"""Metrics of retrieval: at which places a query's own texts stand among all, the nearest first.

Each is a query's own number, and the mean over queries their value (Manning, Raghavan and Schuetze 2008, chapter 8);
sentence-transformers' InformationRetrievalEvaluator has the same: hit@1 is its accuracy@1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from tunelift.metrics.registry import METRICS, Answer, Metric

DEEPEST = 100
"""Places beyond this one are not kept."""


def hit(answer: Answer, at: int) -> float:
    """Return 1 where one of its own texts is among the first `at`, else 0."""
    return float(any(rank <= at for rank in answer.ranks))


def recall(answer: Answer, at: int) -> float:
    """Return the share of its own texts that are among the first `at`."""
    return sum(rank <= at for rank in answer.ranks) / answer.relevant


def reciprocal_rank(answer: Answer, at: int) -> float:
    """Return 1 over the place of the first of its own texts, 0 where none is among the first `at`."""
    first = min(answer.ranks, default=at + 1)
    return 1 / first if first <= at else 0.0


def ndcg(answer: Answer, at: int) -> float:
    """Return the discounted gain of its own texts among the first `at`, in relation to the best order."""
    gain = math.fsum(1 / math.log2(rank + 1) for rank in answer.ranks if rank <= at)
    return gain / math.fsum(1 / math.log2(rank + 1) for rank in range(1, min(answer.relevant, at) + 1))


def _score(of: Callable[[Answer, int], float], at: int) -> Callable[[Answer], float]:
    return lambda answer: of(answer, at)


for _name, _of, _depths in (
    ("hit", hit, (1, 5, 10, 100)),
    ("recall", recall, (1, 5, 10, 100)),
    ("mrr", reciprocal_rank, (10, 100)),
    ("ndcg", ndcg, (10, 100)),
):
    for _at in _depths:
        _metric = Metric(f"{_name}@{_at}", _score(_of, _at), "ranks", "graded", bounds=(0.0, 1.0))
        METRICS.add(_metric.name, replace(_metric, kind="binary") if _of is hit else _metric)
