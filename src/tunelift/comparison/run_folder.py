"""A whole run compared from its files: base and tuned, baselines, forgetting, further seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tunelift.comparison.comparing import compare_sides
from tunelift.comparison.effects import judged, judged_together
from tunelift.comparison.measured import Measured, common_metrics, measure
from tunelift.comparison.pairing import Side, pair, read_side
from tunelift.comparison.readers import read_info, read_scores
from tunelift.comparison.results import BASE, BaselineResult, Comparison, MetricResult, Selection
from tunelift.comparison.seeds import recipe_claim
from tunelift.core import files
from tunelift.core.records import ScoreRow
from tunelift.run_files.layout import METRICS, TUNED, RunPaths, calibration_of, is_scored, validation_of

NOTHING_CHOSEN = (
    "There were no validation rows to choose the strongest baseline on, so the verdict is against the base alone."
)


def compare_run(
    folder: str | Path, *, metric: str | None = None, margin: float | None = None, level: float = 0.95
) -> Comparison:
    """Compare what a run folder holds: base/ and tuned/, and baselines/, forgetting/ and seeds/ where they are there.

    The verdict is about the baseline that was the strongest on validation rows, which may be the base itself. Without
    `metric` and `margin` it is about the run's own metric with the run's own margin. Raises InputError as `compare`
    does.
    """
    paths = RunPaths(folder)
    base, tuned = read_side(paths.base, BASE), read_side(paths.tuned, TUNED)
    if metric is None and margin is None:
        margin = own_margin(paths)
    validation = {side: _validation_rows(calibration_of(paths.side(side))) for side in (BASE, TUNED)}
    comparison = compare_sides(base, tuned, metric=metric, margin=margin, level=level, validation=validation)
    against = _against_baselines(paths, tuned, comparison.headline)
    selection = _selection(paths, comparison, list(against))
    baselines = _baselines(against, selection, level, margin)
    notes = [NOTHING_CHOSEN] if against and selection is None else []
    if selection:
        notes += _stronger_on_test(comparison, baselines, selection)
    notes += _chosen_among(paths)
    return replace(
        comparison,
        baselines=baselines,
        selection=selection,
        against=selection.strongest if selection else BASE,
        forgetting=_forgetting(paths, level),
        quantising=quantising(paths, level),
        recipe=_recipe(paths, base, tuned, comparison),
        notes=[*comparison.notes, *notes],
    )


def _validation_rows(path: Path) -> Sequence[ScoreRow]:
    """Return a side's rows on validation, none where it has none."""
    return read_scores(path).rows if is_scored(path) else []


def own_margin(paths: RunPaths) -> float | None:
    """Return the margin of the run's config, None where it has none."""
    import yaml

    settings = yaml.safe_load(paths.config.read_text(encoding="utf-8")) if paths.config.is_file() else None
    evaluate = settings.get("evaluate") if isinstance(settings, dict) else None
    margin = evaluate.get("margin") if isinstance(evaluate, dict) else None
    return float(margin) if isinstance(margin, int | float) else None


def _chosen_among(paths: RunPaths) -> list[str]:
    """Say among how many settings this one was chosen, where a sweep chose it."""
    manifest = files.read_manifest(paths.manifest) if paths.manifest.is_file() else {}
    among = manifest.get("chosen_among")
    count = among.get("candidates") if isinstance(among, dict) else None
    if not isinstance(count, int):
        return []
    return [f"the settings were chosen among {count} by the loss on validation; these alone saw the test items."]


def _against_baselines(paths: RunPaths, tuned: Side, headline: str) -> dict[str, tuple[str, Measured]]:
    """Pair the tuned side with each baseline that has the headline metric: {name: (description, values)}."""
    found = {}
    for path in paths.baselines():
        side = read_side(path, path.name)
        pairs, _ = pair(side, tuned, declared=True)
        if headline in common_metrics(side, tuned, pairs)[0]:
            values = measure(headline, side, tuned, pairs)
            about = (side.info.get("made_with") or {}).get("baseline") or {}
            found[path.name] = (str(about.get("description", path.name)), values)
    return {name: entry for name, entry in found.items() if entry[1].items}


def _selection(paths: RunPaths, comparison: Comparison, names: list[str]) -> Selection | None:
    """Return the choice of the strongest baseline by the headline metric on validation; None without such scores."""
    values: dict[str, float] = {}
    rows = 0
    for name in [BASE, *names]:
        info = read_info(validation_of(paths.baseline(name)) / METRICS)
        entry = (info.get("metrics") or {}).get(comparison.headline)
        if entry is not None and entry.get("value") is not None:
            values[name], rows = entry["value"], info.get("items", 0)
    if BASE not in values or len(values) == 1:
        return None
    best = max if comparison.metrics[comparison.headline].higher_is_better else min
    return Selection(rows, values, best(values, key=values.__getitem__))


def _stronger_on_test(
    comparison: Comparison, baselines: Mapping[str, BaselineResult], selection: Selection
) -> list[str]:
    """Say so where another than the chosen baseline does best on the test: the choice must not look like a find."""
    headline = comparison.metrics[comparison.headline]
    values = {BASE: headline.base, **{name: found.result.base for name, found in baselines.items()}}
    best = (max if headline.higher_is_better else min)(values, key=values.__getitem__)
    if values[best] == values[selection.strongest]:
        return []
    return [
        f"on the test {best} does better than {selection.strongest} ({values[best]:.3f} against "
        f"{values[selection.strongest]:.3f}); the strongest was settled on validation rows before."
    ]


def _baselines(
    against: Mapping[str, tuple[str, Measured]], selection: Selection | None, level: float, margin: float | None
) -> dict[str, BaselineResult]:
    """Judge the strongest by its interval, as the headline is; the others by Holm's p over them."""
    strongest = selection.strongest if selection else BASE
    results = judged_together(
        {name: values for name, (_, values) in against.items() if name != strongest}, level, "baselines"
    )
    if strongest in against:
        results[strongest] = judged(against[strongest][1], level, margin)
    return {name: BaselineResult(about, results[name]) for name, (about, _) in against.items()}


def _forgetting(paths: RunPaths, level: float) -> dict[str, MetricResult]:
    """Compare the first metric of each set that tuning should not change."""
    measured = {}
    for one in paths.forgotten():
        base, tuned = read_side(one.base, BASE), read_side(one.tuned, TUNED)
        pairs, _ = pair(base, tuned)
        first = common_metrics(base, tuned, pairs)[0][0]
        measured[one.folder.name] = measure(first, base, tuned, pairs)
    return judged_together({name: values for name, values in measured.items() if values.items}, level, "sets")


def quantising(paths: RunPaths, level: float = 0.95) -> dict[str, MetricResult]:
    """Compare a base that is held in few bits with itself in full precision, where that was measured too."""
    if not is_scored(paths.wide) or not is_scored(paths.base):
        return {}
    wide, held = read_side(paths.wide, "base in full precision"), read_side(paths.base, BASE)
    pairs, _ = pair(wide, held)
    measured = {name: measure(name, wide, held, pairs) for name in common_metrics(wide, held, pairs)[0]}
    return judged_together({name: values for name, values in measured.items() if values.items}, level, "metrics")


def _recipe(paths: RunPaths, base: Side, tuned: Side, comparison: Comparison) -> dict[str, Any] | None:
    """Return what the seeds together show, against the base and over the items that all have; None for one seed.

    A seed that lacks a value on some item has none here: over the others it could look better than it is.
    """
    runs = paths.seeds()
    if not runs:
        return None
    sides = [tuned, *(read_side(run.tuned, f"seed {run.folder.name}") for run in runs)]
    found = [measure(comparison.headline, base, side, pair(base, side)[0]) for side in sides]
    values = [one.aggregates if one.items and not one.one_sided else (math.nan, math.nan) for one in found]
    higher = comparison.metrics[comparison.headline].higher_is_better
    seeds = [int((side.info.get("made_with") or {}).get("seed") or 0) for side in sides]
    return recipe_claim(
        seeds, values[0][0], [tuned for _, tuned in values], higher, comparison.level, scale=found[0].scale
    )
