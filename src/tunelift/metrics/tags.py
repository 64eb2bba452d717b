"""Metrics of tags, one for each word of a text; prediction and reference are tags with blanks between.

All are made of counts over all items. Entities are read from tags as conlleval does (Tjong Kim Sang and De Meulder
2003), and seqeval by default: a tag is a prefix (B, I, E, S or O) and a type, and an I that follows no tag of its type
begins an entity all the same. seqeval_strict_f1 is seqeval's with mode="strict" and scheme=IOB2: there only a B begins
one, and other tags that mark no entity by that scheme mark none at all.
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

STRICT = "seqeval_strict_f1"

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


def strict_counts(answer: Answer) -> dict[str, float]:
    """Return the same of entities that the tags mark strictly by IOB2."""
    predicted, wanted = (set(strict_entities(tags.split())) for tags in (answer.prediction, answer.reference))
    return {"found": len(predicted & wanted), "predicted": len(predicted), "wanted": len(wanted)}


def strict_entities(tags: Sequence[str]) -> list[Entity]:
    """Return the entities that tags mark by IOB2, in order: a B and the I of its type behind it."""
    return [(kind, first, last) for kind, first, last in entities(tags) if tags[first].startswith("B-")]


def scheme(tags: Iterable[Sequence[str]]) -> str | None:
    """Return what the scheme of texts' tags is called; None where tags mark no entities."""
    prefixes, begins = set[str](), set[str]()
    for own in map(list, tags):
        prefixes |= {tag[0] for tag in own if _ENTITY.fullmatch(tag)}
        begins |= {own[first][0] for _, first, _ in entities(own) if _ENTITY.fullmatch(own[first])}
    if not prefixes:
        return None
    if prefixes & set("LU"):
        return "BILOU"
    if prefixes & set("ES"):
        return "IOBES"
    return "IO" if prefixes == {"I"} else "IOB2" if begins == {"B"} else "IOB1, or IOB2 with mistakes"


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
    corpus_metric(STRICT, strict_counts, seqeval_f1, "tags", bounds=(0, 1)),
    corpus_metric("token_accuracy", tag_counts, token_accuracy, "tags", bounds=(0, 1)),
):
    METRICS.add(_metric.name, _metric)
