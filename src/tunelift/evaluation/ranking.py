"""Labels as completions, ranked by log-likelihood.

The labels of one prompt share their first tokens, so they are laid out as a tree behind the prompt: each token attends
to the prompt and to the tokens that lead to it, and prompt and shared tokens are computed once; what all prompts begin
with is computed once for all. A label's log-likelihood only falls as its tokens are added, so of many labels those are
never finished whose beginning is less likely already than the best label is (branch and bound: exact for the best label
and for the reference, the rest are left out); their tokens are not even read. `Plain` is the slow twin: one row per
prompt and label.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from tunelift.core.progress import Advance
from tunelift.evaluation.batching import by_length
from tunelift.evaluation.likelihood import common_past, log_likelihoods
from tunelift.fast.layout import Layout, Past
from tunelift.fast.targets import TargetModel, TargetOnly
from tunelift.fast.undo import without_cache

Prompt = Sequence[int]
Labels = Sequence[Sequence[int]]
"""The token ids of each label as it follows one prompt."""


Needed = Sequence[int | None]
"""For each prompt the index of the label that must be finished whatever its rank (the reference), if there is one."""

FEW_LABELS = 16
"""So many labels are all finished."""

LIKELY_ROWS = 16
"""So many beginnings of labels are followed at once, the likeliest: what they lead to may rule out the rest."""

LIKELY_TOKENS = 16
"""About so many tokens of the labels are read where not all are finished."""

TOKENS_AT_ONCE = 4096


class Ranker(Protocol):
    def rank(
        self, prompts: Sequence[Prompt], labels: Sequence[Labels], needed: Needed | None, advance: Advance
    ) -> list[list[float | None]]:
        """Return the summed log-likelihood (nats) of the labels behind each prompt, in their order.

        With `needed`, None stands for a label that was shown to be less likely than the best before it was finished.
        """
        ...


def ranker(
    view: TargetModel, device: torch.device, rows_at_once: int, sample: tuple[Prompt, Labels]
) -> tuple[Ranker, str]:
    """Return the fastest ranker that agrees with the plain one on a sample, and "on" or "off: reason"."""
    plain = Plain(view, device, rows_at_once)
    if not isinstance(view, TargetOnly):
        return plain, "off: the model's whole logits are needed"
    if not view.packs:
        return plain, view.fast_paths["packing"]
    tree, few = Tree(view), (sample[0], sample[1][:3])
    theirs = plain.rank([few[0]], [few[1]], None, _silent)[0]
    try:
        ours = tree.rank([few[0]], [few[1]], None, _silent)[0]
        searched = Tree(view, finish_all=0).rank([few[0]], [few[1]], [0], _silent)[0]
    except Exception as error:  # as of a model whose rule of who attends to whom reads more than places
        return plain, f"off: the model takes no tree of tokens ({error or type(error).__name__})"
    allowed = [view.nats * max(1, len(label)) for label in few[1]]
    agrees = all(
        a is None or abs(a - (b or 0)) <= nats
        for a, b, nats in zip([*ours, *searched], [*theirs, *theirs], [*allowed, *allowed], strict=True)
    )
    return (tree, "on") if agrees else (plain, "off: a tree of tokens changes the scores of this model")


LONG_CHOICE = 128
"""Tokens from which on a choice is scored in a row of its own: laying out a tree takes time with their square."""


def continuations(
    view: TargetModel, prompts: Sequence[Prompt], choices: Sequence[Labels], device: torch.device, advance: Advance
) -> list[list[tuple[float, bool]]]:
    """Return for each prompt and choice the summed log-likelihood (nats), and whether greedy decoding would give it.

    Each prompt has at least one token. The last token of a choice is not read, so that prompt and choice may have one
    token more than the context. A model that takes no packed rows is scored row by row, and so are long choices.
    """
    longest = max((len(label) for labels in choices for label in labels), default=0)
    if isinstance(view, TargetOnly) and view.packs and longest < LONG_CHOICE:
        searches = Tree(view).search(prompts, choices, None, advance)
        return [[(score or 0.0, n in s.greedy) for n, score in enumerate(s.scores())] for s in searches]
    found = []
    for prompt, labels in zip(prompts, choices, strict=True):
        found.append([_alone(view, [*prompt, *label], len(label), device) for label in labels])
        advance(1)
    return found


@torch.no_grad()
def _alone(view: TargetModel, ids: list[int], targets: int, device: torch.device) -> tuple[float, bool]:
    row, tokens = torch.tensor([ids[:-1]], device=device), torch.tensor(ids[-targets:], device=device)
    inputs = {"input_ids": row, "attention_mask": torch.ones_like(row)}
    if isinstance(view, TargetOnly):
        hidden = view.hidden(inputs)[0, -targets:]
        scores, greedy = view.scored(hidden, torch.arange(targets, device=device), tokens)
    else:
        model = view.model  # type: ignore[attr-defined]
        likely = model(**inputs, **without_cache(model)).logits[0, -targets:].double().log_softmax(dim=-1)
        scores, greedy = likely.gather(1, tokens[:, None]), likely.argmax(dim=-1) == tokens
    return float(scores.double().sum()), bool(greedy.all())


class Plain:
    """Every label in a row of its own."""

    def __init__(self, view: TargetModel, device: torch.device, rows_at_once: int) -> None:
        self.view, self.device, self.rows_at_once = view, device, rows_at_once

    def rank(
        self, prompts: Sequence[Prompt], labels: Sequence[Labels], needed: Needed | None, advance: Advance
    ) -> list[list[float | None]]:
        scores: list[list[float | None]] = []
        for prompt, choices in zip(prompts, labels, strict=True):
            pairs = [(list(prompt), list(choice)) for choice in choices]
            found = log_likelihoods(self.view, pairs, self.device, self.rows_at_once, _silent)
            scores.append([total for total, _ in found])
            advance(1)
        return scores


class Tree:
    """All labels of a prompt behind it, as a tree of tokens. Up to `finish_all` labels are all finished."""

    def __init__(self, view: TargetOnly, finish_all: int = FEW_LABELS) -> None:
        self.view, self.finish_all = view, finish_all

    def rank(
        self, prompts: Sequence[Prompt], labels: Sequence[Labels], needed: Needed | None, advance: Advance
    ) -> list[list[float | None]]:
        return [search.scores() for search in self.search(prompts, labels, needed, advance)]

    def search(
        self, prompts: Sequence[Prompt], labels: Sequence[Labels], needed: Needed | None, advance: Advance
    ) -> list[_Search]:
        """Return for each prompt what was found of its labels: all of them are finished where `needed` is None."""
        keys = [tuple(tuple(choice) for choice in choices) for choices in labels]
        trees = {key: _tree(key) for key in dict.fromkeys(keys)}
        searches = [
            _Search(trees[key], needed is None or len(key) <= self.finish_all, None if needed is None else needed[i])
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
    def _group(self, prompts: Sequence[Prompt], searches: Sequence[_Search], past: Past | None) -> None:
        layout = Layout(past=past, keep=None if all(search.all_labels for search in searches) else Past(0))
        trees = [_Placed(layout, prompt, search) for prompt, search in zip(prompts, searches, strict=True)]
        laid_out = [place for placed in trees for place in placed.place_of.values()]
        hidden = self.view.packed_hidden(layout, laid_out)  # (N, D)
        while any(wanted := [search.wanted() for search in searches]):
            at = [place for placed, rows in zip(trees, wanted, strict=True) for place in placed.places(rows)]
            if layout.computed < len(layout.ids):
                hidden = torch.cat([hidden, self.view.packed_hidden(layout)])
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

    def __init__(self, layout: Layout, prompt: Prompt, search: _Search) -> None:
        self.layout, self.tree = layout, search.tree
        self.begin = len(prompt) + (layout.past.tokens if layout.past else 0)
        first = layout.add(prompt, range(self.begin - len(prompt), self.begin))
        self.block_of, self.place_of = {0: first}, {0: len(layout.ids) - 1}
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
        start, tree = len(self.layout.ids), self.tree
        positions = [self.begin + tree.depths[row - 1] for row in rows]
        block = self.layout.add([tree.tokens[row - 1] for row in rows], positions, before, sees)
        self.block_of |= dict.fromkeys(rows, block)
        self.place_of |= {row: start + n for n, row in enumerate(rows)}


class _Search:
    """Which rows of one item's tree are to be projected next, and what is known of its labels.

    Without `all_labels`, rows whose beginning is less likely than the best finished label are left alone, but for those
    that lead to the label `needed`. `greedy` are the finished labels of which every token was the likeliest.
    """

    def __init__(self, tree: _Tree, all_labels: bool, needed: int | None) -> None:
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


@dataclass(slots=True)
class _Edge:
    """A token that follows a row: the labels that end with it, and the row it makes, 0 where none goes on."""

    token: int
    labels: list[int] = field(default_factory=list)
    row: int = 0


@dataclass(frozen=True, slots=True)
class _Tree:
    """A tree of tokens: every proper beginning of a label is a node.

    Row 0 is the prompt's last token and row 1 + n is node n, behind those that lead to it. `paths` are the rows before
    each label's tokens, `leading` those before each row.
    """

    tokens: list[int]
    depths: list[int]
    sees: Tensor
    after: list[list[_Edge]]
    paths: list[list[int]]
    leading: list[list[int]]

    def chain(self, row: int) -> list[int]:
        """Return the rows behind a row as long as only one can follow."""
        found = []
        while len(self.after[row]) == 1 and (row := self.after[row][0].row):
            found.append(row)
        return found


def _tree(labels: Sequence[Sequence[int]]) -> _Tree:
    """Lay out labels; each has at least one token."""
    rows: dict[tuple[int, ...], int] = {(): 0}
    for label in labels:
        for end in range(1, len(label)):
            rows.setdefault(tuple(label[:end]), len(rows))
    after: list[dict[int, _Edge]] = [{} for _ in rows]
    for number, label in enumerate(labels):
        for end, token in enumerate(label):
            edge = after[rows[tuple(label[:end])]].setdefault(token, _Edge(token))
            if end + 1 == len(label):
                edge.labels.append(number)
            else:
                edge.row = rows[tuple(label[: end + 1])]
    nodes = [beginning for beginning in rows if beginning]
    sees = torch.zeros((len(nodes), len(nodes)), dtype=torch.bool)
    for node, beginning in enumerate(nodes):
        sees[node, [rows[beginning[:end]] - 1 for end in range(1, len(beginning) + 1)]] = True
    return _Tree(
        tokens=[beginning[-1] for beginning in nodes],
        depths=[len(beginning) - 1 for beginning in nodes],
        sees=sees,
        after=[list(edges.values()) for edges in after],
        paths=[[rows[tuple(label[:end])] for end in range(len(label))] for label in labels],
        leading=[[rows[beginning[:end]] for end in range(len(beginning))] for beginning in rows],
    )


def _pairs(searches: Sequence[_Search], wanted: Sequence[Sequence[int]]) -> Iterator[tuple[_Search, int]]:
    """Yield each wanted row with its search, item by item."""
    for search, rows in zip(searches, wanted, strict=True):
        for row in rows:
            yield search, row


def _silent(amount: int = 1, note: str = "") -> None:
    """Progress of a part that shows none of its own."""
