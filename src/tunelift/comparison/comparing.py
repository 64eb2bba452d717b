"""Compare base and tuned on the same items: read, pair, test, judge."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tunelift.comparison.effects import judged, judged_together
from tunelift.comparison.flips import find_flips
from tunelift.comparison.looks_at_test_sets import count_look, test_hash, tuned_hash
from tunelift.comparison.measured import Directions, Measured, chosen, common_metrics, directions, measure
from tunelift.comparison.pairing import Pair, Side, Source, pair, read_side
from tunelift.comparison.probabilities import probability_calibration
from tunelift.comparison.readers import matched
from tunelift.comparison.results import Comparison, MetricResult
from tunelift.comparison.slices import slice_results
from tunelift.core.errors import InputError, did_you_mean, listed
from tunelift.core.records import ScoreRow
from tunelift.metrics.label_sets import NEUTRAL
from tunelift.metrics.spans import NEUTRAL_NONE

THRESHOLDS = {
    "threshold": (NEUTRAL, "labels apply from the probability {} on"),
    "none_threshold": (NEUTRAL_NONE, "no answer is given where none scores more than {} above the best span"),
}
"""By what "made_with" calls it: the threshold that holds where none was chosen, and what it does."""


def compare(
    base: Source,
    tuned: Source,
    *,
    metric: str | None = None,
    margin: float | None = None,
    level: float = 0.95,
    slices: Sequence[str] = (),
    higher_better: Sequence[str] = (),
    lower_better: Sequence[str] = (),
    columns: Mapping[str, str] | None = None,
) -> Comparison:
    """Compare two sides that answered the same items, pair by pair.

    A side is a file of scores (ours, or one of another tool), a folder that holds one, a run folder (its tuned side is
    meant), a list of such rows, or what `evaluate` returned. The verdict is about `metric` (base's first one
    otherwise): it follows from the interval at `level` of tuned - base. `margin`, in the metric's units, is the
    difference that would matter; with it a verdict can be `equivalent`. `slices` are keys of the rows whose values are
    compared each by itself, besides those the rows name. `higher_better` and `lower_better` name metrics whose
    direction neither the files nor their names say; without it a difference is shown, and no side is called better.
    `columns` says which column of a table is what: {"id": .., "input": .., "reference": .., "prediction": ..,
    "group": ..}. Raises InputError where the sides cannot be compared: other items, other content under an id, ids
    twice, no common metric, another prompt, decoding, label scoring, task or length.
    """
    if isinstance(base, str | Path) and isinstance(tuned, str | Path):
        base, tuned = matched(Path(base), Path(tuned))
    one, other = read_side(base, "base", columns), read_side(tuned, "tuned", columns)
    said = directions(higher_better, lower_better)
    return compare_sides(one, other, metric=metric, margin=margin, level=level, slices=slices, said=said)


def compare_sides(
    one: Side,
    other: Side,
    *,
    metric: str | None,
    margin: float | None,
    level: float,
    slices: Sequence[str] = (),
    said: Directions | None = None,
    validation: Mapping[str, Sequence[ScoreRow]] | None = None,
) -> Comparison:
    """Compare base and tuned as they were read; see `compare`. `validation` has rows of each side to calibrate by."""
    _check_settings(margin, level)
    pairs, left_out = pair(one, other)
    names, alone = common_metrics(one, other, pairs)
    if unknown := [name for name in said or () if name not in names]:
        hints = (f'"{name}" is not compared, so it needs no direction.{did_you_mean(name, names)}' for name in unknown)
        raise InputError(*hints, fix=f"Compared are: {listed(names)}.")
    measured = {name: measure(name, one, other, pairs, said) for name in names}
    headline = chosen(metric, {name: values.higher_is_better for name, values in measured.items()})
    if not measured[headline].items:
        raise InputError(_nowhere(measured[headline]), fix="Choose another metric.")
    empty = [name for name in names if not measured[name].items]
    results = {headline: judged(measured[headline], level, margin)}
    further = {name: measured[name] for name in names if name not in (headline, *empty)}
    results |= judged_together(further, level, "further metrics")
    notes = [str(note) for side in (one, other) for note in side.info.get("notes") or []]
    notes += [f"{name} is there on one side only and is not compared." for name in alone]
    notes += [_nowhere(measured[name]) for name in empty]
    scoring = (one.info.get("made_with") or {}).get("label_scoring")
    labels = scoring.get("labels") if isinstance(scoring, Mapping) else None  # how many each item was ranked by
    return Comparison(
        headline=headline,
        metrics={name: results[name] for name in names if name not in empty},
        level=level,
        margin=margin,
        left_out=[*left_out, *measured[headline].left_out],
        flips=find_flips(measured[headline]),
        notes=list(dict.fromkeys([*notes, *_notes_on(one, other, measured[headline])])),
        slices=slice_results(measured[headline], level, slices),
        without_duplicates=_without_duplicates(measured[headline], level, margin),
        calibration=probability_calibration(pairs, level, labels, validation),
        looks=count_look(test_hash(one.rows.values()), tuned_hash(other.rows.values())),
    )


def _nowhere(measured: Measured) -> str:
    """Say that no item has a metric on both sides, and why the first has not."""
    return f"No item has {measured.name} on both sides: {measured.left_out[0].reason}."


def _without_duplicates(headline: Measured, level: float, margin: float | None) -> MetricResult | None:
    """Return the headline over the test items that no training row repeats, where there are others."""
    repeats = np.array([any(row.get("duplicate_of") for row in (item.base, item.tuned)) for item in headline.pairs])
    kept = headline.over(~repeats)
    return None if not repeats.any() or not kept.items else judged(kept, level, margin)


def _notes_on(base: Side, tuned: Side, headline: Measured) -> Iterator[str]:
    """Say what a reader should know besides: of items that tell less than they seem to, and of how they were made."""
    yield from _sameness(headline.pairs)
    rows, items = len(headline.over(headline.both).pairs), headline.items
    if rows > items:
        yield (
            f"{rows} rows are {items} items: rows of equal input and reference are averaged first, since they tell "
            "no more than one."
        )
    made: list[Any] = [side.info.get("made_with") or {} for side in (base, tuned)]
    dtypes = [one.get("dtype") for one in made]
    if None not in dtypes and dtypes[0] != dtypes[1]:
        yield f"base was computed in {dtypes[0]}, tuned in {dtypes[1]}: part of the difference may be rounding."
    for key in THRESHOLDS:
        yield from _thresholds(key, *(one.get(key) for one in made))
    paths = [one.get("fast_paths") or {} for one in made]
    apart = [name for name in paths[0] if name in paths[1] and paths[0][name] != paths[1][name]]
    if apart:
        ways = "; ".join(f"{name}: {paths[0][name]} for base, {paths[1][name]} for tuned" for name in apart)
        yield f"base and tuned were computed in different ways ({ways}): part of the difference may be rounding."


def _thresholds(key: str, base: Any, tuned: Any) -> Iterator[str]:
    """Say where a threshold was chosen for one side, and is the usual one on the other."""
    neutral, said = THRESHOLDS[key]
    if None in (base, tuned) or base == tuned or neutral not in (base, tuned):
        return
    plain, other = ("base", "tuned") if base == neutral else ("tuned", "base")
    yield (
        f"{said.format(f'{neutral:g}')} for {plain}, where none was chosen, and with "
        f"{tuned if plain == 'base' else base:.3g} for {other}: part of the difference may be that choice. "
        "data.validation rows choose it for both."
    )


def _sameness(pairs: Sequence[Pair]) -> Iterator[str]:
    """Say that both sides are one result, or gave the same answers: then there is nothing to find."""
    if all(pair.base == pair.tuned for pair in pairs):
        yield "base and tuned are the same results, row by row: was one file given twice?"
        return
    answers = [(pair.base.get("prediction"), pair.tuned.get("prediction")) for pair in pairs]
    if all(one and one == other for one, other in answers):
        yield "base and tuned gave the same answer to every item; only their likelihoods or scores differ."


def _check_settings(margin: float | None, level: float) -> None:
    problems = []
    if margin is not None and not (margin > 0 and math.isfinite(margin)):
        problems.append(f"margin is {margin:g}; it must be a number above 0, in the metric's units.")
    if not 0.5 <= level < 1:
        problems.append(f"level is {level:g}; it must be from 0.5 to below 1, such as 0.95.")
    if problems:
        raise InputError(*problems)
