"""How likely a language model finds each reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from tunelift.core import progress
from tunelift.core.progress import Advance
from tunelift.core.records import Example
from tunelift.data.pieces import pieces
from tunelift.data.render import own_completion
from tunelift.evaluation.likelihood import Pair, log_likelihoods
from tunelift.evaluation.measures.base import MEASURES, Compute, Measure
from tunelift.evaluation.rows import Found
from tunelift.fast.target_model import target_model
from tunelift.fast.targets import TargetModel


class Likelihood(Measure):
    """The prompt and the reference of each item, in one row; a text without a prompt in as many as it takes."""

    gives = frozenset({"likelihood", "text-likelihood"})

    def begin(self) -> None:
        answers = [[own_completion(example), *self.labels(example)] for example in self.examples]
        rows = self.renderer.continued(self.examples, answers)
        self.prompts = [prompt for prompt, _ in rows]
        self.completions, self.choices = [ids[0] for _, ids in rows], [ids[1:] for _, ids in rows]
        self.parts = {i: self._parts(i) for i in range(len(rows))}
        self.fitting = [i for i in range(len(rows)) if self.length(i) <= self.context]
        if documents := [some for some in self.parts.values() if len(some) > 1]:
            rows_of = sum(map(len, documents))
            progress.note(
                f"{self.title}: {len(documents)} texts are longer than the model's context of {self.whole} tokens, "
                f"and are scored in {rows_of} pieces."
            )

    def labels(self, example: Example) -> Sequence[str]:
        """Return what else may follow an example's prompt."""
        return []

    def length(self, i: int) -> int:
        """Labels may be longer than the reference."""
        longest = max(len(before) + len(ids) for before, ids in self.parts[i])
        return max(longest, len(self.prompts[i]) + max(1, *map(len, self.choices[i]), 0))

    def _parts(self, i: int) -> list[Pair]:
        """Return the rows of an item's reference: by the base's context, so that base and tuned are cut alike."""
        whole, example = (self.prompts[i], self.completions[i]), self.examples[i]
        is_document = not (example.prompt or example.conversation or self.choices[i] or self.generates)
        return pieces(*whole, self.whole) if is_document else [whole]

    def key(self, i: int) -> Any:
        return [self.prompts[i], self.completions[i], self.examples[i].completion, self.choices[i]]

    def how(self) -> Mapping[str, Any]:
        return {"max_length": self.whole}

    def prompt(self) -> Any:
        return self.prompts

    def prepared(self) -> Compute:
        return partial(self.likely, self.view())

    def view(self) -> TargetModel:
        """Return the model as it gives likelihoods, its fast paths tried on the items' own rows."""
        rows = [[*before, *ids] for i in self.fitting for before, ids in self.parts[i]]
        view, _ = target_model(self.model, rows)
        self.fast_paths |= view.fast_paths
        return view

    def likely(self, view: TargetModel, some: Sequence[int], advance: Advance) -> dict[int, Found]:
        """Return the log-likelihood of each item's reference, over all its pieces."""
        pairs, done = [(i, part) for i in some for part in self.parts[i]], 0

        def advanced(rows: int) -> None:
            nonlocal done
            before, done = done, done + rows
            advance(done * len(some) // len(pairs) - before * len(some) // len(pairs))

        rows = [part for _, part in pairs]
        likely = log_likelihoods(view, rows, self.model.device, self.plan.rows_at_once, advanced)
        found = {i: Found(None, 0.0) for i in some}
        for (i, _), (total, tokens) in zip(pairs, likely, strict=True):
            found[i].log_likelihood = (found[i].log_likelihood or 0.0) + total
            found[i].tokens += tokens
        return found


MEASURES.add("likelihood", Likelihood)
