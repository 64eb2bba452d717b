"""Several answers that are drawn from a language model, beside its greedy one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tunelift.core import progress
from tunelift.evaluation.answers import greedy
from tunelift.evaluation.generation import Decoding, Sampling, before_stop
from tunelift.evaluation.measures.answer import Answers
from tunelift.evaluation.measures.base import MEASURES, Compute, short_hash
from tunelift.evaluation.rows import Found

SEED = 0
"""That of all draws: with another one a comparison would be of other answers."""


class SampledAnswers(Answers):
    """As many answers of each item as metrics look at; base and tuned draw by the same random numbers, the item's."""

    gives = Answers.gives | {"samples"}
    at_once = 16

    @property
    def passes(self) -> int:  # type: ignore[override]
        """Once for likelihoods, once for the greedy answer, once for each drawn one."""
        return 2 + self.plan.samples

    def how(self) -> Mapping[str, Any]:
        plan, how = self.plan, dict(super().how())
        sampling = {"samples": plan.samples, "temperature": plan.temperature, "seed": SEED}
        return how | {"decoding": {**how["decoding"], "sampling": sampling}}

    def prepared(self) -> Compute:
        answer = super().prepared()
        generate, _ = greedy(self.model, self.tokenizer, self.view().nats, [self.asked[i].ids for i in self.fitting])
        stop = [*self.plan.stop, *self.renderer.stop_strings(self.examples[0])]
        decoding = Decoding(self._stop_ids(), self.plan.max_new_tokens, self.context, stop)

        def compute(some: Sequence[int], advance: progress.Advance) -> dict[int, Found]:
            found, count = answer(some, advance), self.plan.samples
            asked = [self.asked[i].ids for i in some for _ in range(count)]
            names = [f"{short_hash(list(self.asked[i].ids))} {number}" for i in some for number in range(count)]
            drawn = replace(decoding, sampling=Sampling(self.plan.temperature, SEED, names))
            answers = iter(generate(asked, drawn, self.plan.rows_at_once, advance))
            for i in some:
                found[i].samples = [before_stop(self._said(i, next(answers).ids), stop) for _ in range(count)]
            return found

        return compute


MEASURES.add("samples", SampledAnswers)
