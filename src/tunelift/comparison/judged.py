"""What judged answers show: how often the tuned one wins, or how its marks differ, and how far the judge is right.

Only answers that differ are judged. The items that the person labels are drawn at random from them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunelift.comparison.calibration_error import wilson_interval
from tunelift.comparison.corrected import corrected
from tunelift.comparison.draws import Floats
from tunelift.run_files.layout import FORMAT
from tunelift.wording.numbers import interval_text, level_text

HALF = 0.5
PERSON = "person"


@dataclass(frozen=True, slots=True)
class Wins:
    """What is asked of two answers: which is better. A label is 1 where tuned wins, 0.5 for a tie, else 0."""

    scale: tuple[float, float] = (0.0, 1.0)
    step: float | None = None
    nothing: float = HALF
    called: str = "win rate of the tuned model, ties half"


@dataclass(frozen=True, slots=True)
class Marks:
    """What is asked of each answer: a mark from 1 to 5. A label is tuned's mark less base's."""

    scale: tuple[float, float] = (-4.0, 4.0)
    step: float | None = 1.0
    nothing: float = 0.0
    called: str = "mark of the tuned model less the base's (1 to 5)"


Asked = Wins | Marks


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was said of the items whose answers differ, in the order of the draw: the first are the labelled ones.

    `labels` are the person's, (labelled,); `judge` the judge's, (items,), or none, (0,), where there is none. `places`
    are its votes when tuned stands first and second, (items, 2), where pairs were asked about. `longer` is 1 where
    tuned's answer is the longer one, -1 where base's is, 0 else, (items,). `clusters` are the items' clusters by
    number, (items,), where items come in clusters.
    """

    items: int
    labels: Floats
    judge: Floats
    longer: Floats
    places: Floats | None = None
    equal: int = 0
    silent: int = 0
    clusters: NDArray[np.intp] | None = None


def conclusion(asked: Asked, found: Evidence, by: str, level: float = 0.95) -> dict[str, Any]:
    """Return what was found, as JSON has it."""
    labelled = len(found.labels)
    told: dict[str, Any] = {"format": FORMAT, "by": by, "what": asked.called, "level": level, "nothing": asked.nothing}
    told |= {"items": found.items, "equal": found.equal, "labels": labelled, "replies_without_a_word": found.silent}
    told |= {} if found.clusters is None else {"clusters": len(np.unique(found.clusters))}
    alone = _interval(asked, (found.labels, found.labels * 0, found.labels[:0]), found.clusters, level)
    if not len(found.judge):
        return told | alone | {"verdict": _word(asked, alone["interval"])}
    own, others = found.judge[:labelled], found.judge[labelled:]
    told |= _interval(asked, (found.labels, own, others), found.clusters, level)
    told |= {
        "labels_alone": alone,
        "judge_alone": float(found.judge.mean()),
        "agreement": _agreement(asked, found, level),
    }
    told |= {"length": _length(found, level)}
    told |= {"position": _position(found.places, level)} if found.places is not None else {}
    return told | {"verdict": _word(asked, told["interval"])}


def _interval(
    asked: Asked, scores: tuple[Floats, Floats, Floats], clusters: NDArray[np.intp] | None, level: float
) -> dict[str, Any]:
    labels, judged, others = (one[None] for one in scores)
    of_these = None if clusters is None else clusters[: labels.shape[1] + others.shape[1]]
    one = corrected(labels, judged, others, asked.scale, level, asked.step, clusters=of_these)
    return {
        "value": float(one.value[0]),
        "interval": [float(one.low[0]), float(one.high[0])],
        "weight": float(one.weight[0]),
    }


def _word(asked: Asked, interval: Sequence[float]) -> str:
    if interval[0] > asked.nothing:
        return "better"
    return "worse" if interval[1] < asked.nothing else "inconclusive"


def _agreement(asked: Asked, found: Evidence, level: float) -> dict[str, Any]:
    """Say how often judge and person are on the same side, and how often they were if neither knew of the other."""
    sides = [np.sign(values - asked.nothing) for values in (found.labels, found.judge[: len(found.labels)])]
    same, count = float(np.mean(sides[0] == sides[1])), len(found.labels)
    chance = sum(float(np.mean(sides[0] == side) * np.mean(sides[1] == side)) for side in (-1, 0, 1))
    low, high = wilson_interval(np.array([same]), np.array([count]), level)
    return {"same": same, "interval": [float(low[0]), float(high[0])], "by_chance": chance, "labels": count}


def _position(places: Floats, level: float) -> dict[str, Any]:
    """Say how often the answer that stands first wins beyond one half, and how often swapping changes the winner."""
    first, second = places.T
    effect = (first - second) / 2
    return {"first_wins_more": _mean(effect, level), "changed_by_swapping": float(np.mean(first != second))}


def _length(found: Evidence, level: float) -> dict[str, Any]:
    """Say how much more than the person the judge favours the longer of two answers, over labelled ones."""
    count = len(found.labels)
    beyond = (found.judge[:count] - found.labels) * found.longer[:count]
    differ = found.longer[:count] != 0
    return {"longer_wins_more_than_the_person_says": _mean(beyond[differ], level), "labels": int(differ.sum())}


def _mean(values: Floats, level: float) -> dict[str, Any]:
    """Return a mean and its interval; none of fewer than two values."""
    if len(values) < 2:
        return {"value": None, "interval": None}
    reach = float(np.abs(values).max()) or 1.0
    one = corrected(values[None], values[None] * 0, values[None, :0], (-reach, reach), level, step=reach)
    return {"value": float(values.mean()), "interval": [float(one.low[0]), float(one.high[0])]}


def lines(told: dict[str, Any]) -> list[str]:
    """Return what was found in sentences, the verdict first."""
    extent = f"{level_text(told['level'])} interval {_plain(told['interval'])}"
    better = {
        "better": "The tuned model's answers are better",
        "worse": "The tuned model's answers are worse",
        "inconclusive": "It is not clear whose answers are better",
    }[told["verdict"]]
    rests = f"{told['items']} items" if told["by"] != PERSON else f"{told['labels']} labelled items"
    said = [f"{better}, by {told['by']}: {told['what']} {told['value']:.3f} ({extent}; {rests})."]
    if "clusters" in told:
        said.append(f"The items come in {told['clusters']} clusters, which the interval counts.")
    if told["equal"]:
        said.append(f"{told['equal']} more items were answered alike, and are not judged.")
    if "agreement" not in told:
        return said
    found, alone = told["agreement"], told["labels_alone"]
    said.append(
        f"The judge is on the person's side for {found['same']:.0%} of {found['labels']} labels "
        f"({found['interval'][0]:.0%} to {found['interval'][1]:.0%}; {found['by_chance']:.0%} by chance)."
    )
    said.append(
        f"The judge alone would say {told['judge_alone']:.3f}, uncorrected; the labels alone {alone['value']:.3f} "
        f"({_plain(alone['interval'])}). {_worth(told)}"
    )
    if place := told.get("position"):
        moved = _effect(place["first_wins_more"])
        said.append(f"Place: the answer that stands first wins {moved} more often than half; swapping both changes "
                    f"{place['changed_by_swapping']:.0%} of the verdicts.")  # fmt: skip
    longer = told["length"]["longer_wins_more_than_the_person_says"]
    said.append(f"Length: beyond what the person says, the judge favours the longer answer by {_effect(longer)}.")
    if told["replies_without_a_word"]:
        said.append(f"{told['replies_without_a_word']} replies said no word that was asked for, and count as ties.")
    return said


def _worth(told: dict[str, Any]) -> str:
    """Say how many labels the judge stands for, by the squares of both intervals' widths."""
    wide, narrow = (one["interval"][1] - one["interval"][0] for one in (told["labels_alone"], told))
    more = told["labels"] * ((wide / narrow) ** 2 - 1) if narrow > 0 else math.inf
    if told["labels"] == told["items"]:
        return "Every item is labelled, so the judge counts for nothing."
    return f"It is worth {more:.0f} labels more." if more >= 1 else "It is worth no label: its scores say too little."


def _effect(one: dict[str, Any]) -> str:
    if one["value"] is None:
        return "an amount that so few labels do not tell"
    return f"{one['value']:+.3f} ({interval_text(*one['interval'])})"


def _plain(interval: Sequence[float]) -> str:
    return f"{interval[0]:.3f} to {interval[1]:.3f}"
