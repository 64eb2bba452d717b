"""The labels of one prompt as a tree of tokens, and the search of it for those that may be the likeliest.

A label's log-likelihood only falls as its tokens are added, so of many labels those are never finished whose beginning
is less likely already than the best label is (branch and bound: exact for the best label and for the reference).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

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
