"""How likely a language model finds each reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from tunelift.core.progress import Advance
from tunelift.data.render import own_completion
from tunelift.evaluation.likelihood import log_likelihoods
from tunelift.evaluation.measures.base import MEASURES, Compute, Measure
from tunelift.evaluation.rows import Found
from tunelift.fast.target_model import target_model
from tunelift.fast.targets import TargetModel


class Likelihood(Measure):
    """The prompt and the reference of each item, in one row."""

    gives = frozenset({"likelihood"})

    def begin(self) -> None:
        labels = self.labels()
        rows = self.renderer.continued(self.examples, [[own_completion(e), *labels] for e in self.examples])
        self.prompts = [prompt for prompt, _ in rows]
        self.completions, self.choices = [ids[0] for _, ids in rows], [ids[1:] for _, ids in rows]
        self.fitting = [i for i in range(len(rows)) if self.length(i) <= self.context]

    def labels(self) -> Sequence[str]:
        """Return what else may follow each prompt."""
        return []

    def length(self, i: int) -> int:
        """Labels may be longer than the reference."""
        return len(self.prompts[i]) + max(1, len(self.completions[i]), *map(len, self.choices[i]))

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
        view, _ = target_model(self.model, [[*self.prompts[i], *self.completions[i]] for i in self.fitting])
        self.fast_paths |= view.fast_paths
        return view

    def likely(self, view: TargetModel, some: Sequence[int], advance: Advance) -> dict[int, Found]:
        """Return the log-likelihood of each item's reference."""
        pairs = [(self.prompts[i], self.completions[i]) for i in some]
        likely = log_likelihoods(view, pairs, self.model.device, self.plan.rows_at_once, advance)
        return {i: Found(None, *both) for i, both in zip(some, likely, strict=True)}


MEASURES.add("likelihood", Likelihood)
