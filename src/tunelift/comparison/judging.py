"""From a metric's values to its result: effect and verdict, for the one question asked or for several beside it."""

from __future__ import annotations

from collections.abc import Mapping

from tunelift.comparison.effects import effect_of
from tunelift.comparison.measured import Measured
from tunelift.comparison.paired_tests import holm
from tunelift.comparison.results import MetricResult
from tunelift.comparison.verdict import Scale, further_verdict, headline_verdict


def judged(measured: Measured, level: float, margin: float | None = None) -> MetricResult:
    """Return one metric's result, judged by its interval: for the one question that was asked."""
    effect, higher = effect_of(measured, level), measured.higher_is_better
    verdict = headline_verdict(effect, measured.items, Scale(measured.name, higher), level, margin)
    return MetricResult(measured.name, measured.items, higher, *measured.aggregates, effect, effect.p, verdict)


def judged_together(measured: Mapping[str, Measured], level: float, what: str) -> dict[str, MetricResult]:
    """Return the results of several questions beside the first, judged by p after Holm's correction over them.

    `what` names them in the reasons, such as "slices".
    """
    effects = {name: effect_of(values, level) for name, values in measured.items()}
    known = {name: effect.p for name, effect in effects.items() if effect.p is not None}
    adjusted = dict(zip(known, holm(list(known.values())), strict=True))
    results = {}
    for name, values in measured.items():
        p, higher = adjusted.get(name), values.higher_is_better
        verdict = further_verdict(
            effects[name], p, Scale(values.name, higher), level, f"{len(adjusted)} {what}" if len(adjusted) > 1 else ""
        )
        results[name] = MetricResult(values.name, values.items, higher, *values.aggregates, effects[name], p, verdict)
    return results
