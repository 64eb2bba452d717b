"""Successive halving (Jamieson and Talwalkar 2016, arXiv 1502.07943): the better half goes on with twice the length.

The first round tries every entry with every learning rate, and keeps for each the one with the lowest loss on
validation; the rounds after it keep the better entries. Each round trains anew, so that its schedule ends where its
training does. The last round is of full length, and has as many entries as there are finalists.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tunelift.config.schema import LeaderboardSection
from tunelift.core import progress
from tunelift.core.errors import TuneliftError, listed
from tunelift.pipeline.choices import settled, task_for
from tunelift.run_files.layout import LeaderboardPaths
from tunelift.scale.candidates import Candidate, with_values
from tunelift.scale.lengths import Lengths, part_of

Train = Callable[[list[Candidate]], None]
"""Trains what is not trained yet."""


@dataclass(frozen=True, slots=True)
class Round:
    """One round: how many entries it has, and which share of the full length each trains."""

    number: int
    entries: int
    share: float

    @property
    def part(self) -> str:
        """Return the name of its folder."""
        return f"round-{self.number}"


def rounds(count: int, finalists: int) -> list[Round]:
    """Return the rounds from `count` entries down to the finalists, the last of full length."""
    last = max(0, math.ceil(math.log2(count / finalists)))
    kept = [max(min(finalists, count), math.ceil(count / 2**number)) for number in range(last + 1)]
    return [Round(number, entries, 2.0 ** (number - last)) for number, entries in enumerate(kept)]


def in_round(
    entry: Candidate, this: Round, factor: float, length: Mapping[str, float], paths: LeaderboardPaths
) -> Candidate:
    """Return the training of an entry in a round, with a multiple of its own learning rate."""
    rate = settled(entry.config, task_for(entry.config)).train.learning_rate * factor
    name = f"{entry.name}-x{factor:g}" if this.number == 0 else entry.name
    values = {**part_of(length, this.share), "train.learning_rate": float(f"{rate:.6g}")}
    place = paths.run(this.part, name)
    config = with_values(entry.config, values).model_copy(update={"output": str(place.folder)})
    return Candidate(name, values, config, place, paths.asked(this.part, name), paths.log(this.part, name))


@dataclass(frozen=True, slots=True)
class Halved:
    """What the rounds came to: the finalists, the best first, each with its full training; and how many were tried.

    `told` is what happened in each round, for leaderboard.json; `edge` are entries whose best rate was the least or
    the greatest that was tried, so that another may be better.
    """

    finalists: Sequence[tuple[Candidate, Candidate]]
    tried: int
    trained: int
    told: Sequence[Mapping[str, object]]
    edge: Sequence[str]


def halved(
    entries: Sequence[Candidate], board: LeaderboardSection, lengths: Lengths, paths: LeaderboardPaths, train: Train
) -> Halved:
    """Run the rounds; what is trained already is not trained again. Raises TuneliftError where nothing is left."""
    factors = {entry.name: list(board.rates) for entry in entries}
    left, told, tried, edge = list(entries), list[Mapping[str, object]](), list[Candidate](), list[str]()
    best: dict[str, tuple[float, Candidate]] = {}
    for this in rounds(len(entries), board.finalists):
        left = left[: this.entries]
        own = {
            entry.name: {f: in_round(entry, this, f, lengths[entry.name], paths) for f in factors[entry.name]}
            for entry in left
        }
        open_now = [candidate for by_factor in own.values() for candidate in by_factor.values()]
        progress.note(f"{this.part}: {len(left)} entries, {len(open_now)} trainings of {this.share:.3g} of the length")
        train(open_now)
        tried += open_now
        best = {name: min(by.items(), key=lambda one: one[1].loss) for name, by in own.items()}
        if this.number == 0 and len(board.rates) > 1:
            edge = [n for n, (f, one) in best.items() if f in (min(board.rates), max(board.rates)) and one.trained]
        factors = {name: [factor] for name, (factor, _) in best.items()}
        left = sorted((e for e in left if math.isfinite(best[e.name][1].loss)), key=lambda e: best[e.name][1].loss)
        told.append({"round": this.number, "share": this.share, "candidates": [one.to_dict() for one in open_now]})
        failed = [one.name for one in open_now if not math.isfinite(one.loss)]
        if failed:
            progress.note(f"{this.part}: without a loss on validation, and left out: {listed(failed)}")
        if not left:
            raise TuneliftError(f"No entry was trained with a loss on validation; logs lie in {paths.folder}.")
    finalists = [(entry, best[entry.name][1]) for entry in left[: board.finalists]]
    return Halved(finalists, len(tried), sum(one.trained for one in tried), told, edge)
