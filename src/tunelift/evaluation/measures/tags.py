"""Which tag a head finds likeliest for each word of a text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tunelift.core import progress
from tunelift.core.errors import InputError, listed
from tunelift.core.records import Tags
from tunelift.evaluation.batching import by_length
from tunelift.evaluation.measures.base import MEASURES, Compute, Measure, labels_how
from tunelift.evaluation.plan import Plan
from tunelift.evaluation.rows import TOO_LONG, Found, answered
from tunelift.fast.classifying import ClassLogits
from tunelift.metrics.tags import (
    ENTITY_PROBABILITIES,
    STRICT,
    WORD_PROBABILITIES,
    Entity,
    continues,
    entities,
    marks_entities,
)
from tunelift.model_facts.anatomy import pad_id
from tunelift.tasks.base import padded_inputs
from tunelift.tasks.token_classification import words_to_tokens

Floats = NDArray[np.float64]

NO_TOKEN = "a word of it has no token"


class TagOfEachWord(Measure):
    """The tags of an item are its prediction; its log-likelihood is the sum over words (nats). No text is cut.

    A row says how likely each entity is that its tags mark, or, where tags mark none, each word's tag.
    """

    gives = frozenset({"tags", "likelihood"})

    @classmethod
    def tells_probabilities(cls, plan: Plan) -> bool:
        return True

    def begin(self) -> None:
        if any(m.name == STRICT for m in self.plan.metrics) and any(
            re.fullmatch("[ESLU]-.+", t) for t in self.plan.labels
        ):
            raise InputError(
                f"{STRICT} reads entities by IOB2, and the tags have the prefixes of another scheme: "
                f"{listed(self.plan.labels)}.",
                fix="Take seqeval_f1, or write the tags as B-, I- and O.",
            )
        index = {label: i for i, label in enumerate(self.plan.labels)}
        self.rows, self.firsts, self.wanted = [], [], []
        self.reasons: dict[int, str] = {}
        for i, example in enumerate(self.examples):
            assert isinstance(example.wanted, Tags)
            tokens, firsts = words_to_tokens(example, self.tokenizer, 2**31)
            self.rows.append(tokens.ids)
            self.firsts.append([place for place in firsts if place is not None])
            self.wanted.append([index.get(tag, -1) for tag in example.wanted.tags])
            if -1 in self.wanted[i]:
                unknown = example.wanted.tags[self.wanted[i].index(-1)]
                self.reasons[i] = f"the tag {unknown!r} is not among the labels"
            elif len(tokens.ids) > self.context:
                self.reasons[i] = TOO_LONG
            elif None in firsts:
                self.reasons[i] = NO_TOKEN
        self.fitting = [i for i in range(len(self.rows)) if i not in self.reasons]

    def length(self, i: int) -> int:
        return len(self.rows[i])

    def key(self, i: int) -> Any:
        return [self.rows[i], self.firsts[i], self.wanted[i]]

    def how(self) -> Mapping[str, Any]:
        return {"label_scoring": labels_how(self.plan), "max_length": self.context}

    def prepared(self) -> Compute:
        return partial(self._tagged, ClassLogits(self.model, [self.rows[i] for i in self.fitting]))

    def row(self, i: int, found: Found | None) -> dict[str, Any]:
        if found is None:
            return {"metrics": {}, "unscored": self.reasons[i]}
        return answered(self.examples[i], found, self.plan.metrics)

    @torch.no_grad()
    def _tagged(self, logits: ClassLogits, some: Sequence[int], advance: progress.Advance) -> dict[int, Found]:
        pad, found = pad_id(self.model, self.tokenizer), dict[int, Found]()
        for group in by_length([len(self.rows[i]) for i in some], max(self.plan.rows_at_once, 64)):
            items = [some[at] for at in group]
            inputs = padded_inputs([self.rows[i] for i in items], pad, self.model.device)
            likely = logits(inputs).double().log_softmax(dim=-1)
            for i, own in zip(items, likely, strict=True):
                of_words = own[self.firsts[i]]  # (words, classes)
                wanted = torch.tensor(self.wanted[i], dtype=torch.long, device=own.device)
                tags = [self.plan.labels[int(best)] for best in of_words.argmax(dim=-1)]
                total = float(of_words.gather(1, wanted[:, None]).sum())
                found[i] = Found(
                    " ".join(tags), total, len(tags), beside=self._confidence(of_words.exp().cpu().numpy())
                )
            advance(len(group))
        return found

    def _confidence(self, shares: Floats) -> dict[str, list[float]]:
        """Return what a row says of how sure its tags are; `shares` (words, labels) are probabilities."""
        best = shares.argmax(axis=1)
        if not marks_entities(self.plan.labels):
            return {WORD_PROBABILITIES: shares.max(axis=1).tolist()}
        found = entities([self.plan.labels[at] for at in best])
        return {ENTITY_PROBABILITIES: [entity_probability(shares, self.plan.labels, one) for one in found]}


def entity_probability(shares: Floats, labels: Sequence[str], entity: Entity) -> float:
    """Return how likely it is that tags drawn for each word by itself, from `shares` (words, labels), mark an entity.

    Of all sequences of tags those count that mark it with this type, first and last word, by whatever tags of its type
    they do so. Summed word by word, since whether a tag goes on depends on the one before it alone.
    """
    kind, first, last = entity
    goes_on, kinds = _scheme(tuple(labels))
    of_kind = np.array([own == kind for own in kinds])
    begins = np.ones(len(labels)) if first == 0 else shares[first - 1] @ ~goes_on
    likely = shares[first] * of_kind * begins
    for word in range(first + 1, last + 1):
        likely = shares[word] * (likely @ goes_on)
    ends = np.ones(len(labels)) if last + 1 == len(shares) else ~goes_on @ shares[last + 1]
    return min(1.0, float(likely @ ends))


@lru_cache(maxsize=8)
def _scheme(labels: tuple[str, ...]) -> tuple[NDArray[np.bool_], list[str | None]]:
    """Return which tags go on with the entity of which before them, (before, tag), and of what type each begins one."""
    goes_on = np.array([[continues(before, tag) for tag in labels] for before in labels])
    return goes_on, [entities([tag])[0][0] if entities([tag]) else None for tag in labels]


MEASURES.add("tags", TagOfEachWord)
