"""The effect on one metric by the test that fits, for all that missing scores could have been, and what it is judged.

An item that only one side has a score for must not vanish: a model that fails on the hard half would look better. Where
the values have bounds, interval and p hold for every value within them. Where they have none, a mean says nothing; an
infinite value is still worse than any number (a loss that overflowed), so a sign test may speak, in which a score that
is missing counts both ways.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from tunelift.comparison.draws import Floats
from tunelift.comparison.effect import Effect, members
from tunelift.comparison.measured import Measured
from tunelift.comparison.paired_tests import holm, paired_effect, ratio_effect
from tunelift.comparison.pairing import clusters_of, distinct
from tunelift.comparison.results import MetricResult
from tunelift.comparison.simultaneous import step_down
from tunelift.comparison.verdict import Scale, further_verdict, headline_verdict

FILLS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of the missing scores that are taken at the end that favours tuned, the others at the other end: through them
the mean moves one way, and its spread may be largest between."""


def judged(measured: Measured, level: float, margin: float | None = None) -> MetricResult:
    """Return one metric's result, judged by its interval: for the one question that was asked."""
    effect, higher = effect_of(measured, level), measured.higher_is_better
    verdict = headline_verdict(effect, measured.items, Scale(measured.name, higher), level, margin)
    return MetricResult(measured.name, measured.items, higher, *measured.aggregates, effect, effect.p, verdict)


def judged_together(
    measured: Mapping[str, Measured], level: float, what: str, *, same_items: bool = False
) -> dict[str, MetricResult]:
    """Return the results of several questions beside the first, judged by p corrected over them.

    `what` names them in the reasons, such as "slices". The correction is Holm's; with `same_items`, where all are
    about the same ones, it is the step-down maximum if every item has a difference of its own.
    """
    effects = {name: effect_of(values, level) for name, values in measured.items()}
    # By name, so that the order in which they are given changes no draw.
    known = {name: p for name in sorted(effects) if (p := effects[name].p) is not None}
    columns = [_differences(measured[name]) for name in known] if same_items else []
    together = [column for column in columns if column is not None]
    if len(together) == len(known) > 1 and len({len(column) for column in together}) == 1:
        corrected = step_down(list(known.values()), np.stack(together, axis=1))
    else:
        corrected = holm(list(known.values()))
    adjusted = dict(zip(known, corrected, strict=True))
    results = {}
    for name, values in measured.items():
        p, higher = adjusted.get(name), values.higher_is_better
        verdict = further_verdict(
            effects[name], p, Scale(values.name, higher), level, f"{len(adjusted)} {what}" if len(adjusted) > 1 else ""
        )
        results[name] = MetricResult(values.name, values.items, higher, *values.aggregates, effects[name], p, verdict)
    return results


def _differences(measured: Measured) -> Floats | None:
    """Return how each unit pulls at the difference, (units,); None where there is no such thing.

    A unit is an item, or a cluster of them. It pulls by tuned minus base; of a ratio, by what it adds beyond its share.
    """
    if measured.one_sided or measured.of_items is not None:
        return None
    base, tuned = measured.by_distinct()
    if measured.value is None:
        pulls = tuned - base
    elif measured.of_ratio is not None and np.array_equal(base[:, 1], tuned[:, 1]):
        nats, weight = tuned[:, 0] - base[:, 0], base[:, 1]
        pulls = nats - weight * (nats.sum() / weight.sum())
    else:
        return None
    clusters = clusters_of(measured.pairs)
    return pulls if clusters is None else np.bincount(members(clusters)[0], weights=pulls).astype(float)


def effect_of(measured: Measured, level: float) -> Effect:
    """Return the effect over the items, rows of equal content being one.

    An interval ends where the metric's scale does: the difference of two accuracies is never beyond -1 and 1.
    """
    effect, scale = _effect_of(measured, level), measured.scale
    if effect.interval is None or scale is None:
        return effect
    return replace(effect, interval=within(effect.interval, scale))


def within(interval: tuple[float, float], scale: tuple[float, float]) -> tuple[float, float]:
    """Return what of an interval of a difference of two values of a scale can be; 0 is as far within as it was."""
    widest = scale[1] - scale[0]
    return max(interval[0], -widest), min(interval[1], widest)


def _effect_of(measured: Measured, level: float) -> Effect:
    one_sided = measured.one_sided
    if not one_sided:
        return _effect(measured, level)
    base, tuned = measured.aggregates if measured.items else (0.0, 0.0)
    difference = tuned - base
    if measured.of_set:
        missing = f"{_share(measured)}, and a value of the whole set has no bounds for the others"
        return Effect(difference, "none", missing=missing, one_sided=one_sided)
    known = measured.bounds
    effect = _signs(measured, level) if known is None else _bounded(measured, known, level)
    return replace(effect, difference=difference, one_sided=one_sided)


def _effect(measured: Measured, level: float) -> Effect:
    clusters = clusters_of(measured.pairs)
    base, tuned = measured.by_distinct()
    if measured.of_items is not None:
        from tunelift.comparison.resampling import items_effect

        return items_effect(base, tuned, measured.of_items, clusters, level)
    if measured.value is None:
        return paired_effect(base, tuned, clusters, level)
    if measured.of_ratio is not None and np.array_equal(base[:, 1], tuned[:, 1]):
        return ratio_effect(base, tuned, measured.of_ratio, clusters, level)
    from tunelift.comparison.resampling import corpus_effect

    return corpus_effect(base, tuned, measured.value, clusters, level)


def _bounded(measured: Measured, bounds: tuple[float, float], level: float) -> Effect:
    fills = []
    for share in FILLS:
        # A mask of this share of the places, evenly spread.
        favoured = np.diff(np.floor(np.arange(len(measured.pairs) + 1) * share + 1e-9)) > 0
        base, tuned = measured.base.copy(), measured.tuned.copy()
        for side, ends in ((base, bounds[::-1]), (tuned, bounds)):
            side[~np.isfinite(side)] = np.where(favoured, ends[1], ends[0])[~np.isfinite(side)]
        fills.append(_effect(replace(measured, base=base, tuned=tuned), level))
    return replace(_for_all(fills), unknown=measured.one_sided)


def _signs(measured: Measured, level: float) -> Effect:
    """Whether tuned rose above base or fell below it, item by item; the values may be infinite, or missing."""
    worst = {True: -np.inf, False: np.inf, None: np.nan}[measured.higher_is_better]
    before, after = (np.where(np.isinf(side), worst, side) for side in (measured.base, measured.tuned))
    rose, fell = (after > before).astype(float), (after < before).astype(float)
    unknown = np.isnan(before) | np.isnan(after)
    fills = [
        _effect(replace(measured, base=fell + unknown * (not up), tuned=rose + unknown * up), level)
        for up in (False, True)
    ]
    both = _for_all(fills)
    return replace(
        both,
        unknown=distinct(measured.over(unknown).pairs)[1],
        test=f"sign test: {both.test}",
        interval=None,
        leaning=0.0 if both.interval is None else float((both.interval[0] > 0) - (both.interval[1] < 0)),
        rose=int(rose.sum()),
        fell=int(fell.sum()),
        missing=f"{_share(measured)} by a finite value, and a mean over these would leave the others out",
    )


def _for_all(fills: Sequence[Effect]) -> Effect:
    """Return what holds for every one of several effects: the widest interval, and a p that agrees with it."""
    first = next((effect for effect in fills if effect.interval is None), fills[0])
    if first.interval is None:
        return replace(first, p=None, p_exact=None, p_permutation=None)
    intervals = [effect.interval for effect in fills if effect.interval is not None]
    low, high = min(low for low, _ in intervals), max(high for _, high in intervals)
    agree = len({effect.sign for effect in fills}) == 1
    p = max(effect.p or 0.0 for effect in fills) if agree else 1.0
    return Effect(first.difference, first.test, (low, high), p, clusters=first.clusters)


def _share(measured: Measured) -> str:
    return f"{measured.items} of {measured.items + measured.one_sided} items are scored on both sides"
