"""At which places a sentence model puts the texts that belong to each item's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from tunelift.core import progress
from tunelift.core.errors import InputError
from tunelift.evaluation.embedded import Embedded
from tunelift.evaluation.measures.base import MEASURES, Compute, short_hash
from tunelift.evaluation.nearest import NO_OTHER, Floats, Search
from tunelift.evaluation.rows import Found
from tunelift.fast.in_batch import SCALE


class Retrieval(Embedded):
    """The texts nearest to each item's by their cosine; which there are follows from all items (`nearest.Search`)."""

    gives = frozenset({"ranks"})

    def begin(self) -> None:
        self.search = Search.of(self.examples)
        self.fitting = [i for i, own in enumerate(self.search.own) if own]
        if not self.fitting:
            raise InputError(
                f"Of {len(self.examples)} texts none has a label that another has: there is nothing to find.",
                fix="Give more rows for it, or pairs of texts that belong together.",
            )
        self.asked = short_hash([self.search.texts, self.plan.max_length, self.renderer.max_length])
        super().begin()

    def said(self) -> list[list[str]]:
        return [[query] for query in self.search.queries] + [[text] for text in self.search.texts]

    def length(self, i: int) -> int:
        return len(self.tokens[self.search.queries[i]].ids)

    def key(self, i: int) -> Any:
        own = [self.search.own[i], self.search.left_out[i]]
        return [self.asked, self.tokens[self.search.queries[i]].ids, own]

    def how(self) -> Mapping[str, Any]:
        return {**super().how(), "among": len(self.search.texts)}

    def prepared(self) -> Compute:
        return partial(self._found, self.vectors(self.search.texts).numpy())

    def row(self, i: int, found: Found | None) -> dict[str, Any]:
        return {"metrics": {}, "unscored": NO_OTHER} if found is None else super().row(i, found)

    def _found(self, every: Floats, some: Sequence[int], advance: progress.Advance) -> dict[int, Found]:
        queries = [self.search.queries[i] for i in some]
        asked = dict(zip(some, self.vectors(queries).numpy(), strict=True))
        found = self.search.answers(some, lambda group: np.stack([asked[i] for i in group]) @ every.T, SCALE)
        advance(len(some))
        return found


MEASURES.add("retrieval", Retrieval)
