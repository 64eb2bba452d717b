"""How likely a model of an encoder and a decoder finds each reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from tunelift.core import progress
from tunelift.evaluation.batching import by_length
from tunelift.evaluation.measures.base import MEASURES, Compute, Measure
from tunelift.evaluation.rows import Found, answered
from tunelift.fast.targets import IGNORED
from tunelift.model_facts.anatomy import pad_id
from tunelift.tasks.base import padded, padded_inputs
from tunelift.tasks.sequence_to_sequence import answer_logits, read_and_written

ANSWER_TOO_LONG = "its answer is longer than max_length"

Ids = Sequence[int]


class WrittenLikelihood(Measure):
    """How likely a model finds each reference, EOS included; prompts are cut to the length of training."""

    gives = frozenset({"likelihood", "text-likelihood"})

    def begin(self) -> None:
        both = [read_and_written(example, self.renderer) for example in self.examples]
        self.read, self.written = [one.read.ids for one in both], [one.written.ids for one in both]
        self.fitting = [i for i, one in enumerate(both) if not one.written.truncated]
        self.truncated = sum(one.read.truncated for one in both)
        if self.truncated:
            progress.note(f"{self.truncated} of {len(both)} prompts were cut to {self.renderer.max_length} tokens.")

    def length(self, i: int) -> int:
        return max(len(self.read[i]), len(self.written[i]))

    def key(self, i: int) -> Any:
        return [self.read[i], self.written[i], self.examples[i].completion]

    def how(self) -> Mapping[str, Any]:
        return {"max_length": self.renderer.max_length}

    def noted(self) -> Mapping[str, Any]:
        return {"truncated": self.truncated}

    def row(self, i: int, found: Found | None) -> dict[str, Any]:
        if found is None:
            return {"metrics": {}, "unscored": ANSWER_TOO_LONG}
        return answered(self.examples[i], found, self.plan.metrics, self.wanted(i))

    def wanted(self, i: int) -> str | None:
        """Return the reference as metrics see it, where that is not the example's completion."""
        return None

    def prepared(self) -> Compute:
        return self._likely

    def _likely(self, some: Sequence[int], advance: progress.Advance) -> dict[int, Found]:
        pairs = [(self.read[i], self.written[i]) for i in some]
        likely = self.likelihoods(pairs, advance)
        return {i: Found(None, found, len(self.written[i])) for i, found in zip(some, likely, strict=True)}

    @torch.no_grad()
    def likelihoods(self, pairs: Sequence[tuple[Ids, Ids]], advance: progress.Advance) -> list[float]:
        """Return the summed log-likelihood (nats) of what is written behind what is read, of each pair."""
        found, pad = [0.0] * len(pairs), pad_id(self.model, self.tokenizer)
        lengths = [len(read) + len(written) for read, written in pairs]
        for group in by_length(lengths, self.plan.rows_at_once):
            inputs = padded_inputs([pairs[i][0] for i in group], pad, self.model.device)
            labels = padded([pairs[i][1] for i in group], IGNORED, self.model.device)
            likely = answer_logits(self.model, inputs, labels).double().log_softmax(dim=-1)
            of_tokens = likely.gather(2, labels.clamp_min(0)[..., None])[..., 0].masked_fill(labels == IGNORED, 0.0)
            for i, total in zip(group, of_tokens.sum(dim=1).tolist(), strict=True):
                found[i] = total
            advance(len(group))
        return found


MEASURES.add("written-likelihood", WrittenLikelihood)
