"""Which texts a query is to be found among, which of them are its own, and at which places these stand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunelift.core.errors import InputError
from tunelift.core.records import Example, Near
from tunelift.evaluation.rows import Found
from tunelift.metrics.retrieval import DEEPEST

Floats = NDArray[np.floating[Any]]
Nearness = Callable[[Sequence[int]], Floats]
AT_ONCE = 256
"""Queries whose nearness to all texts is held in memory at once."""
NO_OTHER = "no other text belongs to it"


@dataclass(frozen=True, slots=True)
class Search:
    """Queries and texts, each text once. `own` are the places of those that belong to a query, `left_out` of itself.

    With pairs the texts are all positives and negatives of the items, and a query's own are the positives of all items
    that have its text; with labels they are the items' texts, and a query's own those of its label, without itself.
    """

    queries: list[str]
    texts: list[str]
    own: list[list[int]]
    left_out: list[int | None]

    @classmethod
    def of(cls, examples: Sequence[Example]) -> Search:
        """Return what a set of items asks; raise InputError for pairs with scores, which ask for no place."""
        if any(example.wanted is not None and not isinstance(example.wanted, Near) for example in examples):
            raise InputError(
                "Pairs with a score are measured by how their cosines go with the scores.",
                fix="evaluate.metrics: spearman, pearson.",
            )
        by_label = any(example.wanted is None for example in examples)
        own, every = dict[str, dict[str, None]](), dict[str, None]()
        for example in examples:
            wanted = example.wanted
            if isinstance(wanted, Near):
                every |= dict.fromkeys([wanted.positive, *wanted.negatives])
                own.setdefault(example.prompt, {})[wanted.positive] = None
            else:
                every[example.prompt] = None
                own.setdefault(example.completion, {})[example.prompt] = None
        place = {text: at for at, text in enumerate(every)}
        queries = [example.prompt for example in examples]
        left_out = [place.get(query) if by_label else None for query in queries]
        keys = [example.completion if by_label else example.prompt for example in examples]
        found = [[place[text] for text in own[key]] for key in keys]
        rest = [[at for at in some if at != gone] for some, gone in zip(found, left_out, strict=True)]
        return cls(queries, list(every), rest, left_out)

    def answers(self, some: Sequence[int], nearness: Nearness, scale: float) -> dict[int, Found]:
        """Return what is found for the queries of these indices.

        `nearness` gives, for indices of queries, how near each text is (queries, texts). Of texts that are equally near
        those that are not the query's own come first. The prediction is the nearest text. The log-likelihood (nats) is
        that of its own texts together in a softmax of the nearness times `scale`.
        """
        found = dict[int, Found]()
        for start in range(0, len(some), AT_ONCE):
            group = [i for i in some[start : start + AT_ONCE] if self.own[i]]
            for i, near in zip(group, nearness(group) if group else (), strict=True):
                found[i] = self._found(i, np.array(near, dtype=np.float64), scale)
        return found

    def _found(self, i: int, near: NDArray[np.float64], scale: float) -> Found:
        if (gone := self.left_out[i]) is not None:
            near[gone] = -np.inf
        own, others = near[self.own[i]], np.delete(near, self.own[i])
        before = (others[None] >= own[:, None]).sum(axis=1)
        ranks = np.sort(before) + np.arange(1, len(own) + 1)
        likely = np.logaddexp.reduce(scale * own) - np.logaddexp.reduce(scale * near)
        best = self.texts[int(near.argmax())]
        kept = [int(rank) for rank in ranks if rank <= DEEPEST]
        return Found(best, float(likely), 1, ranks=kept, relevant=len(own))
