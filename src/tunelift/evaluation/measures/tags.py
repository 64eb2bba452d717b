"""Which tag a head finds likeliest for each word of a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch

from tunelift.core import progress
from tunelift.core.records import Tags
from tunelift.evaluation.batching import by_length
from tunelift.evaluation.measures.base import MEASURES, Compute, Measure, labels_how
from tunelift.evaluation.rows import TOO_LONG, Found, answered
from tunelift.fast.classifying import ClassLogits
from tunelift.model_facts.anatomy import pad_id
from tunelift.tasks.base import padded_inputs
from tunelift.tasks.token_classification import words_to_tokens

NO_TOKEN = "a word of it has no token"


class TagOfEachWord(Measure):
    """The tags of an item are its prediction; its log-likelihood is the sum over words (nats). No text is cut."""

    gives = frozenset({"tags", "likelihood"})

    def begin(self) -> None:
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
                found[i] = Found(" ".join(tags), total, len(tags))
            advance(len(group))
        return found


MEASURES.add("tags", TagOfEachWord)
