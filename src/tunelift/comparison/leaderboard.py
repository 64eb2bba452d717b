"""Several tuned models against one base on the same items: a ranked table in which ties are called ties."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from tunelift.comparison.effects import judged_together
from tunelift.comparison.looks_at_test_sets import count_look, test_hash, tuned_hash
from tunelift.comparison.measured import Directions, Measured, chosen, common_metrics, directions, measure
from tunelift.comparison.pairing import MUST_AGREE, LeftOut, Pair, Side, Source, distinct, join, pair, read_side
from tunelift.comparison.results import MetricResult
from tunelift.comparison.verdict import unknown_direction
from tunelift.core.errors import InputError, listed
from tunelift.run_files.layout import FORMAT
from tunelift.wording import leaderboard_text as text

OPTIMISTIC = (
    "The best of several on one test set owes a part of its value to luck. Choose on validation rows, or measure the "
    "one you choose on items that had no part in the choice."
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One tuned model: its rank, and how it compares with the base.

    `rank` is 1 plus the number of other candidates that are shown to be better; `tied` says that another candidate has
    the same rank.
    """

    name: str
    rank: int
    tied: bool
    result: MetricResult

    @property
    def place(self) -> str:
        """The rank in words: `1st`, or `tied 1st`."""
        return text.place(self.rank, self.tied)


@dataclass(frozen=True, slots=True)
class Duel:
    """Two candidates compared; in `result` the first stands as base and the second as tuned."""

    one: str
    other: str
    result: MetricResult

    @property
    def better(self) -> str | None:
        """The candidate that is shown to be better than the other, if one is."""
        return {"better": self.other, "worse": self.one}.get(self.result.verdict.word)

    def to_dict(self) -> dict[str, Any]:
        """Return the duel's entry: `difference` is the second's value minus the first's."""
        entry = self.result.to_dict()
        kept = ("difference", "interval", "p", "p_adjusted", "test")
        return {"one": self.one, "other": self.other, "better": self.better, **{key: entry[key] for key in kept}}


@dataclass(frozen=True, slots=True)
class Leaderboard:
    """Tuned models, the best first, on the items that the base and all of them have a value for.

    `base` is the base's value. A candidate's verdict is against the base, from p corrected over the candidates; its
    rank follows from the duels, from p corrected over all of them (`judged_together`).
    """

    metric: str
    higher_is_better: bool
    items: int
    level: float
    base: float
    candidates: list[Candidate]
    duels: list[Duel]
    left_out: list[LeftOut]
    looks: int | None
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Return the leaderboard as plain values."""
        return {
            "format": FORMAT,
            "metric": self.metric,
            "higher_is_better": self.higher_is_better,
            "items": self.items,
            "left_out": len(self.left_out),
            "level": self.level,
            "base": self.base,
            "candidates": [
                {"name": one.name, "rank": one.rank, "tied": one.tied, **one.result.to_dict()}
                for one in self.candidates
            ],
            "pairs": [duel.to_dict() for duel in self.duels],
            "looks": self.looks,
            "notes": self.notes,
        }

    def __str__(self) -> str:
        return text.describe(self.to_dict(), [reason for _, reason in self.left_out])


def leaderboard(
    base: Source,
    tuned: Mapping[str, Source],
    *,
    metric: str | None = None,
    level: float = 0.95,
    higher_better: Sequence[str] = (),
    lower_better: Sequence[str] = (),
    columns: Mapping[str, str] | None = None,
) -> Leaderboard:
    """Compare several tuned models with one base, and with each other, on the same items.

    `tuned` gives each a name; what a source may be, the other settings and what is refused are as in `compare`. The
    table is about `metric` (base's first one that all have, otherwise), whose direction must be known. An item without
    a value on any side is left out; where some sides have one, verdicts and ranks hold for whatever the others could
    have.
    """
    if not tuned:
        raise InputError("There is no tuned model to rank.", fix="Give at least one.")
    if not 0.5 <= level < 1:
        raise InputError(f"level is {level:g}; it must be from 0.5 to below 1, such as 0.95.")
    first = read_side(base, "base", columns)
    sides = {name: read_side(source, name, columns) for name, source in tuned.items()}
    joined, left_out = _joined(first, sides)
    said = directions(higher_better, lower_better)
    common = [common_metrics(first, side, joined[key])[0] for key, side in sides.items()]
    names = [name for name in common[0] if all(name in other for other in common)]
    if not names:
        raise InputError("The sides have no metric that all of them have.", fix="Evaluate all with the same metrics.")
    name = chosen(metric, dict.fromkeys(names, True))
    against = {key: measure(name, first, sides[key], pairs, said) for key, pairs in joined.items()}
    example, test = next(iter(against.values())), test_hash(first.rows.values())
    if example.higher_is_better is None:
        raise InputError(f"Nothing can be ranked by {name}: {unknown_direction(name)}.")
    if empty := [key for key, measured in against.items() if not measured.items]:
        raise InputError(
            f"No item has a finite {name} for both base and {listed(empty)}.", fix="Choose another metric."
        )
    results = judged_together(against, level, "candidates", same_items=True)
    duels = _duels(name, sides, {item.id for item in next(iter(joined.values()))}, level, said)
    return Leaderboard(
        metric=name,
        higher_is_better=example.higher_is_better,
        items=distinct(example.pairs)[1],
        level=level,
        base=example.aggregates[0],
        candidates=_ranked(results, duels),
        duels=duels,
        left_out=left_out,
        looks=[count_look(test, tuned_hash(side.rows.values())) for side in sides.values()][-1],
        notes=_notes(first, sides, against),
    )


def _joined(base: Side, sides: Mapping[str, Side]) -> tuple[dict[str, list[Pair]], list[LeftOut]]:
    """Return each candidate's rows beside base's, of the items that any side has scored, and the other items."""
    problems = _made_differently([base, *sides.values()])
    nowhere: dict[str, str] = {}
    for number, (name, side) in enumerate(sides.items()):
        try:
            _, left_out = pair(base, side)
        except InputError as error:
            problems += [f"{name}: {problem}" for problem in error.problems]
            continue
        found = {key: reason.replace("tuned:", f"{name}:") for key, reason in left_out}
        nowhere = {key: why for key, why in (found if number == 0 else nowhere).items() if key in found}
    if problems:
        raise InputError(*problems, fix="All must be evaluated on the same items and in the same way.")
    ids = [key for key in base.rows if key not in nowhere]
    return {name: join(base, side, ids) for name, side in sides.items()}, [LeftOut(*each) for each in nowhere.items()]


def _made_differently(sides: Sequence[Side]) -> list[str]:
    """Say what two candidates disagree on where the base does not say; `pair` says the rest."""
    problems = []
    base, *others = (side.info.get("made_with") or {} for side in sides)
    for key in MUST_AGREE:
        known = {json.dumps(made[key], sort_keys=True) for made in others if made.get(key) is not None}
        if base.get(key) is None and len(known) > 1:
            problems.append(f"{key} differs between the tuned models: {listed(sorted(known), 3)}.")
    return problems


def _duels(metric: str, sides: Mapping[str, Side], ids: Collection[str], level: float, said: Directions) -> list[Duel]:
    """Compare every two candidates, in the order of their names: that they are given in then changes nothing."""
    names = list(combinations(sorted(sides), 2))
    measured: dict[str, Measured] = {}
    for number, (one, other) in enumerate(names):
        in_order = [key for key in sides[one].rows if key in ids]
        pairs = join(sides[one], sides[other], in_order)
        measured[str(number)] = measure(metric, sides[one], sides[other], pairs, said)
    results = judged_together(measured, level, "pairs", same_items=True)
    return [Duel(one, other, results[str(number)]) for number, (one, other) in enumerate(names)]


def _ranked(results: Mapping[str, MetricResult], duels: Sequence[Duel]) -> list[Candidate]:
    """Return the candidates by rank, those of one rank by value and then by name."""
    lost = Counter({duel.one, duel.other}.difference({duel.better}).pop() for duel in duels if duel.better)
    ranks = {name: 1 + lost[name] for name in results}
    sizes = Counter(ranks.values())
    candidates = [Candidate(name, ranks[name], sizes[ranks[name]] > 1, result) for name, result in results.items()]
    up = -1 if next(iter(results.values())).higher_is_better else 1
    return sorted(candidates, key=lambda one: (one.rank, up * one.result.tuned, one.name))


def _notes(base: Side, sides: Mapping[str, Side], against: Mapping[str, Measured]) -> list[str]:
    model = _model(base)
    notes = [
        f"{name} was tuned from another model than this base: tuning alone did not make its difference."
        for name, side in sides.items()
        if model and _model(side) not in (None, model)
    ]
    for name, measured in against.items():
        if measured.one_sided:
            share = f"{measured.items} of {measured.items + measured.one_sided} items"
            notes.append(f"{share} are scored for both base and {name}; its value is of these.")
    return [*notes, OPTIMISTIC] if len(sides) > 1 else notes


def _model(side: Side) -> Any:
    """Return what identifies the model below an adapter: its weights where their hash is known."""
    model = (side.info.get("made_with") or {}).get("model")
    return (model.get("weights_sha256") or model) if isinstance(model, Mapping) else model
