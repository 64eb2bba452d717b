"""Which part of its passage a head finds likeliest to answer a question, over all windows of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from tunelift.core import progress
from tunelift.core.records import Pair, Spans
from tunelift.data.windows import Window, overlap
from tunelift.evaluation.batching import by_length
from tunelift.evaluation.measures.base import MEASURES, Compute, Measure
from tunelift.evaluation.rows import Found, answered
from tunelift.fast.classifying import ClassLogits
from tunelift.fast.targets import IGNORED
from tunelift.metrics.spans import NEUTRAL_NONE
from tunelift.model_facts.anatomy import pad_id
from tunelift.tasks.base import padded_inputs
from tunelift.tasks.question_answering import asked_windows, has_none, positions, without_padding


class BestSpan(Measure):
    """The span whose first and last token score highest together is the prediction, of all windows of the item.

    Where questions of the set have no answer, or a threshold was chosen where some have none, none is predicted if it
    scores higher by more than the threshold: as the token that stands for none does in the window where it does so
    least. An item's log-likelihood (nats) is that of both positions in each of its
    windows, as they are learned.
    """

    gives = frozenset({"text", "likelihood"})

    def begin(self) -> None:
        self.width = self.renderer.max_length
        self.windows = list(asked_windows(self.examples, self.tokenizer, self.width))
        self.wanted: list[list[tuple[int, int]]] = []
        self.reasons: dict[int, str] = {}
        for i, (example, some) in enumerate(zip(self.examples, self.windows, strict=True)):
            assert isinstance(example.wanted, Spans)
            placed = positions(some, example.wanted)
            if isinstance(placed, str):
                self.reasons[i] = placed
            self.wanted.append([] if isinstance(placed, str) else placed)
        self.fitting = [i for i in range(len(self.examples)) if i not in self.reasons]

    def length(self, i: int) -> int:
        return max((len(window.ids) for window in self.windows[i]), default=0)

    def key(self, i: int) -> Any:
        given = self.examples[i].given
        assert isinstance(given, Pair)
        return [[window.ids for window in self.windows[i]], self.wanted[i], given.second]

    def how(self) -> Mapping[str, Any]:
        longest = self.plan.max_answer_tokens
        return {"max_length": self.width, "spans": {"overlap": overlap(self.width), "max_answer_tokens": longest}}

    def noted(self) -> Mapping[str, Any]:
        return {"none_threshold": self.none_from}

    @cached_property
    def none_from(self) -> float | None:
        """Above which lead over the best span none is predicted; None where it never is."""
        if self.plan.threshold is None:
            return NEUTRAL_NONE if any(map(has_none, self.examples)) else None
        return self.plan.threshold

    def prepared(self) -> Compute:
        rows = [window.ids for i in self.fitting for window in self.windows[i]]
        return partial(self._answered, ClassLogits(self.model, rows))

    def row(self, i: int, found: Found | None) -> dict[str, Any]:
        if found is None:
            return {"metrics": {}, "unscored": self.reasons[i]}
        lead = found.beside.get("none_over_span")
        if self.none_from is None or lead is None:
            return answered(self.examples[i], replace(found, beside={}), self.plan.metrics)
        text = "" if lead > self.none_from else str(found.prediction)
        beside = {"none_over_span": lead, "best_span": found.prediction}
        return answered(self.examples[i], replace(found, prediction=text, beside=beside), self.plan.metrics)

    @torch.no_grad()
    def _answered(self, logits: ClassLogits, some: Sequence[int], advance: progress.Advance) -> dict[int, Found]:
        asked = [(i, number) for i in some for number in range(len(self.windows[i]))]
        said: dict[tuple[int, int], Tensor] = {}
        pad, rows = pad_id(self.model, self.tokenizer), [self.windows[i][number] for i, number in asked]
        for group in by_length([len(row.ids) for row in rows], max(self.plan.rows_at_once, 64)):
            segments = [rows[at].segments for at in group]
            inputs = padded_inputs([rows[at].ids for at in group], pad, self.model.device, segments)
            scores = without_padding(logits(inputs).double(), inputs["attention_mask"]).cpu()
            said |= {asked[at]: scores[place, : len(rows[at].ids)] for place, at in enumerate(group)}
        found = {}
        for i in some:
            found[i] = self._best(i, [said[i, number] for number in range(len(self.windows[i]))])
            advance(1)
        return found

    def _best(self, i: int, said: Sequence[Tensor]) -> Found:
        """Return an item's best span, and how far none scores above it; `said` has each window's scores, (T, 2)."""
        given, some = self.examples[i].given, self.windows[i]
        assert isinstance(given, Pair)
        spans = [_span(scores, window, self.plan.max_answer_tokens) for scores, window in zip(said, some, strict=True)]
        number = max(range(len(spans)), key=lambda at: spans[at][0])
        score, first, last = spans[number]
        begins, ends = some[number].places[first], some[number].places[last]
        assert begins and ends
        nones = [float(scores[w.none].sum()) for scores, w in zip(said, some, strict=True) if w.none is not None]
        beside = {"none_over_span": min(nones) - score} if nones else {}
        log_likelihood, tokens = 0.0, 0
        for scores, places_of in zip(said, self.wanted[i], strict=True):
            likely = scores.log_softmax(dim=0)
            kept = [(at, side) for side, at in enumerate(places_of) if at != IGNORED]
            log_likelihood += sum(float(likely[at, side]) for at, side in kept)
            tokens += len(kept)
        return Found(given.second[begins[0] : ends[1]].strip(), log_likelihood, tokens, beside=beside)


def _span(scores: Tensor, window: Window, longest: int) -> tuple[float, int, int]:
    """Return the highest score of a span of the passage, at most so many tokens long, and its first and last token."""
    of_passage = torch.tensor([place is not None for place in window.places])
    starts, ends = (scores[:, side].masked_fill(~of_passage, float("-inf")) for side in (0, 1))
    size = min(longest, len(window.ids))
    following = torch.nn.functional.pad(ends, (0, size - 1), value=float("-inf")).unfold(0, size, 1)  # (T, size)
    together = starts[:, None] + following
    best = int(together.argmax())
    first, length = divmod(best, size)
    return float(together.flatten()[best]), first, first + length


MEASURES.add("spans", BestSpan)
