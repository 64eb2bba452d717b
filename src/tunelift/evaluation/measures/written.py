"""What a model of an encoder and a decoder makes of each prompt: how likely the reference is, its answer, its label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tunelift.core import progress
from tunelift.evaluation.batching import by_length
from tunelift.evaluation.generation import Decoding, Ending, before_stop, end_ids
from tunelift.evaluation.measures.base import MEASURES, Compute, Measure, labels_how
from tunelift.evaluation.measures.ranked_labels import enough_labels
from tunelift.evaluation.rows import Found, answered, labelled
from tunelift.fast.targets import IGNORED
from tunelift.fast.undo import without_cache
from tunelift.model_facts.anatomy import base_of, pad_id
from tunelift.tasks.base import padded, padded_inputs
from tunelift.tasks.sequence_to_sequence import answer_logits, decoder_inputs, read_and_written

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


class WrittenLabel(WrittenLikelihood):
    """The label that a model finds likeliest to write is the prediction."""

    gives = frozenset({"label", "text", "likelihood", "text-likelihood"})
    ranks = True

    def begin(self) -> None:
        super().begin()
        labels = enough_labels(self.plan.labels)
        self.labels = {label: read_and_written(self.examples[0], self.renderer, label).written.ids for label in labels}

    def how(self) -> Mapping[str, Any]:
        return {**super().how(), "label_scoring": labels_how(self.plan)}

    def prepared(self) -> Compute:
        return self._ranked

    def _ranked(self, some: Sequence[int], advance: progress.Advance) -> dict[int, Found]:
        lengths = {label: len(ids) for label, ids in self.labels.items()} if self.plan.label_score == "mean" else None
        found = {}
        for i in some:
            likely = self.likelihoods([(self.read[i], ids) for ids in self.labels.values()], _silent)
            scores = dict(zip(self.labels, likely, strict=True))
            found[i] = labelled(self.examples[i].completion, scores, lengths, len(self.written[i]))
            advance(1)
        return found


def _silent(amount: int = 1, note: str = "") -> None:
    """Labels are no items: progress is told of those."""


MEASURES.add("written-likelihood", WrittenLikelihood)
MEASURES.add("written-answer", WrittenAnswer)
MEASURES.add("written-label", WrittenLabel)
