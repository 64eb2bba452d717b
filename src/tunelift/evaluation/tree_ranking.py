"""Labels ranked as a tree of tokens behind their prompt.

Each token attends to the prompt and to the tokens that lead to it; prompt and shared tokens are computed once, and what
all prompts begin with is computed once for all. Labels that cannot win any more are not read further.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from tunelift.core.progress import Advance
from tunelift.evaluation.batching import by_length
from tunelift.evaluation.label_tree import Search, label_tree
from tunelift.evaluation.likelihood import common_past
from tunelift.fast.packed_rows import PackedRow, Past
from tunelift.fast.target_only import TargetOnly

Prompt = Sequence[int]
Labels = Sequence[Sequence[int]]
"""The token ids of each label as it follows one prompt."""

Needed = Sequence[int | None]
"""For each prompt the index of the label that must be finished whatever its rank (the reference), if there is one."""

FEW_LABELS = 16
"""So many labels are all finished."""

TOKENS_AT_ONCE = 4096


class Tree:
    """All labels of a prompt behind it, as a tree of tokens. Up to `finish_all` labels are all finished."""

    def __init__(self, view: TargetOnly, finish_all: int = FEW_LABELS) -> None:
        self.view, self.finish_all = view, finish_all

    def rank(
        self, prompts: Sequence[Prompt], labels: Sequence[Labels], needed: Needed | None, advance: Advance
    ) -> list[list[float | None]]:
        """Return the summed log-likelihood (nats) of the labels behind each prompt, in their order.

        With `needed`, None stands for a label that was shown to be less likely than the best before it was finished.
        """
        return [search.scores() for search in self.search(prompts, labels, needed, advance)]

    def search(
        self, prompts: Sequence[Prompt], labels: Sequence[Labels], needed: Needed | None, advance: Advance
    ) -> list[Search]:
        """Return for each prompt what was found of its labels: all of them are finished where `needed` is None."""
        keys = [tuple(tuple(choice) for choice in choices) for choices in labels]
        trees = {key: label_tree(key) for key in dict.fromkeys(keys)}
        searches = [
            Search(trees[key], needed is None or len(key) <= self.finish_all, None if needed is None else needed[i])
            for i, key in enumerate(keys)
        ]
        past = common_past(self.view, [(list(prompt), []) for prompt in prompts])
        known = past.tokens if past else 0
        lengths = [len(prompt) - known + s.expected() for prompt, s in zip(prompts, searches, strict=True)]
        for group in by_length(lengths, rows_at_once=256, tokens_at_once=TOKENS_AT_ONCE):
            self._group([prompts[i][known:] for i in group], [searches[i] for i in group], past)
            advance(len(group))
        return searches

    @torch.no_grad()
    def _group(self, prompts: Sequence[Prompt], searches: Sequence[Search], past: Past | None) -> None:
        packed_row = PackedRow(past=past, keep=None if all(search.all_labels for search in searches) else Past(0))
        trees = [_Placed(packed_row, prompt, search) for prompt, search in zip(prompts, searches, strict=True)]
        laid_out = [place for placed in trees for place in placed.place_of.values()]
        hidden = self.view.packed_hidden(packed_row, laid_out)  # (N, D)
        while any(wanted := [search.wanted() for search in searches]):
            at = [place for placed, rows in zip(trees, wanted, strict=True) for place in placed.places(rows)]
            if packed_row.computed < len(packed_row.ids):
                hidden = torch.cat([hidden, self.view.packed_hidden(packed_row)])
            asked = [edge for search, row in _pairs(searches, wanted) for edge in search.tree.after[row]]
            counts = [len(search.tree.after[row]) for search, row in _pairs(searches, wanted)]
            where = torch.repeat_interleave(torch.arange(len(at)), torch.tensor(counts)).to(hidden.device)
            tokens = torch.tensor([edge.token for edge in asked], device=hidden.device)
            scores, greedy = self.view.scored(hidden[torch.tensor(at, device=hidden.device)], where, tokens)
            found = iter(zip(scores.double().tolist(), greedy.tolist(), strict=True))
            for search, row in _pairs(searches, wanted):
                search.expand(row, [next(found) for _ in search.tree.after[row]])


class _Placed:
    """A prompt and what is laid out of the tree behind it: all of it at once where all labels are to be finished."""

    def __init__(self, packed_row: PackedRow, prompt: Prompt, search: Search) -> None:
        self.packed_row, self.tree = packed_row, search.tree
        self.begin = len(prompt) + (packed_row.past.tokens if packed_row.past else 0)
        first = packed_row.add(prompt, range(self.begin - len(prompt), self.begin))
        self.block_of, self.place_of = {0: first}, {0: len(packed_row.ids) - 1}
        if search.all_labels and self.tree.tokens:
            self._add(range(1, len(self.tree.tokens) + 1), (first,), self.tree.sees)

    def places(self, rows: Sequence[int]) -> list[int]:
        """Return the places of rows in the packed row; those that are not there are added, with their chains."""
        for row in rows:
            if row not in self.place_of:
                before = dict.fromkeys(self.block_of[lead] for lead in self.tree.leading[row])
                self._add([row, *self.tree.chain(row)], tuple(before), None)
        return [self.place_of[row] for row in rows]

    def _add(self, rows: Sequence[int], before: tuple[int, ...], sees: Tensor | None) -> None:
        start, tree = len(self.packed_row.ids), self.tree
        positions = [self.begin + tree.depths[row - 1] for row in rows]
        block = self.packed_row.add([tree.tokens[row - 1] for row in rows], positions, before, sees)
        self.block_of |= dict.fromkeys(rows, block)
        self.place_of |= {row: start + n for n, row in enumerate(rows)}


def _pairs(searches: Sequence[Search], wanted: Sequence[Sequence[int]]) -> Iterator[tuple[Search, int]]:
    """Yield each wanted row with its search, item by item."""
    for search, rows in zip(searches, wanted, strict=True):
        for row in rows:
            yield search, row
