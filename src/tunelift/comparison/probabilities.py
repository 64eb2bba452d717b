"""The entry "calibration" of comparison.json: what the probabilities of labels are worth, base against tuned.

It holds calibration error (`calibration_error.py`) and Brier score, of the probabilities as they are and divided by a
temperature that was fitted on validation rows (`temperature.py`), and what each side is worth that may abstain
(`abstention.py`). Everything is computed from rows, the validation's among them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunelift.comparison.abstention import TARGETS, Cases
from tunelift.comparison.calibration_error import Binned
from tunelift.comparison.decisions import Decisions, Indices, decisions_of, has_probabilities, numbered_units, tagged
from tunelift.comparison.draws import Floats, bootstrap_weights
from tunelift.comparison.pairing import Pair, clusters_of, distinct
from tunelift.comparison.temperature import fitted_temperature
from tunelift.comparison.unit_means import UnitMeans
from tunelift.core.records import ScoreRow

FEWEST_UNITS = 100
"""With fewer items, or clusters of items, calibration errors get no interval: at 60 that of a difference held
the truth in 93% of simulations where 95% were asked, from 100 on in 95 to 100%."""

RESAMPLES = 1000

UNFINISHED = (
    "Of many labels those that cannot win are not read to their end, so no answer's share of the probability is known. "
    "Name brier in evaluate.metrics: then all labels are."
)

NO_ENTITY = "On {} no entity is given, so there is no confidence to look at."

Rows = Sequence[ScoreRow]
Resampled = Callable[[Floats], Floats]
"""From how often each unit counts (resamples, units) to values (resamples,)."""


@dataclass(frozen=True)
class _Side:
    """One side's decisions on the test, those on validation where there are some, and the temperature of the latter.

    `unit_of_row` (rows,) is the unit of each row, `unit_of_validation` that of each row of validation.
    """

    decisions: Decisions
    unit_of_row: Indices
    units: int
    validation: Decisions | None
    unit_of_validation: Indices | None
    temperature: float | None

    def binned(self, temperature: float) -> Binned:
        found = self.decisions
        return Binned(found.confidence(temperature), found.right, self.unit, self.units)

    def cases(self) -> Cases:
        """What it answers and how sure it is, its scores divided by the temperature where it has one."""
        return _cases(self.decisions, self.unit_of_row, self.temperature)

    @property
    def unit(self) -> Indices:
        """The unit of each decision, (decisions,)."""
        return self.unit_of_row[self.decisions.row]

    @property
    def units_with_any(self) -> int:
        """How many units have a decision."""
        return len(np.unique(self.unit))

    @property
    def sizes(self) -> Floats:
        """How much each unit weighs in a mean, (units,): its rows, or where they have a number of their own, those."""
        unit = self.unit_of_row if self.decisions.of in ("answers", "labels") else self.unit
        return np.bincount(unit, minlength=self.units).astype(float)

    def brier(self, temperature: float) -> Floats:
        """The summed Brier scores of each unit, (units,); of several labels of a row their mean is one."""
        found = self.decisions
        values = found.brier(temperature)
        if found.of == "labels":
            values = values / np.bincount(found.row)[found.row]
        return np.bincount(self.unit, weights=values, minlength=self.units).astype(float)

    def area(self) -> Floats:
        """The summed parts of each unit in the area under the generalised risk, (units,)."""
        return np.bincount(self.unit, weights=self.cases().of_area, minlength=self.units).astype(float)


def probability_calibration(
    pairs: Sequence[Pair], level: float, labels: int | None = None, validation: Mapping[str, Rows] | None = None
) -> dict[str, Any] | None:
    """Return the entry "calibration" of comparison.json, or None where no item has usable label scores on both.

    Only with a note, where an answer lacks some of the `labels` (how many there are, if that is known): of many labels
    those that could not win were not finished, so the share of the chosen one is not known.

    Only with a note, too, where one side gives no entity at all.

    For each side it has `ece` (the calibration error) and `brier` with intervals at `level`, the `bins` of the
    reliability diagram with Wilson's intervals, and, but for sets of labels and entities, `augrc` and the points of its
    curve (share answered, share right). With rows of `validation` (by side) it has `temperature`, `scaled` (both errors
    again) and `points`: for each share right the confidence that was chosen on validation, and what it gives on the
    test. The differences are tuned - base. Intervals are bootstrap percentiles over items (over clusters, where items
    come in clusters), and None for fewer than 100; Brier score and area have those of graded metrics, from 8 on.
    """
    kept = [item for item in pairs if has_probabilities(item.base) and has_probabilities(item.tuned)]
    if not kept:
        return None
    if any(0 < len(row.get("label_scores") or ()) < (labels or 0) for item in kept for row in (item.base, item.tuned)):
        return {"note": UNFINISHED}
    if silent := next((side for side in ("base", "tuned") if not any(_decides(getattr(i, side)) for i in kept)), None):
        return {"note": NO_ENTITY.format(silent)}
    member, _ = distinct(kept)
    unit = numbered_units(clusters_of(kept), member)
    found = {
        name: _side([getattr(item, name) for item in kept], unit, (validation or {}).get(name) or [])
        for name in ("base", "tuned")
    }
    if None in found.values() or len({side.decisions.of for side in found.values() if side}) > 1:
        return None
    sides = {name: side for name, side in found.items() if side is not None}
    return _entry(sides, kept, _means(sides, level), level)


def _decides(row: ScoreRow) -> bool:
    """Tell whether a row with probabilities holds a decision; a text in which no entity is given holds none."""
    found = tagged(row)
    return found is None or bool(found.given)


def _entry(sides: Mapping[str, _Side], pairs: list[Pair], means: UnitMeans, level: float) -> dict[str, Any]:
    resampled = _Resampled.of(sides, level)
    entry: dict[str, Any] = {}
    for name, side in sides.items():
        own = _of_side(side, level) | resampled.estimate(name, "ece") | means.estimate(name, "brier")
        if not side.cases().finds:
            own |= {"curve": side.cases().curve()} | means.estimate(name, "augrc")
        if side.temperature is not None:
            scaled = resampled.estimate(name, "scaled ece") | means.estimate(name, "scaled brier")
            own["scaled"] = {key.removeprefix("scaled "): value for key, value in scaled.items()}
        entry[name] = own
    entry |= {"of": sides["base"].decisions.of, **resampled.difference("ece")}
    entry["brier"] = means.difference("brier")
    if not sides["base"].cases().finds:
        entry["augrc"] = means.difference("augrc")
    if all(side.temperature is not None for side in sides.values()):
        entry["scaled"] = {"ece": resampled.difference("scaled ece"), "brier": means.difference("scaled brier")}
    return entry | {"note": _note(sides, pairs)}


def _side(rows: Rows, unit: Indices, validation: Rows) -> _Side | None:
    decisions = decisions_of(rows)
    if decisions is None:
        return None
    usable = [row for row in validation if has_probabilities(row)]
    known = decisions_of(usable) if usable else None
    known = known if known is not None and known.of == decisions.of else None
    temperature = None if known is None else fitted_temperature(known)
    own = [str(row["cluster"]) if row.get("cluster") is not None else f"row {i}" for i, row in enumerate(usable)]
    of_validation = None if known is None else np.unique(own, return_inverse=True)[1]
    return _Side(decisions, unit, int(unit.max()) + 1, known, of_validation, temperature)


def _cases(decisions: Decisions, unit: Indices, temperature: float | None) -> Cases:
    """Return decisions as cases; `unit` is that of each row, (rows,)."""
    confidence, missed = decisions.confidence(temperature or 1.0), unit[decisions.missed]
    return Cases(confidence, decisions.right, unit[decisions.row], decisions.of, missed)


def _of_side(side: _Side, level: float) -> dict[str, Any]:
    """Return what is known of a side without resampling."""
    decisions, cases = side.decisions, side.cases()
    entry: dict[str, Any] = {"items": len(np.unique(decisions.row)), "bins": side.binned(1.0).points(level)}
    if decisions.of == "entities":
        entry["decisions"] = len(decisions.row)
    if side.validation is None or side.unit_of_validation is None or side.temperature is None:
        return entry
    entry |= {"temperature": side.temperature, "rows": len(np.unique(side.validation.row))}
    chosen_on, points = _cases(side.validation, side.unit_of_validation, side.temperature), []
    for target in TARGETS:
        confidence = chosen_on.threshold(target)
        if confidence is not None:
            seen = chosen_on.at(confidence, level)
            on_validation = {key: seen[key] for key in ("right", "answered", "cases")}
            points.append(
                {"target": target, "confidence": confidence, "validation": on_validation, **cases.at(confidence, level)}
            )
    return entry | {"points": points}


@dataclass(frozen=True)
class _Resampled:
    """Values of each side, and what they are in the same resamples of the units (none where units are few)."""

    values: Mapping[tuple[str, str], float]
    drawn: Mapping[tuple[str, str], Floats]
    level: float

    @classmethod
    def of(cls, sides: Mapping[str, _Side], level: float) -> _Resampled:
        """Compute calibration errors, after scaling too."""
        values, resampled = dict[tuple[str, str], float](), dict[tuple[str, str], Resampled]()
        units, fewest = sides["base"].units, min(side.units_with_any for side in sides.values())
        for name, side in sides.items():
            for key, temperature in (("ece", 1.0), ("scaled ece", side.temperature)):
                if temperature is not None:
                    binned = side.binned(temperature)
                    values[name, key], resampled[name, key] = binned.error, binned.errors
        parts: dict[tuple[str, str], list[Floats]] = {key: [] for key in resampled}
        for weights in bootstrap_weights(units, RESAMPLES) if fewest >= FEWEST_UNITS else ():
            for which, found in resampled.items():
                parts[which].append(found(weights))
        return cls(values, {key: np.concatenate(found) for key, found in parts.items() if found}, level)

    def estimate(self, side: str, key: str) -> dict[str, Any]:
        """Return a side's value and its interval."""
        drawn = self.drawn.get((side, key))
        return {key: self.values[side, key], f"{key}_interval": self._interval(drawn, self.values[side, key])}

    def difference(self, key: str) -> dict[str, Any]:
        """Return tuned - base and its interval."""
        base, tuned = self.drawn.get(("base", key)), self.drawn.get(("tuned", key))
        difference = self.values["tuned", key] - self.values["base", key]
        drawn = None if base is None or tuned is None else tuned - base
        return {"difference": difference, "interval": self._interval(drawn, difference)}

    def _interval(self, drawn: Floats | None, value: float) -> list[float] | None:
        if drawn is None:
            return None
        low, high = np.quantile(drawn, [(1 - self.level) / 2, (1 + self.level) / 2]).tolist()
        if high - low < 1e-12:  # as where no answer is wrong: what others would show is not known
            return None
        return [min(low, value), max(high, value)]


def _means(sides: Mapping[str, _Side], level: float) -> UnitMeans:
    """Return Brier scores of each side, after scaling too, and areas, over units."""
    found = dict[tuple[str, str], tuple[Floats, Floats]]()
    for name, side in sides.items():
        for key, temperature in (("brier", 1.0), ("scaled brier", side.temperature)):
            if temperature is not None:
                found[name, key] = side.brier(temperature), side.sizes
        if not side.cases().finds:
            found[name, "augrc"] = side.area(), side.sizes
    most = 1.0 if sides["base"].decisions.of_two else 2.0
    return UnitMeans.of(found, level, {"brier": most, "scaled brier": most, "augrc": 1.0})


def _note(sides: Mapping[str, _Side], pairs: Sequence[Pair]) -> str:
    one, other = (sides[name].binned(1.0).uncorrected for name in ("base", "tuned"))
    said = (
        "The calibration error is the root mean square gap between confidence and share right, less what chance adds "
        f"(Kumar et al. 2019); the uncorrected mean absolute gap is {one:.3f} for base and {other:.3f} for tuned."
    )
    if sides["base"].decisions.of == "entities":
        counts = " and ".join(f"{len(side.decisions.row)} by {name}" for name, side in sides.items())
        said += (
            f" It is of the entities that a side gives, {counts}, right where type, first and last word are; their "
            "confidence is the probability of all their tags together."
        )
    rows = [row for item in pairs for row in (item.base, item.tuned) if row.get("label_scores")]
    unlikely = sum(row["label_scores"][row["prediction"]] < max(row["label_scores"].values()) for row in rows)
    if unlikely:
        said += (
            f" {unlikely} of {len(rows)} answers are not the likeliest label as a whole, as where labels are ranked by "
            "the mean per token; their confidence is the chosen label's share all the same."
        )
    return said
