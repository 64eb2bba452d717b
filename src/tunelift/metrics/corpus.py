"""Metrics of a whole data set, which are no mean over items: macro F1, BLEU, chrF.

Each item gives counts. The counts are summed over the items and then turned into the value, so that whoever has the
counts can have the value of any selection of the items, a slice or a resample, without the texts. The formulas take
many selections at once: totals by name, each of shape (selections,), to values of shape (selections,).
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any

import numpy as np

from tunelift.metrics.registry import METRICS, Answer, Floats, Totals, corpus_metric

ORDERS = range(1, 5)
"""BLEU counts runs of one to four tokens (Papineni et al. 2002)."""

CHARACTER_ORDERS = range(1, 7)
"""chrF counts runs of one to six characters (Popovic 2015)."""

RECALL_WEIGHT = 2
"""chrF2, the usual one: recall counts twice as much as precision (Popovic 2016)."""


def label_counts(answer: Answer) -> dict[str, float]:
    """Return `tp LABEL` for a right answer, else `fp PREDICTED` and `fn WANTED`; spaces around labels aside."""
    predicted, wanted = answer.prediction.strip(), answer.reference.strip()
    return {f"tp {wanted}": 1} if predicted == wanted else {f"fp {predicted}": 1, f"fn {wanted}": 1}


def macro_f1(totals: Totals) -> Floats:
    """Return the mean over labels of each label's F1, every label counting the same however often it occurs.

    The labels are those that a selection has, as references or as predictions; F1 is 2 tp / (2 tp + fp + fn).
    """
    shape = np.shape(next(iter(totals.values())))
    labels, values = np.zeros(shape), np.zeros(shape)
    for label in dict.fromkeys(name.partition(" ")[2] for name in totals):
        tp, fp, fn = (totals.get(f"{kind} {label}", np.zeros(shape)) for kind in ("tp", "fp", "fn"))
        there = 2 * tp + fp + fn
        labels += there > 0
        values += 2 * tp / np.maximum(there, 1)
    return np.asarray(values / np.maximum(labels, 1))


def bleu_counts(answer: Answer) -> dict[str, float]:
    """Return the lengths in tokens and the n-grams found and made, by sacrebleu's tokeniser 13a."""
    found = _sacrebleu_bleu().sentence_score(answer.prediction, [answer.reference])
    counts: dict[str, float] = {"predicted tokens": found.sys_len, "reference tokens": found.ref_len}
    counts |= {f"matched {order}": count for order, count in zip(ORDERS, found.counts, strict=True)}
    return counts | {f"predicted {order}": count for order, count in zip(ORDERS, found.totals, strict=True)}


def bleu(totals: Totals) -> Floats:
    """Return BLEU from 0 to 100: the brevity penalty times the geometric mean of the four precisions.

    Precisions without a match are smoothed as sacrebleu does by default (the NIST script's way: 1/2, 1/4, ... of a
    match in turn; Chen and Cherry 2014, doi:10.3115/v1/W14-3346, method 3). A selection without any match, or without
    any run of four tokens, has the value 0.
    """
    matched = np.stack([totals[f"matched {order}"] for order in ORDERS])  # (4, selections)
    predicted = np.stack([totals[f"predicted {order}"] for order in ORDERS])
    smoothed = np.where(matched == 0, 0.5 ** np.cumsum(matched == 0, axis=0), matched)
    mean_log = np.mean(np.log(smoothed / np.maximum(predicted, 1)), axis=0)
    length, wanted = totals["predicted tokens"], totals["reference tokens"]
    penalty = np.exp(np.minimum(0.0, 1 - wanted / np.maximum(length, 1)))
    defined = (matched.sum(axis=0) > 0) & (predicted[-1] > 0)
    return np.asarray(np.where(defined, 100 * penalty * np.exp(mean_log), 0.0))


def chrf_counts(answer: Answer) -> dict[str, float]:
    """Return, for each order, how many character n-grams the prediction and the reference have and share.

    White space does not count. As in sacrebleu, the prediction's are not counted where the reference is too short to
    have any of that order.
    """
    predicted, wanted = _character_ngrams(answer.prediction), _character_ngrams(answer.reference)
    counts: dict[str, float] = {}
    for order, made, there in zip(CHARACTER_ORDERS, predicted, wanted, strict=True):
        counts[f"predicted {order}"] = made.total() if there else 0
        counts[f"reference {order}"] = there.total()
        counts[f"matched {order}"] = (made & there).total()
    return counts


def chrf(totals: Totals) -> Floats:
    """Return chrF2 from 0 to 100 (Popovic 2015, doi:10.18653/v1/W15-3049).

    It is the F score of the mean precision and the mean recall over the orders that both sides have, as in sacrebleu.
    """
    shape = np.shape(totals["matched 1"])
    precision, recall, orders = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for order in CHARACTER_ORDERS:
        matched = totals[f"matched {order}"]
        made, there = totals[f"predicted {order}"], totals[f"reference {order}"]
        both = (made > 0) & (there > 0)
        precision += both * matched / np.maximum(made, 1)
        recall += both * matched / np.maximum(there, 1)
        orders += both
    precision, recall = precision / np.maximum(orders, 1), recall / np.maximum(orders, 1)
    weight = RECALL_WEIGHT**2
    below = weight * precision + recall
    return np.asarray(100 * (1 + weight) * precision * recall / np.where(below > 0, below, 1))


def _character_ngrams(text: str) -> list[Counter[str]]:
    from sacrebleu.metrics.helpers import extract_all_char_ngrams

    return list(extract_all_char_ngrams(text, CHARACTER_ORDERS[-1], include_whitespace=False))


@cache
def _sacrebleu_bleu() -> Any:
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(effective_order=True)  # changes no count; without it, sacrebleu warns on every single item


for _metric in (
    corpus_metric("macro_f1", label_counts, macro_f1, "label", bounds=(0, 1), sparse=True),
    corpus_metric("bleu", bleu_counts, bleu, "text", package="sacrebleu", bounds=(0, 100)),
    corpus_metric("chrf", chrf_counts, chrf, "text", package="sacrebleu", bounds=(0, 100)),
):
    METRICS.add(_metric.name, _metric)
