"""Metrics of items to which several labels may apply; prediction and reference are the labels joined by " | ".

They are scikit-learn's on matrices of 0 and 1, but for what is not defined there: a label that no item has or is given
counts in no mean over labels (scikit-learn: 0), and neither does one that no item has in the mean of average precision;
nothing predicted where nothing applies is right (scikit-learn's default: 0).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tunelift.core.records import LabelSet, ScoreRow
from tunelift.metrics.corpus import macro_f1
from tunelift.metrics.registry import METRICS, Answer, Floats, Metric, Totals, corpus_metric

SCORE, WANTED = "score ", "wanted "

NEUTRAL = 0.5
"""The probability from which a label applies, where no validation rows say another."""


def labels_of(text: str) -> frozenset[str]:
    """Return the labels that a text joins."""
    return frozenset(text.split(LabelSet.JOIN)) if text else frozenset()


def _both(answer: Answer) -> tuple[frozenset[str], frozenset[str]]:
    return labels_of(answer.prediction), labels_of(answer.reference)


def subset_accuracy(answer: Answer) -> float:
    """1 if the labels predicted are those wanted, none missing and none beside."""
    predicted, wanted = _both(answer)
    return float(predicted == wanted)


def f1_samples(answer: Answer) -> float:
    """F1 of an item's labels, from 0 to 1; 1 where none are predicted and none apply."""
    predicted, wanted = _both(answer)
    there = len(predicted) + len(wanted)
    return 2 * len(predicted & wanted) / there if there else 1.0


def micro_counts(answer: Answer) -> dict[str, float]:
    """Return how many labels are right, given wrongly, and missing."""
    predicted, wanted = _both(answer)
    return {"tp": len(predicted & wanted), "fp": len(predicted - wanted), "fn": len(wanted - predicted)}


def f1_micro(totals: Totals) -> Floats:
    """Return F1 over all labels of all items, every label of an item counting the same; 0 where there are none."""
    tp, fp, fn = (totals[name] for name in ("tp", "fp", "fn"))
    return np.asarray(2 * tp / np.maximum(2 * tp + fp + fn, 1))


def macro_counts(answer: Answer) -> dict[str, float]:
    """Return the same by label."""
    predicted, wanted = _both(answer)
    kinds = {"tp": predicted & wanted, "fp": predicted - wanted, "fn": wanted - predicted}
    return {f"{kind} {label}": 1 for kind, labels in kinds.items() for label in sorted(labels)} or {"none": 0}


def f1_macro(totals: Totals) -> Floats:
    """Return the mean over labels of each label's F1; the labels are those that a selection has, or is given."""
    return macro_f1({name: total for name, total in totals.items() if name != "none"} or {"tp ": totals["none"]})


def _applying(answer: Answer) -> frozenset[str]:
    """Return the labels that apply; a label whose name looks like several is one where the scores know it."""
    whole = answer.reference if answer.reference in answer.scores else answer.reference.strip()
    return frozenset({whole}) if whole in answer.scores else labels_of(whole)


def score_counts(answer: Answer) -> dict[str, float]:
    """Return the probability of each label, and whether it applies."""
    wanted = _applying(answer)
    scores = {f"{SCORE}{label}": score for label, score in answer.scores.items()}
    return scores | {f"{WANTED}{label}": float(label in wanted) for label in answer.scores}


def brier(answer: Answer) -> float:
    """Brier score (1950): the squared distance of the probabilities from what applies, summed over the labels.

    From 0 to 2 where one label applies; scikit-learn halves it for two classes.
    """
    wanted = _applying(answer)
    return sum((score - (label in wanted)) ** 2 for label, score in answer.scores.items())


def average_precision(items: Mapping[str, Floats], weights: Floats) -> Floats:
    """Return the mean over labels of the average precision, (selections,).

    A label's is the mean of the precision at each item that has it, items in the order of its score, equal scores being
    one place; labels that no item of a selection has are left out, and without any it is 0.
    """
    labels = _labels(items)
    total, there = np.zeros(len(weights)), np.zeros(len(weights))
    for label in labels:
        scores, wanted = items[SCORE + label], items[WANTED + label]
        if not wanted.any():
            continue
        order = np.argsort(-scores, kind="stable")
        starts = np.flatnonzero(np.concatenate([[True], np.diff(scores[order]) != 0]))
        taken = weights[:, order]
        right = np.add.reduceat(taken * wanted[order], starts, axis=1)  # (selections, places)
        found, seen = np.cumsum(right, axis=1), np.cumsum(np.add.reduceat(taken, starts, axis=1), axis=1)
        positives = found[:, -1]
        total += np.sum(right * found / np.maximum(seen, 1), axis=1) / np.maximum(positives, 1)
        there += positives > 0
    return np.asarray(total / np.maximum(there, 1))


def closeness(items: Mapping[str, Floats]) -> Floats:
    """Return how near each item's probabilities are to what applies, (items,): the mean absolute error, negative."""
    apart = [np.abs(items[SCORE + label] - items[WANTED + label]) for label in _labels(items)]
    return np.asarray(-np.mean(apart, axis=0))


def best_threshold(rows: Iterable[ScoreRow]) -> float | None:
    """Return `threshold_of` rows that hold the counts of average precision; None where no label applies to any."""
    counts: list[Mapping[str, Any]] = [row["counts"]["average_precision"] for row in rows if "unscored" not in row]
    pairs = [(one[SCORE + label], one[WANTED + label]) for one in counts for label in _labels(one)]
    found = threshold_of(*np.array(pairs, dtype=float).reshape(-1, 2).T)
    return found[1] if found[0] > 0 else None


def threshold_of(scores: Floats, wanted: Any) -> tuple[float, float]:
    """Return the highest micro F1 that a threshold can have on scores and what applies, of one shape, and it.

    It is one for all labels, since of each alone a validation set has few, in the middle of the two scores that it
    tells apart; of equally good ones the highest.
    """
    order = np.argsort(-scores.ravel(), kind="stable")
    ordered, right = scores.ravel()[order], wanted.ravel()[order].astype(float)
    if not right.any():
        return 0.0, 0.5
    ends = np.flatnonzero(np.concatenate([np.diff(ordered) != 0, [True]]))
    f1 = 2 * np.cumsum(right)[ends] / (ends + 1 + right.sum())
    best = int(ends[f1.argmax()])
    last, below = float(ordered[best]), float(ordered[best + 1]) if best + 1 < len(ordered) else 0.0
    middle = (last + below) / 2
    return float(f1.max()), middle if middle > below else last  # neighbours have no number between them


def _labels(counts: Iterable[str]) -> list[str]:
    return [name.removeprefix(SCORE) for name in counts if name.startswith(SCORE)]


METRICS.add("f1_micro", corpus_metric("f1_micro", micro_counts, f1_micro, "label-set", bounds=(0, 1)))
METRICS.add("f1_macro", corpus_metric("f1_macro", macro_counts, f1_macro, "label-set", bounds=(0, 1), sparse=True))
METRICS.add("f1_samples", Metric("f1_samples", f1_samples, "label-set", bounds=(0, 1)))
METRICS.add("subset_accuracy", Metric("subset_accuracy", subset_accuracy, "label-set", kind="binary", bounds=(0, 1)))
METRICS.add("brier", Metric("brier", brier, "label-probabilities", higher_is_better=False))
METRICS.add(
    "average_precision",
    Metric(
        "average_precision", None, "label-probabilities", "corpus",
        counts=score_counts, from_items=average_precision, closeness=closeness, bounds=(0, 1),
    ),
)  # fmt: skip
