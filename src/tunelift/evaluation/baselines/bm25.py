"""BM25, as search engines rank (Robertson and Zaragoza 2009).

A text is near that has the words of the query: the rarer a word is, and the more often the text has it, the nearer.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from tunelift.core.records import Example, Scores
from tunelift.evaluation import found_texts
from tunelift.evaluation.baselines.base import Given
from tunelift.evaluation.nearest import Floats, Search

K1, B = 1.2, 0.75
"""How soon more of a word adds nothing, and how much the length of a text counts: the usual values."""
_WORD = re.compile(r"\w+")

misfit = found_texts.misfit


class BM25:
    """BM25; how rare a word is comes from the texts that are searched, as in a search engine."""

    def __init__(self, given: Given) -> None:
        self.given = given
        self.description = f"BM25 over words (k1 = {K1:g}, b = {B:g})"

    def score(self, examples: Sequence[Example], title: str) -> Scores:
        """Return the scores of what is found."""
        from scipy import sparse

        search = Search.of(examples)
        texts, place = [_words(text) for text in search.texts], dict[str, int]()
        for word in (word for text in texts for word in text):
            place.setdefault(word, len(place))
        counts = [Counter(text) for text in texts]
        holding = Counter(word for text in counts for word in text)
        mean = max(1.0, sum(map(len, texts)) / len(texts))
        weights = sparse.lil_matrix((len(texts), max(1, len(place))), dtype=np.float64)
        for at, (text, count) in enumerate(zip(texts, counts, strict=True)):
            lengthened = K1 * (1 - B + B * len(text) / mean)
            for word, times in count.items():
                rare = math.log(1 + (len(texts) - holding[word] + 0.5) / (holding[word] + 0.5))
                weights[at, place[word]] = rare * times * (K1 + 1) / (times + lengthened)
        columns = weights.tocsc()
        asked = [[place[word] for word in _words(query) if word in place] for query in search.queries]

        def near(some: Sequence[int]) -> Floats:
            return np.stack([np.asarray(columns[:, asked[i]].sum(axis=1)).ravel() for i in some])

        found = search.answers(range(len(examples)), near, 1.0)
        return found_texts.found_scores(self.given, ("bm25", self.description), examples, found)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())
