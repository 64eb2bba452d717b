"""Texts that say nearly the same: candidates by MinHash, each verified by the exact similarity of the two texts.

Similarity is the Jaccard index of the sets of words and pairs of neighbouring words, with case, punctuation and Unicode
forms folded (NFKC). How much makes a near duplicate depends on the shorter text, and was chosen by what
`benchmarks/duplicates.py` finds and flags on real files:

* under 6 words: equal once folded. One word more or less makes another question of such a text;
* 6 to 9 words: one text has all words of the other, as where words were added and none exchanged, and they are similar
  to 0.8, or to 0.75 and share a telling pair of words;
* from 10 words: similar to 0.7, as with one word in ten exchanged; or to 0.5, as with two in ten, sharing two telling
  pairs of words; or to 0.45, sharing four. From 20 words a text is compared with the equally long beginning of a longer
  one, too, so that a copy that was cut is found however much is gone.

A pair of neighbouring words is telling if few texts hold it: "what do I need to do to" is no sign of a copy.
Texts that differ in numbers alone, in half of them or more, are no near duplicates: they are one template with other
values, and their answers differ. And what is not the item's own is not compared: a run of 10 words that stands in 10
texts or more is taken for part of a prompt, such as one of several instructions over the rows of a mixture.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np

from tunelift.core import stages
from tunelift.data.shared_words import SharedWords

THRESHOLD = 0.45
EXACT_BELOW = 6
"""Texts of fewer words are compared for equality alone."""
SHORT_BELOW, SHORT_THRESHOLD, SHORT_CLEAR = 10, 0.75, 0.8
TELLING_NEEDED = ((0.7, 0), (0.5, 2), (0.0, 4))
"""From which similarity on how many shared pairs of words must be telling, in texts of 10 words and more."""
TELLING_TEXTS, TELLING_SHARE = 10, 0.002
"""A pair of words is telling that stands in fewer places than 10, or than one for every 500 texts."""
OPENING, CUT_FROM, CUT_THRESHOLD = 10, 20, 0.8
"""A cut copy: the first 10 words agree, 20 are left or more, and these are so similar to the other's beginning."""
RUN, RUN_TEXTS = 10, 10
TEMPLATE_FROM = 10
"""What so many different prompts begin and end with is their template."""

# A band of 4 slots agrees with probability s^4. Of pairs with similarity 0.52, two words in ten, the 96 bands miss 7 in
# 10,000 (of those with 0.45 they miss 2 in 100); of those with 0.05, as unrelated texts have, they propose 6 in 10,000.
BANDS, SLOTS = 96, 4
# Of 128 slots 96 agree in pairs with similarity 0.75 (standard deviation 4.9), 58 in those with 0.45 (5.6): one in
# 10,000 of them has fewer than 76, which short texts must have, and 36, which the others must.
AGREEING_OF, LEAST_AGREEING = 128, (76, 36)
SHARED_FROM, MATCHES = 1000, "matches.npy"
"""So many texts take longer to compare than to look up."""
BUCKET, MOST_PARTNERS = 8, 16
"""A text is compared with so many of one bucket, and so many in all, so that rows that are all alike stay cheap."""

# Scripts that write no blanks between words (Chinese, Japanese, Thai, Lao, Khmer, Burmese) count by the character. A
# sign between numbers is a word: 3 + 4 is not 3 - 4.
_WORDS = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff]"
    r"|[^\W\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff]+"
    r"|(?<=\d)\s*[-+*/^%<>=\u00d7\u00f7]\s*(?=\d)"
)  # fmt: skip
_MIX = np.uint64(0x9E3779B97F4A7C15)

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, order=True, slots=True)
class Match:
    """Two texts that say nearly the same, by their positions; 1.0 where they are equal once folded."""

    index: int
    other: int
    similarity: float


def normalised(text: str) -> str:
    """Return the words of the text with case, blanks, punctuation and Unicode forms folded; itself if it has none."""
    words = " ".join(_WORDS.findall(unicodedata.normalize("NFKC", text).casefold()))
    return " ".join(words.split()) or text.strip()


def varying(prompts: Sequence[str]) -> list[str]:
    """Return the prompts without what they all begin and end with, cut at words: the template.

    Fewer than 10 different prompts are returned as they are: what they share may well be their own.
    """
    if len(set(prompts)) < TEMPLATE_FROM:
        return list(prompts)
    shared = SharedWords.of(prompts)
    return [shared.inside(prompt) for prompt in prompts]


def near_duplicates(
    texts: Sequence[str], others: Sequence[str] | None = None, threshold: float = THRESHOLD
) -> list[Match]:
    """Return which texts nearly repeat one of `others`, or without those, an earlier one of `texts`.

    Deterministic. Of texts that are equal once folded, only the first is compared further and the rest are matched
    with it: following the matches leads from each text to all of its kin, but not every pair is named. Of many texts
    what an earlier run found is taken, as a stage that is shared.
    """
    if len(texts) + len(others or ()) < SHARED_FROM:
        return _near_duplicates(texts, others, threshold)
    of_texts = stages.digest([texts, others])
    depends_on = {"texts": of_texts, "threshold": threshold}
    found, _ = stages.shared(
        f"near-duplicates/{of_texts[:8]}",
        depends_on,
        lambda: _near_duplicates(texts, others, threshold),
        lambda found, folder: np.save(folder / MATCHES, np.array([astuple(match) for match in found]).reshape(-1, 3)),
        lambda folder: [Match(int(i), int(j), float(s)) for i, j, s in np.load(folder / MATCHES, allow_pickle=False)],
    )
    return found


def _near_duplicates(texts: Sequence[str], others: Sequence[str] | None, threshold: float) -> list[Match]:
    pool = _Distinct([*texts, *(others or ())])
    split = None if others is None else len(texts)
    found = list(pool.equal(split))
    sides = pool.sides(split)
    shingled = _Shingled(pool.words)
    for left, right in _candidates(shingled, *sides):
        if (similarity := shingled.similarity(left, right, threshold)) is not None:
            found += pool.matches(left, right, similarity, split)
    return sorted(found)


def connected(count: int, matches: Sequence[Match]) -> dict[int, list[int]]:
    """Return the rows 0 to count - 1 by their kin: those that matches lead to, by the first of them."""
    first = list(range(count))

    def root(index: int) -> int:
        while first[index] != index:
            first[index] = index = first[first[index]]
        return index

    for match in matches:
        one, other = sorted((root(match.index), root(match.other)))
        first[other] = one
    kin: dict[int, list[int]] = {}
    for index in range(count):
        kin.setdefault(root(index), []).append(index)
    return kin


class _Distinct:
    """The different texts among many, once folded, with the rows of each."""

    def __init__(self, texts: Sequence[str]) -> None:
        rows: dict[str, list[int]] = {}
        for row, text in enumerate(texts):
            rows.setdefault(normalised(text), []).append(row)
        self.rows = list(rows.values())
        self.words = [text.split() for text in rows]

    def sides(self, split: int | None) -> tuple[Array, Array | None]:
        """Return the numbers of the different texts that rows before `split`, and rows from it on, hold."""
        if split is None:
            return np.arange(len(self.rows)), None
        first = [number for number, rows in enumerate(self.rows) if rows[0] < split]
        second = [number for number, rows in enumerate(self.rows) if rows[-1] >= split]
        return np.array(first, dtype=np.int64), np.array(second, dtype=np.int64)

    def equal(self, split: int | None) -> Iterator[Match]:
        """Yield the matches of rows that are equal once folded."""
        for rows in self.rows:
            yield from _pairs(rows, split) if split is not None else (Match(row, rows[0], 1.0) for row in rows[1:])

    def matches(self, left: int, right: int, similarity: float, split: int | None) -> list[Match]:
        """Return the matches that follow from two different texts being near duplicates."""
        if split is None:
            first, second = sorted((self.rows[left][0], self.rows[right][0]))
            return [Match(second, first, similarity)]
        rows = [row for row in self.rows[left] if row < split] + [row for row in self.rows[right] if row >= split]
        return [Match(match.index, match.other, similarity) for match in _pairs(rows, split)]


def _pairs(rows: list[int], split: int) -> Iterator[Match]:
    """Match each row before `split` with the first from there on, and each of those with the first before."""
    before, after = [row for row in rows if row < split], [row - split for row in rows if row >= split]
    if before and after:
        yield from (Match(row, after[0], 1.0) for row in before)
        yield from (Match(before[0], row, 1.0) for row in after[1:])


class _Shingled:
    """Texts as arrays: their own words as numbers, one text after the other, and the shingles of each."""

    def __init__(self, words: Sequence[Sequence[str]]) -> None:
        vocabulary: dict[str, int] = {}
        numbers = [vocabulary.setdefault(word, len(vocabulary)) for text in words for word in text]
        lengths = np.array([len(text) for text in words], dtype=np.int64)
        ids = np.array(numbers, dtype=np.uint64)
        own = ~_in_shared_runs(ids, lengths)
        self.ids = ids[own]
        ends = np.cumsum(lengths)
        counted = np.concatenate([[0], np.cumsum(own)])
        self.offsets = np.concatenate([[0], counted[ends]]) if len(words) else np.zeros(1, dtype=np.int64)
        self.lengths = np.diff(self.offsets)
        self.is_number = np.array([any(c.isdigit() for c in word) for word in vocabulary], dtype=bool)
        self._sets: dict[int, set[int]] = {}
        self._all_pairs: Array | None = None

    def of(self, text: int) -> Array:
        """Return the numbers of the text's own words."""
        return self.ids[self.offsets[text] : self.offsets[text + 1]]

    def digests(self, texts: Array) -> Array:
        """Return the MinHash signatures, (texts, BANDS * SLOTS)."""
        from rensa import RMinHash

        parts = []
        for start in range(0, len(texts), 4096):  # the library hands rows over as lists: 60 MB of them at a time
            sets = [_shingles(self.of(text)) for text in texts[start : start + 4096]]
            ends = np.cumsum([0, *map(len, sets)]).astype(np.uint64)
            matrix = RMinHash.digest_matrix_from_flat_token_hashes(np.concatenate(sets), ends, BANDS * SLOTS, 0)
            parts.append(np.array(matrix.to_rows(), dtype=np.uint32))
        return np.concatenate(parts) if parts else np.zeros((0, BANDS * SLOTS), dtype=np.uint32)

    def openings(self, texts: Array) -> Array:
        """Return a 64-bit number for the first words of each text; texts too short for a cut copy have one each."""
        keys = np.arange(len(self.lengths), dtype=np.uint64)[texts]
        long = self.lengths[texts] >= CUT_FROM
        starts = self.offsets[:-1][texts[long]]
        keys[long] = _rolled(self.ids[starts[:, None] + np.arange(OPENING)])
        return keys

    def similarity(self, left: int, right: int, threshold: float) -> float | None:
        """Return the similarity of two texts, or None where they are no near duplicates."""
        short, long = sorted((left, right), key=self.lengths.__getitem__)
        words, longer = self.of(short), self.of(long)
        found = _jaccard(self._set(short), self._set(long))
        if len(words) < SHORT_BELOW:
            is_near = found >= max(threshold, SHORT_THRESHOLD) and set(words.tolist()) <= set(longer.tolist())
            is_near = is_near and (found >= SHORT_CLEAR or self._telling(short, long) >= 1)
        else:
            needed = next(needed for least, needed in TELLING_NEEDED if found >= least)
            is_near = found >= threshold and (needed == 0 or self._telling(short, long) >= needed)
        if not is_near and len(words) >= CUT_FROM:
            longer = longer[: len(words)]
            found = _jaccard(self._set(short), set(_shingles(longer).tolist()))
            is_near = found >= max(threshold, CUT_THRESHOLD)
        return found if is_near and not self._other_values(words, longer) else None

    def _telling(self, first: int, second: int) -> int:
        """Return how many pairs of neighbouring words that few texts hold two texts share."""
        if self._all_pairs is None:
            self._all_pairs = np.sort(_pairs_of(self.ids))
        shared = np.intersect1d(_pairs_of(self.of(first)), _pairs_of(self.of(second)))
        ends = [np.searchsorted(self._all_pairs, shared, side=side) for side in ("left", "right")]
        limit = max(TELLING_TEXTS, TELLING_SHARE * len(self.lengths))
        return int((ends[1] - ends[0] < limit).sum())

    def _set(self, text: int) -> set[int]:
        if text not in self._sets:
            self._sets[text] = set(_shingles(self.of(text)).tolist())
        return self._sets[text]

    def _other_values(self, first: Array, second: Array) -> bool:
        """Whether the texts are one template with other values: only numbers differ, and half of them or more."""
        one, two = Counter(first.tolist()), Counter(second.tolist())
        gone, new = one - two, two - one
        if not gone or not new or not all(self.is_number[word] for word in [*gone, *new]):
            return False
        numbers = min(sum(count for word, count in side.items() if self.is_number[word]) for side in (one, two))
        return 2 * min(gone.total(), new.total()) >= numbers


def _shingles(ids: Array) -> Array:
    """Return a 64-bit number for every word and every pair of neighbours, repeats included."""
    return np.concatenate([(ids + np.uint64(1)) * _MIX, _pairs_of(ids)])


def _pairs_of(ids: Array) -> Array:
    pairs = (ids[:-1] * _MIX + ids[1:] + np.uint64(1)) * _MIX
    return pairs ^ (pairs >> np.uint64(29))


def _in_shared_runs(ids: Array, lengths: Array) -> Array:
    """Return which words stand in a run of RUN words that occurs RUN_TEXTS times or more, (words,) of bool."""
    covered = np.zeros(len(ids), dtype=bool)
    if len(ids) < RUN * RUN_TEXTS:
        return covered
    runs = _rolled(np.lib.stride_tricks.sliding_window_view(ids, RUN))
    text = np.repeat(np.arange(len(lengths)), lengths)
    starts = np.flatnonzero(text[: len(runs)] == text[RUN - 1 :])
    _, kind, counts = np.unique(runs[starts], return_inverse=True, return_counts=True)
    shared = starts[counts[kind] >= RUN_TEXTS]
    for step in range(RUN):
        covered[shared + step] = True
    return covered


def _rolled(ids: Array) -> Array:
    """Return one 64-bit number for each row of word numbers, (rows, words) to (rows,)."""
    hashed = np.zeros(len(ids), dtype=np.uint64)
    for column in range(ids.shape[1]):
        hashed = (hashed ^ (ids[:, column].astype(np.uint64) + np.uint64(1))) * _MIX
        hashed ^= hashed >> np.uint64(32)
    return hashed


def _candidates(texts: _Shingled, left: Array, right: Array | None) -> Iterator[tuple[int, int]]:
    """Yield pairs of different texts that share a bucket, for each text those whose signatures agree most."""
    left = left[texts.lengths[left] >= EXACT_BELOW]
    right = None if right is None else right[texts.lengths[right] >= EXACT_BELOW]
    if not len(left) or (right is not None and not len(right)):
        return
    ours = texts.digests(left)
    theirs = None if right is None else texts.digests(right)
    others, signatures = (left, ours) if right is None or theirs is None else (right, theirs)
    lengths = texts.lengths[left], texts.lengths[others]
    found = [_in_one_bucket(texts.openings(left), None if right is None else texts.openings(right))]
    agree = [np.full(len(found[0]), BANDS * SLOTS)]  # a cut copy's signature tells nothing: these pairs come first
    for start in range(0, BANDS * SLOTS, SLOTS):
        band = slice(start, start + SLOTS)
        pairs = _in_one_bucket(_rolled(ours[:, band]), None if theirs is None else _rolled(theirs[:, band]))
        agreeing = _agreeing(ours, signatures, pairs)
        short = np.minimum(lengths[0][pairs[:, 0]], lengths[1][pairs[:, 1]]) < SHORT_BELOW
        may_match = agreeing >= np.where(short, LEAST_AGREEING[0], LEAST_AGREEING[1])
        found.append(pairs[may_match])
        agree.append(agreeing[may_match])
    for one, two in _most_agreeing(np.concatenate(found), np.concatenate(agree)).tolist():
        if left[one] != others[two]:
            yield int(left[one]), int(others[two])


def _most_agreeing(pairs: Array, agree: Array) -> Array:
    """Return each pair once, and for the first of a pair at most MOST_PARTNERS, those that agree most."""
    _, once = np.unique(pairs[:, 0] << 32 | pairs[:, 1], return_index=True)
    pairs, agree = pairs[once], agree[once]
    order = np.lexsort((pairs[:, 1], -agree, pairs[:, 0]))
    first = pairs[order, 0]
    rank = np.arange(len(order)) - np.searchsorted(first, first)
    most: Array = pairs[np.sort(order[rank < MOST_PARTNERS])]
    return most


def _in_one_bucket(keys: Array, others: Array | None) -> Array:
    """Return the pairs of positions with equal keys, (pairs, 2); within one list each pair once."""
    within = others is None
    others = keys if others is None else others
    order = np.argsort(others, kind="stable")
    queries = order if within else np.arange(len(keys))
    low = np.arange(1, len(keys) + 1) if within else np.searchsorted(others[order], keys)
    high = np.searchsorted(others[order], keys[queries], side="right")
    counts = np.clip(high - low, 0, BUCKET)
    first = np.repeat(queries, counts)
    offsets = np.arange(len(first)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.stack([first, order[np.repeat(low, counts) + offsets]], axis=1)


def _agreeing(ours: Array, theirs: Array, pairs: Array) -> Array:
    """Return how many of the first AGREEING_OF slots of each pair's signatures agree, (pairs,)."""
    parts = [pairs[start : start + 65536] for start in range(0, len(pairs), 65536)]
    slots = slice(AGREEING_OF)
    agree: list[Array] = [(ours[part[:, 0], slots] == theirs[part[:, 1], slots]).sum(axis=1) for part in parts]
    return np.concatenate([np.zeros(0, dtype=np.int64), *agree])


def _jaccard(first: set[int], second: set[int]) -> float:
    shared = len(first & second)
    return shared / max(1, len(first) + len(second) - shared)
