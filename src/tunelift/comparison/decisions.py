"""Answers with probabilities as arrays: which of the labels was chosen, how sure of it a side was, whether it is right.

The confidence of an answer is the share of the chosen label in the probability of all labels whose score the row holds.
A score is the label's log-likelihood as a whole, also where labels were ranked by the mean per token: a mean is no
probability of anything. Where several labels may apply, each label of an item is a decision of its own, whose
confidence is the probability that it applies, and it is right where it does. Of a text whose words are tagged each
entity that is given is a decision, since it is what people act on, and nine words in ten are in none; it is right where
type, first and last word are. Where tags mark no entities, each word is one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tunelift.comparison.draws import Floats
from tunelift.core.records import ScoreRow
from tunelift.metrics.label_sets import SCORE, WANTED
from tunelift.metrics.tags import ENTITY_PROBABILITIES, WORD_PROBABILITIES, entities

Indices = NDArray[np.intp]
Kind = Literal["answers", "labels", "entities", "words"]
"""What a decision is: an answer, a label that may apply among several, an entity that is given, the tag of a word."""

_NONE: Indices = np.zeros(0, dtype=np.intp)

LEAST = 1e-15
"""A probability of a label in a set is taken to be at least so far from 0 and 1, so that its log-odds are finite."""


@dataclass(frozen=True, slots=True)
class Decisions:
    """Decisions of one side, in the order of their rows.

    `scores` are log-likelihoods (nats) of shape (decisions, labels), minus infinity where a row lacks a label; `chosen`
    and `wanted` are places in it, `wanted` -1 where the reference is none of the labels; `right` is 0 or 1; `row` is
    the number of the row that a decision is of, `of` what each is. `missed` are the rows of entities that are there and
    were not given, (missed,).
    """

    scores: Floats
    chosen: Indices
    wanted: Indices
    right: Floats
    row: Indices
    of: Kind
    missed: Indices

    @property
    def of_two(self) -> bool:
        """Whether a decision has one probability, of being right, and no other labels."""
        return self.of != "answers"

    def shares(self, temperature: float = 1.0) -> Floats:
        """Return the probability of each label, (decisions, labels), the scores being divided by a temperature."""
        scaled = self.scores / temperature
        shares = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        return np.asarray(shares / shares.sum(axis=1, keepdims=True))

    def confidence(self, temperature: float = 1.0) -> Floats:
        """Return the probability of what was chosen, (decisions,)."""
        return np.asarray(self.shares(temperature)[np.arange(len(self.chosen)), self.chosen])

    def brier(self, temperature: float = 1.0) -> Floats:
        """Return each decision's Brier score (1950), (decisions,): the squared distance from what applies.

        It is summed over the labels, from 0 to 2; where there is one probability it is that of this one, from 0 to 1.
        """
        shares, known = self.shares(temperature), np.flatnonzero(self.wanted >= 0)
        squares = np.sum(shares**2, axis=1) + 1.0
        squares[known] -= 2 * shares[known, self.wanted[known]]
        return np.asarray(np.maximum(squares, 0.0) / (2.0 if self.of_two else 1.0))


def has_probabilities(row: ScoreRow) -> bool:
    """Return whether an answer's confidence is known: other labels may be impossible, none may be NaN."""
    prediction, scores = row.get("prediction"), row.get("label_scores") or {}
    if not scores:
        return bool(set_scores(row)) or tagged(row) is not None
    if not isinstance(prediction, str) or scores.get(prediction) is None:
        return False
    return math.isfinite(scores[prediction]) and all(score < math.inf for score in scores.values())


def set_scores(row: ScoreRow) -> dict[str, tuple[float, bool]]:
    """Return of each label that may apply its probability and whether it does; empty where the row has none."""
    counts = (row.get("counts") or {}).get("average_precision") or {}
    if row.get("label_scores") or not isinstance(counts, Mapping):
        return {}
    labels = [name.removeprefix(SCORE) for name in counts if name.startswith(SCORE)]
    found = {label: (counts[SCORE + label], counts.get(WANTED + label)) for label in labels}
    if any(wanted not in (0, 1) or not 0 <= score <= 1 for score, wanted in found.values()):
        return {}
    return {label: (float(score), bool(wanted)) for label, (score, wanted) in found.items()}


@dataclass(frozen=True, slots=True)
class Tagged:
    """The decisions of one row: the probability of each and whether it is right, and how many are `missed`."""

    of: Kind
    given: Sequence[tuple[float, bool]]
    missed: int


def tagged(row: ScoreRow) -> Tagged | None:
    """Return what a row of tags says of the entities that it gives, or of its words; None where it has no such row."""
    key = next((key for key in (ENTITY_PROBABILITIES, WORD_PROBABILITIES) if isinstance(row.get(key), list)), None)
    said, wanted = (str(row.get(key) or "").split() for key in ("prediction", "reference"))
    if key is None or len(said) != len(wanted):
        return None
    if key == WORD_PROBABILITIES:
        right, missed = [one == other for one, other in zip(said, wanted, strict=True)], 0
    else:
        given, there = entities(said), set(entities(wanted))
        right, missed = [entity in there for entity in given], len(there - set(given))
    likely = row[key]
    if len(likely) != len(right) or any(type(p) not in (int, float) or not 0 <= p <= 1 for p in likely):
        return None
    kind: Kind = "words" if key == WORD_PROBABILITIES else "entities"
    return Tagged(kind, [(float(p), one) for p, one in zip(likely, right, strict=True)], missed)


def decisions_of(rows: Sequence[ScoreRow]) -> Decisions | None:
    """Return the decisions of rows with probabilities; None where they are not of one kind, or none is made."""
    kinds = {_kind(row) for row in rows}
    if len(kinds) > 1:
        return None
    (kind,) = kinds
    return _of_labels(rows) if kind == "answers" else _of_two(rows, kind)


def _kind(row: ScoreRow) -> Kind:
    found = None if row.get("label_scores") else tagged(row)
    return "answers" if row.get("label_scores") else "labels" if found is None else found.of


def _of_labels(rows: Sequence[ScoreRow]) -> Decisions:
    most = max(len(row["label_scores"]) for row in rows)
    scores, places = np.full((len(rows), most), -np.inf), list[tuple[int, int]]()
    for number, row in enumerate(rows):
        known: Mapping[str, float] = row["label_scores"]
        scores[number, : len(known)] = list(known.values())
        labels, wanted = list(known), str(row["reference"]).strip()
        at = next((place for place, label in enumerate(labels) if label.strip() == wanted), -1)
        places.append((labels.index(row["prediction"]), at))
    chosen, wanted_at = np.array(places, dtype=np.intp).T
    right = [float(str(row["prediction"]).strip() == str(row["reference"]).strip()) for row in rows]
    return Decisions(scores, chosen, wanted_at, np.array(right), np.arange(len(rows)), "answers", _NONE)


def _of_two(rows: Sequence[ScoreRow], of: Kind) -> Decisions | None:
    """Return decisions that have one probability each: labels of sets, entities, or words."""
    found, missed = list[tuple[int, float, bool]](), list[int]()
    for number, row in enumerate(rows):
        one = tagged(row) if of != "labels" else Tagged(of, list(set_scores(row).values()), 0)
        if one is not None:
            found += [(number, score, right) for score, right in one.given]
            missed += [number] * one.missed
    if not found:
        return None
    row_of, score, right = (np.array(column) for column in zip(*found, strict=True))
    likely = np.clip(score.astype(float), LEAST, 1 - LEAST)
    return Decisions(
        scores=np.stack([np.log(likely), np.log1p(-likely)], axis=1),
        chosen=np.zeros(len(row_of), dtype=np.intp),
        wanted=np.where(right, 0, 1).astype(np.intp),
        right=right.astype(float),
        row=row_of.astype(np.intp),
        of=of,
        missed=np.array(missed, dtype=np.intp),
    )


def numbered_units(clusters: Sequence[Any] | None, member: Indices) -> Indices:
    """Return the number of the unit of each pair, (pairs,): its cluster's, or its item's where there are none.

    `member` is the number of each pair's item, `clusters` the cluster of each item.
    """
    if clusters is None:
        return member
    return np.asarray(np.unique(clusters, return_inverse=True)[1][member], dtype=np.intp)
