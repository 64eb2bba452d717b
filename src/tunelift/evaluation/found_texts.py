"""What baselines that find texts without a model share: whether they suit, and the rows of what they find."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tunelift.core.records import Example, Scores
from tunelift.evaluation.baselines.base import Given
from tunelift.evaluation.measures import measure_for
from tunelift.evaluation.nearest import NO_OTHER
from tunelift.evaluation.plan import Plan
from tunelift.evaluation.rows import Found, answered, begun, metric_entry, slices_of
from tunelift.run_files.layout import FORMAT


def misfit(plan: Plan, train: Sequence[Example]) -> str | None:
    """Say why these baselines do not suit the plan, or return None."""
    if "ranks" not in measure_for(plan).gives:
        return "it finds texts, and no metric here is of their places"
    return "there are no training rows" if not train else None


def found_scores(given: Given, by: tuple[str, str], examples: Sequence[Example], found: Mapping[int, Found]) -> Scores:
    """Return the rows of what was found `by` a baseline (name, description), and the aggregates; no likelihoods."""
    metrics = [metric for metric in given.plan.metrics if metric.needs in ("ranks", "numbers")]
    rows = []
    for i, (example, values) in enumerate(zip(examples, slices_of(examples, given.plan.slices), strict=True)):
        answer = answered(example, found[i], metrics) if i in found else {"metrics": {}, "unscored": NO_OTHER}
        rows.append(begun(example, values) | {k: v for k, v in answer.items() if k not in ("log_likelihood", "tokens")})
    info = {
        "format": FORMAT,
        "items": len(rows),
        "unscored": sum("unscored" in row for row in rows),
        "metrics": {metric.name: metric_entry(metric, rows) for metric in metrics},
        "made_with": {"task": given.plan.task.name, **given.made_by(*by)},
    }
    return Scores(rows, info)
