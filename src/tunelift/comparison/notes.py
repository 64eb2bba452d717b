"""What a reader of a comparison should know besides: about the files, their items and how they were made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tunelift.comparison.measured import Measured
from tunelift.comparison.pairing import Pair, Side


def notes_on(base: Side, tuned: Side, headline: Measured, alone: Sequence[str], nowhere: Sequence[str]) -> list[str]:
    """Return the notes on a comparison: `alone` are metrics of one side, `nowhere` says which no item has on both."""
    notes = [str(note) for side in (base, tuned) for note in side.info.get("notes") or []]
    notes += [f"{name} is there on one side only and is not compared." for name in alone]
    notes += nowhere
    notes += [*_sameness(headline.pairs), *_repeats(headline), *_differently_made(base, tuned)]
    return list(dict.fromkeys(notes))


def _sameness(pairs: Sequence[Pair]) -> Iterator[str]:
    """Say that both sides are one result, or gave the same answers: then there is nothing to find."""
    if all(pair.base == pair.tuned for pair in pairs):
        yield "base and tuned are the same results, row by row: was one file given twice?"
        return
    answers = [(pair.base.get("prediction"), pair.tuned.get("prediction")) for pair in pairs]
    if all(one and one == other for one, other in answers):
        yield "base and tuned gave the same answer to every item; only their likelihoods or scores differ."


def _repeats(headline: Measured) -> Iterator[str]:
    known = headline.over(headline.both)
    rows, items = len(known.pairs), headline.items
    if rows > items:
        yield (
            f"{rows} rows are {items} items: rows of equal input and reference are averaged first, since they tell "
            "no more than one."
        )


def _differently_made(base: Side, tuned: Side) -> Iterator[str]:
    made: list[Any] = [side.info.get("made_with") or {} for side in (base, tuned)]
    dtypes = [one.get("dtype") for one in made]
    if None not in dtypes and dtypes[0] != dtypes[1]:
        yield f"base was computed in {dtypes[0]}, tuned in {dtypes[1]}: part of the difference may be rounding."
    paths = [one.get("fast_paths") or {} for one in made]
    apart = [name for name in paths[0] if name in paths[1] and paths[0][name] != paths[1][name]]
    if apart:
        ways = "; ".join(f"{name}: {paths[0][name]} for base, {paths[1][name]} for tuned" for name in apart)
        yield f"base and tuned were computed in different ways ({ways}): part of the difference may be rounding."
