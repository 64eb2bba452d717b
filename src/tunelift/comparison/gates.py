"""Gates: what a comparison must show for a command to succeed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tunelift.comparison.results import Comparison, MetricResult
from tunelift.comparison.verdict import Scale, unknown_direction
from tunelift.core.errors import InputError, did_you_mean, listed
from tunelift.wording.numbers import interval_text, level_text

Kind = Literal["better", "no worse"]


@dataclass(frozen=True, slots=True)
class Gate:
    """What was required of the tuned model on one metric, against the base, and what was found."""

    kind: Kind
    metric: str
    passed: bool
    found: str

    def __str__(self) -> str:
        outcome = "passed" if self.passed else "failed"
        return f"Gate {outcome}: {self.kind} on {self.metric} was required; {self.found}"


def check_gates(comparison: Comparison, better: Sequence[str], no_worse: Sequence[str]) -> list[Gate]:
    """Return a gate for each metric of `better` and `no_worse`, in this order.

    `better` passes where the verdict against the base is better: for the headline metric by its interval, for a further
    one by Holm's p; with a margin, an improvement inside it is equivalent and does not pass. `no_worse` passes where
    the bad end of the interval against the base stays inside the comparison's margin (in the metric's own units);
    several of them need no correction, since all must pass. Raises InputError for a metric that was not compared, and
    for `no_worse` without a margin.
    """
    if not better and not no_worse:
        return []
    metrics, names = comparison.metrics, dict.fromkeys([*better, *no_worse])
    if unknown := [name for name in names if name not in metrics]:
        raise InputError(
            *(f'A gate is about "{name}", which was not compared.{did_you_mean(name, metrics)}' for name in unknown),
            fix=f"Compared are: {listed(metrics)}.",
        )
    # Without a direction a gate would pass on either half.
    if unknown := [name for name in names if metrics[name].higher_is_better is None]:
        raise InputError(*(f"A gate on {name} cannot be checked: {unknown_direction(name)}." for name in unknown))
    if no_worse and comparison.margin is None:
        raise InputError(
            f"No worse on {listed(no_worse)} was required, but no margin was set.",
            fix="Set the difference that is too small to matter, in the metric's units.",
        )
    gates = []
    for name in dict.fromkeys(better):
        verdict = metrics[name].verdict
        found = f"the verdict is {verdict.word}: {verdict.reason}"
        gates.append(Gate("better", name, verdict.word == "better", found))
    return gates + [_no_worse(name, metrics[name], comparison) for name in dict.fromkeys(no_worse)]


def gate_metric(metric: str | None, better: Sequence[str], no_worse: Sequence[str]) -> str | None:
    """Return the headline's metric: `metric` where that is given, or the one that all gates are about."""
    names = {*better, *no_worse}
    return names.pop() if metric is None and len(names) == 1 else metric


def _no_worse(name: str, result: MetricResult, comparison: Comparison) -> Gate:
    margin, interval = comparison.margin, result.effect.interval
    assert margin is not None
    if interval is None:
        return Gate("no worse", name, False, f"no interval is known: {result.effect.missing}.")
    passed = bool(Scale(name, result.higher_is_better).no_worse(*interval, margin))
    shown = f"the {level_text(comparison.level)} interval of the difference, {interval_text(*interval)},"
    limit = f"{-margin:g}" if result.higher_is_better else f"{margin:+g}"
    return Gate("no worse", name, passed, f"{shown} {'stays short of' if passed else 'reaches'} {limit}.")
