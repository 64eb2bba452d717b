"""What the probabilities of labels are worth, in sentences, from the entry "calibration" of comparison.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunelift.wording.numbers import interval_text, level_text

Entry = Mapping[str, Any]

NOUNS = {"labels": "labels", "entities": "entities", "words": "words"}
FINDS = {"labels": "apply", "entities": "are there"}
"""What a decision can be of, by the entry's "of", and of some of them how the true ones are called."""


def calibration_lines(entry: Entry, level: float) -> list[str]:
    """Return the errors, what scaling makes of them, the operating point and what abstaining is worth.

    Entries of earlier versions have fewer keys, and so fewer sentences.
    """
    if not (entry.get("base") and entry.get("tuned")):
        return []
    error = _move(entry, "ece", entry, level)
    of = {"entities": "entities'", "words": "tags'"}.get(str(entry.get("of")), "labels'")
    return [f"Calibration error of the {of} probabilities (lower is better): {error}.", *beside_error(entry, level)]


def beside_error(entry: Entry, level: float) -> list[str]:
    """Return the same without the calibration error."""
    if not (entry.get("base") and entry.get("tuned")):
        return []
    brier = (
        f"Brier score (lower is better): {_move(entry, 'brier', entry['brier'], level)}." if "brier" in entry else ""
    )
    found = (brier, scaling(entry, level), operating(entry, level), area(entry, level))
    return [line for line in found if line]


def scaling(entry: Entry, level: float) -> str:
    """Return the temperatures and what is left of the errors of the tuned side; empty where none was fitted."""
    tuned = entry["tuned"]
    if not tuned.get("scaled"):
        return ""
    base = f" (base {entry['base']['temperature']:.2f})" if entry["base"].get("temperature") else ""
    errors_left = (
        f"{name} {tuned['scaled'][key]:.3f}{_extent(tuned['scaled'].get(f'{key}_interval'), level)}"
        for name, key in (("calibration error", "ece"), ("Brier score", "brier"))
    )
    return (
        f"Scores divided by the temperature {tuned['temperature']:.2f}{base}, fitted on {tuned['rows']} validation "
        f"rows: tuned {', '.join(errors_left)}."
    )


def operating(entry: Entry, level: float) -> str:
    """Return from which confidence on the tuned side is how often right, and on what share; empty without a choice."""
    tuned = entry["tuned"]
    point = shown_point(tuned.get("points"))
    if point is None and "points" in tuned:
        return f"{tuned['rows']} validation rows show of no confidence that the tuned model is 90% right from there on."
    if point is None:
        return ""
    of = str(entry.get("of"))
    shown = f"(for {point['target']:.0%} right, which {tuned['rows']} validation rows show with 90% confidence)"
    said = f"From confidence {point['confidence']:.2f} on {shown} the tuned model {_rates(point, of, level)}"
    other = next((one for one in entry["base"].get("points") or [] if one["target"] == point["target"]), None)
    if other is not None:
        return f"{said}; the base, from {other['confidence']:.2f} on, {_rates(other, of, None)}."
    return f"{said}." if "points" not in entry["base"] else f"{said}; of the base no confidence is known to give that."


def area(entry: Entry, level: float) -> str:
    """Return the mean share wrong over all shares answered."""
    if not entry.get("augrc"):
        return ""
    return (
        "Share of cases answered wrongly, on average over all shares answered, the surest first (AUGRC): "
        f"{_move(entry, 'augrc', entry['augrc'], level)}."
    )


def shown_point(points: Sequence[Entry] | None) -> Entry | None:
    """Return the point to be named first: the lowest share right for which something must be left unanswered."""
    chosen = list(points or [])
    return next((point for point in chosen if point["confidence"] > 0), chosen[-1] if chosen else None)


def _rates(point: Entry, of: str, level: float | None) -> str:
    if point["right"] is None:
        return f"{'gives none' if of in FINDS else 'answers none'} of the test's {NOUNS.get(of, 'cases')}"
    right, answered = (
        f"{point[key]:.1%}{'' if level is None else _shares(point[f'{key}_interval'], level)}"
        for key in ("right", "answered")
    )
    if of in FINDS:
        return f"is right on {right} of the {of} that it gives, and gives {answered} of those that {FINDS[of]}"
    return f"is right on {right} of the {answered} of {NOUNS.get(of, 'cases')} that it answers"


def _shares(interval: Sequence[float], level: float) -> str:
    return f" ({level_text(level)} interval {interval[0]:.1%} to {interval[1]:.1%})"


def _move(entry: Entry, key: str, difference: Entry, level: float) -> str:
    base, tuned = (entry[side][key] for side in ("base", "tuned"))
    interval = difference.get("interval")
    extent = "" if interval is None else f", {level_text(level)} interval {interval_text(*interval)}"
    return f"{base:.3f} -> {tuned:.3f} ({difference['difference']:+.3f}{extent})"


def _extent(interval: Sequence[float] | None, level: float) -> str:
    return "" if interval is None else f" ({interval[0]:.3f} to {interval[1]:.3f})"
