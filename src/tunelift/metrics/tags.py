"""Metrics of tags, one for each word of a text; prediction and reference are tags with blanks between.

Both are made of counts over all items. Entities are read from tags as conlleval does (Tjong Kim Sang and De Meulder
2003), and seqeval by default: a tag is a prefix (B, I, E, S or O) and a type, and an I that follows no tag of its type
begins an entity all the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

from tunelift.metrics.registry import METRICS, Answer, Floats, Totals, corpus_metric

Entity = tuple[str, int, int]
"""Its type, and its first and last word."""

ENTITY_PROBABILITIES, WORD_PROBABILITIES = "entity_probabilities", "word_probabilities"
"""Under which name a row has the probability of each entity that it gives, in order, or of each word's tag."""

_ENTITY = re.compile(r"[BIESLU]-.+")


def tag_counts(answer: Answer) -> dict[str, float]:
    """Return how many words there are, and how many have the right tag."""
    predicted, wanted = answer.prediction.split(), answer.reference.split()
    return {"right": sum(a == b for a, b in zip(predicted, wanted, strict=True)), "words": len(wanted)}


def token_accuracy(totals: Totals) -> Floats:
    """Return the share of words with the right tag, every word counting the same."""
    return np.asarray(totals["right"] / np.maximum(totals["words"], 1))


def entity_counts(answer: Answer) -> dict[str, float]:
    """Return how many entities were predicted, wanted, and found in all of type, first and last word."""
    predicted, wanted = (set(entities(tags.split())) for tags in (answer.prediction, answer.reference))
    return {"found": len(predicted & wanted), "predicted": len(predicted), "wanted": len(wanted)}


def seqeval_f1(totals: Totals) -> Floats:
    """Return the micro-averaged F1 of entities, from 0 to 1; 0 where there are none."""
    return np.asarray(2 * totals["found"] / np.maximum(totals["predicted"] + totals["wanted"], 1))


def marks_entities(tags: Iterable[str]) -> bool:
    """Tell whether some tag is of an entity: a prefix, a hyphen and a type."""
    return any(_ENTITY.fullmatch(tag) for tag in tags)


def continues(before: str, tag: str) -> bool:
    """Tell whether a tag goes on with the entity of the tag before it."""
    return before[:1] not in "OES" and tag[:1] not in "OBS" and _type(before) == _type(tag)


def entities(tags: Sequence[str]) -> list[Entity]:
    """Return the entities that tags mark, in order."""
    found, before, begun = list[Entity](), "O", 0
    for place, tag in enumerate([*tags, "O"]):
        if continues(before, tag):
            before = tag
            continue
        if before[:1] != "O":
            found.append((_type(before), begun, place - 1))
        before, begun = tag, place
    return found


def _type(tag: str) -> str:
    return tag[1:].partition("-")[2] or tag[1:] or "_"


for _metric in (
    corpus_metric("seqeval_f1", entity_counts, seqeval_f1, "tags", bounds=(0, 1)),
    corpus_metric("token_accuracy", tag_counts, token_accuracy, "tags", bounds=(0, 1)),
):
    METRICS.add(_metric.name, _metric)
