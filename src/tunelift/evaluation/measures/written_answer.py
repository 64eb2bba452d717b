"""What a decoder writes behind what an encoder read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tunelift.core import progress
from tunelift.evaluation.batching import by_length
from tunelift.evaluation.generation import Decoding, Ending, before_stop, end_ids
from tunelift.evaluation.measures.base import MEASURES, Compute
from tunelift.evaluation.measures.written_likelihood import WrittenLikelihood
from tunelift.evaluation.rows import Found
from tunelift.fast.undo import without_cache
from tunelift.model_facts.anatomy import base_of, pad_id
from tunelift.tasks.base import padded_inputs
from tunelift.tasks.sequence_to_sequence import decoder_inputs


class WrittenAnswer(WrittenLikelihood):
    """Greedy answers beside likelihoods: the likeliest token each time, without rules of a generation config."""

    gives = frozenset({"text", "likelihood", "text-likelihood"})
    at_once = 64
    passes = 2
    generates = True

    def how(self) -> Mapping[str, Any]:
        most, stop = self.plan.max_new_tokens, list(self.plan.stop)
        return {**super().how(), "decoding": {"method": "greedy", "max_new_tokens": most, "stop": stop}}

    def beside(self) -> Mapping[str, Any]:
        return {"ends": sorted(self._ends())}

    def prepared(self) -> Compute:
        decoding = Decoding(self._ends(), self.plan.max_new_tokens, self.context, self.plan.stop)
        return partial(self._answered, Ending(self.tokenizer, decoding))

    def _ends(self) -> set[int]:
        return end_ids(self.model) | set(self.renderer.end)

    def _answered(self, ending: Ending, some: Sequence[int], advance: progress.Advance) -> dict[int, Found]:
        found = self._likely(some, advance)
        for group in by_length([len(self.read[i]) for i in some], self.plan.rows_at_once):
            items = [some[at] for at in group]
            for i, ids in zip(items, self._written(items, ending), strict=True):
                answer = ending.continuation(ids)
                text = self.tokenizer.decode(answer.ids, skip_special_tokens=True).strip()
                found[i].prediction, found[i].cut = before_stop(text, self.plan.stop), answer.cut
            advance(len(group))
        return found

    @torch.no_grad()
    def _written(self, items: Sequence[int], ending: Ending) -> list[list[int]]:
        """Return what a model writes for these items; it reads once, and goes through all that is written each time.

        Caches of decoders differ by class, and the pass without one is that of the likelihoods.
        """
        inputs = padded_inputs([self.read[i] for i in items], pad_id(self.model, self.tokenizer), self.model.device)
        read, mask = base_of(self.model).get_encoder()(**inputs), inputs["attention_mask"]
        ids, answers, ended = self._start(len(items)), [list[int]() for _ in items], [False] * len(items)
        while not all(ended):
            told = {"encoder_outputs": read, "attention_mask": mask, "decoder_input_ids": ids}
            chosen = self.model(**told, **without_cache(self.model)).logits[:, -1].argmax(dim=-1)
            ids = torch.cat([ids, chosen[:, None]], dim=1)
            for answer, token, done in zip(answers, chosen.tolist(), ended, strict=True):
                answer.extend([] if done else [token])
            ended = [a or b for a, b in zip(ended, ending.reached(answers, [0] * len(items)), strict=True)]
        return answers

    def _start(self, rows: int) -> Tensor:
        """Return the token (rows, 1) behind which a decoder begins: what the model puts before labels."""
        labels = torch.tensor([self.written[0]] * rows, device=self.model.device)
        shifted = decoder_inputs(self.model, labels).get("decoder_input_ids")
        if shifted is not None:
            return shifted[:, :1]
        return torch.full((rows, 1), base_of(self.model).config.decoder_start_token_id, device=self.model.device)

    def wanted(self, i: int) -> str | None:
        """Return the reference as it comes back from its own tokens: what a model that repeats it is seen to say."""
        return str(self.tokenizer.decode(self.written[i], skip_special_tokens=True)).strip()


MEASURES.add("written-answer", WrittenAnswer)
