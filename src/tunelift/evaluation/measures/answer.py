"""What a language model answers in words of its own, and how likely it finds the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any

from tunelift.core import progress
from tunelift.data.answers import answer_text
from tunelift.evaluation.answers import greedy
from tunelift.evaluation.generation import Decoding, before_stop, end_ids
from tunelift.evaluation.measures.base import MEASURES, Compute
from tunelift.evaluation.measures.likelihood import Likelihood
from tunelift.evaluation.rows import Found, answered


class Answers(Likelihood):
    """Greedy answers beside likelihoods; both sides are read in the same way."""

    gives = frozenset({"text", "likelihood", "text-likelihood"})
    at_once = 64
    passes = 2
    generates = True

    def begin(self) -> None:
        super().begin()
        self.asked = self.renderer.asked(self.examples)

    def key(self, i: int) -> Any:
        return [*super().key(i), asdict(self.asked[i])]

    def how(self) -> Mapping[str, Any]:
        plan = self.plan
        decoding: dict[str, Any] = {"method": "greedy", "max_new_tokens": plan.max_new_tokens, "stop": list(plan.stop)}
        decoding |= {"thinking": plan.thinking} if plan.thinking != "strip" else {}
        return {**super().how(), "decoding": decoding}

    def beside(self) -> Mapping[str, Any]:
        return {"ends": sorted(self._stop_ids())}

    def prepared(self) -> Compute:
        lengths, most = [len(self._own_answer(i)) for i in self.fitting], self.plan.max_new_tokens
        if too_long := sum(length > most for length in lengths):
            progress.note(
                f"{self.title}: {too_long} of {len(lengths)} references are longer than evaluate.max_new_tokens "
                f"({most}), so that no answer can equal them; the longest has {max(lengths)} tokens."
            )
        view = self.view()
        prompts = [self.asked[i].ids for i in self.fitting]
        generate, self.fast_paths["generation"] = greedy(self.model, self.tokenizer, view.nats, prompts)
        stop = [*self.plan.stop, *self.renderer.stop_strings(self.examples[0])]
        decoding = Decoding(self._stop_ids(), self.plan.max_new_tokens, self.context, stop)

        def compute(some: Sequence[int], advance: progress.Advance) -> dict[int, Found]:
            found = self.likely(view, some, advance)
            asked = [self.asked[i].ids for i in some]
            for i, answer in zip(some, generate(asked, decoding, self.plan.rows_at_once, advance), strict=True):
                found[i].prediction, found[i].cut = before_stop(self._said(i, answer.ids), stop), answer.cut
            return found

        return compute

    def row(self, i: int, found: Found | None) -> dict[str, Any]:
        """The reference is read as it comes back from its own tokens: what a model that repeats it is seen to say."""
        return answered(self.examples[i], found, self.plan.metrics, self._said(i, self._own_answer(i)))

    def _said(self, i: int, ids: Sequence[int]) -> str:
        return answer_text(self.tokenizer, ids, self.asked[i].marks, keep_thinking=self.plan.thinking == "keep")

    def _own_answer(self, i: int) -> list[int]:
        """Return what the model has to write to answer item `i` as its reference does, without the end."""
        asked, prompt = self.asked[i].ids, self.prompts[i]
        ids = [*(prompt[len(asked) :] if prompt[: len(asked)] == asked else []), *self.completions[i]]
        return ids[:-1] if ids[-1:] and ids[-1] in self._ends else ids

    @cached_property
    def _ends(self) -> set[int]:
        """The tokens that end the references."""
        ends = {ids[-1] for ids in self.completions if ids and ids[-1] in self.renderer.special_ids}
        return ends | set(self.renderer.end)

    def _stop_ids(self) -> set[int]:
        return self._ends | end_ids(self.model)


MEASURES.add("answer", Answers)
