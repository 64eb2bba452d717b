"""Several tuned models against one base on the same items: a ranked table in which ties are called ties."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from tunelift.comparison.judging import judged_together
from tunelift.comparison.looks import count_look, test_hash, tuned_hash
from tunelift.comparison.measured import Measured, chosen, common_metrics, measure
from tunelift.comparison.numbers import decimals, interval_text, level_text, p_figure
from tunelift.comparison.pairing import MUST_AGREE, LeftOut, Pair, Side, Source, pair, read_side
from tunelift.comparison.results import MetricResult
from tunelift.core.errors import InputError, listed
from tunelift.core.records import FORMAT

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
        return f"tied {_ordinal(self.rank)}" if self.tied else _ordinal(self.rank)


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

    `base` is the base's value. A candidate's verdict is against the base, from p after Holm's correction over the
    candidates; its rank follows from the duels, from p after Holm's correction over all of them.
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
        return "\n\n".join([_sentence(self), _table(self), _rests_on(self)])


def leaderboard(
    base: Source, tuned: Mapping[str, Source], *, metric: str | None = None, level: float = 0.95
) -> Leaderboard:
    """Compare several tuned models with one base, and with each other, on the same items.

    `tuned` gives each a name; what a source may be, and what is refused, is as in `compare`. The table is about
    `metric` (base's first one that all have, otherwise). An item without a value on any side is left out for all.
    """
    if not tuned:
        raise InputError("There is no tuned model to rank.", fix="Give at least one.")
    if not 0.5 <= level < 1:
        raise InputError(f"level is {level:g}; it must be from 0.5 to below 1, such as 0.95.")
    first = read_side(base, "base")
    sides = {name: read_side(source, name) for name, source in tuned.items()}
    shared, left_out = _shared_items(first, sides)
    name = chosen(metric, _metrics_of_all(first, sides, shared))
    ids, lacking = _with_values(name, first, sides, shared)
    against = {key: measure(name, first, side, _pairs(first, side, ids)) for key, side in sides.items()}
    results = judged_together(against, level, "candidates")
    duels = _duels(name, sides, ids, level)
    example = next(iter(against.values()))
    return Leaderboard(
        metric=name,
        higher_is_better=example.higher_is_better,
        items=len(ids),
        level=level,
        base=example.aggregates[0],
        candidates=_ranked(results, duels),
        duels=duels,
        left_out=[*left_out, *lacking],
        looks=_count_looks(first, sides.values()),
        notes=_notes(first, sides),
    )


def _shared_items(base: Side, sides: Mapping[str, Side]) -> tuple[list[str], list[LeftOut]]:
    """Return the ids of the items scored on every side, in base's order, and the others with a reason."""
    problems = _made_differently([base, *sides.values()])
    reasons: dict[str, str] = {}
    for name, side in sides.items():
        try:
            _, left_out = pair(base, side)
        except InputError as error:
            problems += [f"{name}: {problem}" for problem in error.problems]
            continue
        for key, reason in left_out:
            reasons.setdefault(key, reason.replace("tuned:", f"{name}:"))
    if problems:
        raise InputError(*problems, fix="All must be evaluated on the same items and in the same way.")
    return [key for key in base.rows if key not in reasons], [LeftOut(*entry) for entry in reasons.items()]


def _made_differently(sides: Sequence[Side]) -> list[str]:
    """Say what two candidates disagree on where the base does not say; `pair` says the rest."""
    problems = []
    base, *others = (side.info.get("made_with") or {} for side in sides)
    for key in MUST_AGREE:
        known = {json.dumps(made[key], sort_keys=True) for made in others if made.get(key) is not None}
        if base.get(key) is None and len(known) > 1:
            problems.append(f"{key} differs between the tuned models: {listed(sorted(known), 3)}.")
    return problems


def _metrics_of_all(base: Side, sides: Mapping[str, Side], ids: Sequence[str]) -> list[str]:
    if not ids:
        raise InputError("No item is scored on every side.", fix='See "unscored" in the rows for the reasons.')
    common = [common_metrics(base, side, _pairs(base, side, ids))[0] for side in sides.values()]
    names = [name for name in common[0] if all(name in other for other in common)]
    if not names:
        raise InputError("The sides have no metric that all of them have.", fix="Evaluate all with the same metrics.")
    return names


def _with_values(
    name: str, base: Side, sides: Mapping[str, Side], ids: Sequence[str]
) -> tuple[list[str], list[LeftOut]]:
    """Return the items with a finite value on every side, and the others."""
    lacking: dict[str, LeftOut] = {}
    for side in sides.values():
        missing = measure(name, base, side, _pairs(base, side, ids)).left_out
        lacking |= {item.id: LeftOut(item.id, f"no finite {name} on every side") for item in missing}
    kept = [key for key in ids if key not in lacking]
    if not kept:
        raise InputError(f"No item has a finite {name} on every side.", fix="Choose another metric.")
    return kept, list(lacking.values())


def _pairs(one: Side, other: Side, ids: Iterable[str]) -> list[Pair]:
    return [Pair(key, one.rows[key], other.rows[key]) for key in ids]


def _duels(metric: str, sides: Mapping[str, Side], ids: Sequence[str], level: float) -> list[Duel]:
    """Compare every two candidates, in the order of their names: that they are given in then changes nothing."""
    names = list(combinations(sorted(sides), 2))
    measured: dict[str, Measured] = {
        str(number): measure(metric, sides[one], sides[other], _pairs(sides[one], sides[other], ids))
        for number, (one, other) in enumerate(names)
    }
    results = judged_together(measured, level, "pairs")
    return [Duel(one, other, results[str(number)]) for number, (one, other) in enumerate(names)]


def _ranked(results: Mapping[str, MetricResult], duels: Sequence[Duel]) -> list[Candidate]:
    """Return the candidates by rank, those of one rank by value and then by name."""
    lost = Counter({duel.one, duel.other}.difference({duel.better}).pop() for duel in duels if duel.better)
    ranks = {name: 1 + lost[name] for name in results}
    sizes = Counter(ranks.values())
    candidates = [Candidate(name, ranks[name], sizes[ranks[name]] > 1, result) for name, result in results.items()]
    return sorted(candidates, key=lambda one: (one.rank, _badness(one.result), one.name))


def _badness(result: MetricResult) -> float:
    return -result.tuned if result.higher_is_better else result.tuned


def _count_looks(base: Side, sides: Iterable[Side]) -> int | None:
    """Count each candidate as a look at this test set; return the number after the last."""
    test = test_hash(base.rows.values())
    return [count_look(test, tuned_hash(side.rows.values())) for side in sides][-1]


def _notes(base: Side, sides: Mapping[str, Side]) -> list[str]:
    model = _model(base)
    foreign = [name for name, side in sides.items() if model and _model(side) not in (None, model)]
    notes = [f"{name} was tuned from another model than this base: tuning alone did not make its difference."
             for name in foreign]  # fmt: skip
    return [*notes, OPTIMISTIC] if len(sides) > 1 else notes


def _model(side: Side) -> Any:
    """Return what identifies the model below an adapter: its weights where their hash is known."""
    model = (side.info.get("made_with") or {}).get("model")
    return (model.get("weights_sha256") or model) if isinstance(model, Mapping) else model


def _sentence(board: Leaderboard) -> str:
    first = [one.name for one in board.candidates if one.rank == 1]
    where = f"on {board.metric} ({board.items} item{'s' * (board.items != 1)})"
    if len(board.candidates) == 1:
        return f"{first[0]} is the only candidate {where}."
    if len(first) == 1:
        return f"{first[0]} ranks first {where}: no other is shown to be better."
    return f"{listed(first)} are tied for first place {where}: none is shown to be better than another of them."


def _table(board: Leaderboard) -> str:
    name = board.metric if board.higher_is_better else f"{board.metric} (lower is better)"
    head = ["rank", "model", name, "difference", f"{level_text(board.level)} interval", "p", "against the base"]
    widths = [high - low for low, high in (one.result.effect.interval or (0.0, 0.0) for one in board.candidates)]
    places = max(3, *map(decimals, widths))
    rows = [head, *(_row(one, places) for one in board.candidates), ["-", "base", f"{board.base:.{places}f}"]]
    rows = [[*row, *[""] * (len(head) - len(row))] for row in rows]
    columns = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, columns, strict=True)).rstrip() for row in rows
    )


def _row(candidate: Candidate, places: int) -> list[str]:
    result, interval = candidate.result, candidate.result.effect.interval
    return [
        candidate.place,
        candidate.name,
        f"{result.tuned:.{places}f}",
        f"{result.effect.difference:+.{places}f}",
        "-" if interval is None else interval_text(*interval),
        p_figure(result.p_adjusted),
        result.verdict.word,
    ]


def _rests_on(board: Leaderboard) -> str:
    tests = listed(dict.fromkeys(one.result.effect.test for one in board.candidates))
    lines = [f"Test: {tests}."]
    if len(board.candidates) > 1:
        lines.append(
            f"p is corrected for {len(board.candidates)} candidates (Holm); ranks rest on all {len(board.duels)} "
            "pairs of them, corrected alike. A rank is 1 plus the number of others shown to be better."
        )
    if board.looks is not None:
        lines.append(f"Results compared on this test set so far: {board.looks}.")
    lines += [f"Left out: {count} ({reason})." for reason, count in Counter(r for _, r in board.left_out).items()]
    return "\n".join([*lines, *(f"Note: {note}" for note in board.notes)])


def _ordinal(number: int) -> str:
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
