"""Compare base and tuned on the same items: read, pair, test, judge."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunelift.comparison.flips import find_flips
from tunelift.comparison.judging import judged, judged_together
from tunelift.comparison.looks import count_look, test_hash, tuned_hash
from tunelift.comparison.measured import Measured, chosen, common_metrics, direction_is_assumed, measure
from tunelift.comparison.pairing import Side, Source, pair, read_side
from tunelift.comparison.probabilities import probability_calibration
from tunelift.comparison.readers import matched
from tunelift.comparison.results import Comparison, MetricResult
from tunelift.comparison.slices import slice_results
from tunelift.core.errors import InputError


def compare(
    base: Source,
    tuned: Source,
    *,
    metric: str | None = None,
    margin: float | None = None,
    level: float = 0.95,
    slices: Sequence[str] = (),
) -> Comparison:
    """Compare two sides that answered the same items, pair by pair.

    A side is a file of scores (ours, or one of another tool), a folder that holds one, a run folder (its tuned side is
    meant), a list of such rows, or what `evaluate` returned. The verdict is about `metric` (base's first one
    otherwise): it follows from the interval at `level` of tuned - base. `margin`, in the metric's units, is the
    difference that would matter; with it a verdict can be `equivalent`. `slices` are keys of the rows whose values are
    compared each by itself, besides those the rows name. Raises InputError where the sides cannot be compared: other
    items, other content under an id, ids twice, no common metric, another prompt, decoding, label scoring, task or
    length.
    """
    if isinstance(base, str | Path) and isinstance(tuned, str | Path):
        base, tuned = matched(Path(base), Path(tuned))
    one, other = read_side(base, "base"), read_side(tuned, "tuned")
    return compare_sides(one, other, metric=metric, margin=margin, level=level, slices=slices)


def compare_sides(
    one: Side, other: Side, *, metric: str | None, margin: float | None, level: float, slices: Sequence[str] = ()
) -> Comparison:
    """Compare base and tuned as they were read; see `compare`."""
    _check_settings(margin, level)
    pairs, left_out = pair(one, other)
    names, alone = common_metrics(one, other, pairs)
    headline = chosen(metric, names)
    measured = {name: measure(name, one, other, pairs) for name in names}
    if not measured[headline].pairs:
        reason = measured[headline].left_out[0].reason
        raise InputError(f"No item has {headline} on both sides: {reason}.", fix="Choose another metric.")
    empty = [name for name in names if not measured[name].pairs]
    return Comparison(
        headline=headline,
        metrics=_judge({name: measured[name] for name in names if name not in empty}, headline, level, margin),
        level=level,
        margin=margin,
        left_out=[*left_out, *measured[headline].left_out],
        flips=find_flips(measured[headline]),
        notes=_notes(one, other, names, alone, {name: measured[name].left_out[0].reason for name in empty}),
        slices=slice_results(measured[headline], level, slices),
        without_duplicates=_without_duplicates(measured[headline], one, other, level, margin),
        calibration=probability_calibration(pairs, level, _labels(one)),
        looks=count_look(test_hash(one.rows.values()), tuned_hash(other.rows.values())),
    )


def _judge(measured: dict[str, Measured], headline: str, level: float, margin: float | None) -> dict[str, MetricResult]:
    """Test every metric; the headline by its interval, the others by Holm's p over the others."""
    further = judged_together(
        {name: values for name, values in measured.items() if name != headline}, level, "further metrics"
    )
    first = judged(measured[headline], level, margin)
    return {name: first if name == headline else further[name] for name in measured}


def _without_duplicates(
    headline: Measured, base: Side, tuned: Side, level: float, margin: float | None
) -> MetricResult | None:
    """Return the headline over the test items that no training row repeats, where there are others."""
    kept = [item for item in headline.pairs if not any(row.get("duplicate_of") for row in (item.base, item.tuned))]
    if len(kept) in (0, len(headline.pairs)):
        return None
    return judged(measure(headline.name, base, tuned, kept), level, margin)


def _labels(side: Side) -> int | None:
    """How many labels each item was ranked by, where that is known."""
    scoring = (side.info.get("made_with") or {}).get("label_scoring")
    return scoring.get("labels") if isinstance(scoring, Mapping) else None


def _notes(base: Side, tuned: Side, names: Sequence[str], alone: Sequence[str], empty: Mapping[str, str]) -> list[str]:
    notes = [str(note) for side in (base, tuned) for note in side.info.get("notes") or []]
    notes += [f"{name} is there on one side only and is not compared." for name in alone]
    notes += [f"{name} is not compared, as no item has it on both sides: {reason}." for name, reason in empty.items()]
    assumed = [name for name in names if direction_is_assumed(name, base, tuned)]
    if assumed and not base.info.get("notes"):  # readers of tables have said so
        notes.append(f"a higher {' or '.join(assumed)} is taken for better: neither the rows nor tunelift say.")
    dtypes: list[Any] = [(side.info.get("made_with") or {}).get("dtype") for side in (base, tuned)]
    if None not in dtypes and dtypes[0] != dtypes[1]:
        notes.append(f"base was computed in {dtypes[0]}, tuned in {dtypes[1]}: part of the difference may be rounding.")
    return list(dict.fromkeys(notes))


def _check_settings(margin: float | None, level: float) -> None:
    problems = []
    if margin is not None and not (margin > 0 and math.isfinite(margin)):
        problems.append(f"margin is {margin:g}; it must be a number above 0, in the metric's units.")
    if not 0.5 <= level < 1:
        problems.append(f"level is {level:g}; it must be from 0.5 to below 1, such as 0.95.")
    if problems:
        raise InputError(*problems)
