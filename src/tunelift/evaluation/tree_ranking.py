"""Labels ranked as a tree of tokens behind their prompt.

Each token attends to the prompt and to the tokens that lead to it; prompt and shared tokens are computed once, and what
all prompts begin with is computed once for all. A label's log-likelihood only falls as its tokens are added, so of many
labels those are never finished whose beginning is less likely already than the best label is (branch and bound: exact
for the best label and for the reference).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tunelift.core.progress import Advance
from tunelift.evaluation.batching import by_length
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

LIKELY_ROWS = 16
"""So many beginnings of labels are followed at once, the likeliest: what they lead to may rule out the rest."""

LIKELY_TOKENS = 16
"""About so many tokens of the labels are read where not all are finished."""


@dataclass(slots=True)
class Edge:
    """A token that follows a row: the labels that end with it, and the row it makes, 0 where none goes on."""

    token: int
    labels: list[int] = field(default_factory=list)
    row: int = 0


@dataclass(frozen=True, slots=True)
class LabelTree:
    """A tree of tokens: every proper beginning of a label is a node.

    Row 0 is the prompt's last token and row 1 + n is node n, behind those that lead to it. `paths` are the rows before
    each label's tokens, `leading` those before each row.
    """

    tokens: list[int]
    depths: list[int]
    sees: Tensor
    after: list[list[Edge]]
    paths: list[list[int]]
    leading: list[list[int]]

    def chain(self, row: int) -> list[int]:
        """Return the rows behind a row as long as only one can follow."""
        found = []
        while len(self.after[row]) == 1 and (row := self.after[row][0].row):
            found.append(row)
        return found


def label_tree(labels: Sequence[Sequence[int]]) -> LabelTree:
    """Lay out labels; each has at least one token."""
    rows: dict[tuple[int, ...], int] = {(): 0}
    for label in labels:
        for end in range(1, len(label)):
            rows.setdefault(tuple(label[:end]), len(rows))
    after: list[dict[int, Edge]] = [{} for _ in rows]
    for number, label in enumerate(labels):
        for end, token in enumerate(label):
            edge = after[rows[tuple(label[:end])]].setdefault(token, Edge(token))
            if end + 1 == len(label):
                edge.labels.append(number)
            else:
                edge.row = rows[tuple(label[: end + 1])]
    nodes = [beginning for beginning in rows if beginning]
    sees = torch.zeros((len(nodes), len(nodes)), dtype=torch.bool)
    for node, beginning in enumerate(nodes):
        sees[node, [rows[beginning[:end]] - 1 for end in range(1, len(beginning) + 1)]] = True
    return LabelTree(
        tokens=[beginning[-1] for beginning in nodes],
        depths=[len(beginning) - 1 for beginning in nodes],
        sees=sees,
        after=[list(edges.values()) for edges in after],
        paths=[[rows[tuple(label[:end])] for end in range(len(label))] for label in labels],
        leading=[[rows[beginning[:end]] for end in range(len(beginning))] for beginning in rows],
    )


class Search:
    """Which rows of one item's tree are to be projected next, and what is known of its labels.

    Without `all_labels`, rows whose beginning is less likely than the best finished label are left alone, but for those
    that lead to the label `needed`. `greedy` are the finished labels of which every token was the likeliest.
    """

    def __init__(self, tree: LabelTree, all_labels: bool, needed: int | None) -> None:
        self.tree = tree
        self.all_labels = all_labels
        self.leading = set() if needed is None else set(tree.paths[needed])
        self.open: dict[int, tuple[float, bool]] = {0: (0.0, True)}
        self.finished: dict[int, float] = {}
        self.greedy: set[int] = set()

    def wanted(self) -> list[int]:
        """Return the rows to project now: all, or what leads to a first finished label, then what may be better."""
        if self.all_labels:
            return list(range(len(self.tree.after))) if self.open else []
        if self.finished:
            best = max(self.finished.values())
            likely = sorted((row for row, (score, _) in self.open.items() if score > best), key=self.open.__getitem__)
            chosen = likely[-LIKELY_ROWS:]
        else:
            chosen = [max(self.open, key=lambda row: (len(self.tree.leading[row]), self.open[row]))]
        return [row for row in self.open if row in self.leading or row in chosen]

    def expected(self) -> int:
        """Return about how many tokens of the tree will be read."""
        return len(self.tree.tokens) if self.all_labels else min(len(self.tree.tokens), LIKELY_TOKENS)

    def expand(self, row: int, found: Sequence[tuple[float, bool]]) -> None:
        """Take log-probability (nats) and likeliness of the tokens that follow a row."""
        before, likeliest = self.open.pop(row)
        for edge, (log_probability, is_likeliest) in zip(self.tree.after[row], found, strict=True):
            score, greedy = before + log_probability, likeliest and is_likeliest
            if edge.row:
                self.open[edge.row] = score, greedy
            self.finished |= dict.fromkeys(edge.labels, score)
            self.greedy |= set(edge.labels) if greedy else set()

    def scores(self) -> list[float | None]:
        """Return the summed log-likelihoods (nats) in the labels' order."""
        return [self.finished.get(label) for label in range(len(self.tree.paths))]


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
