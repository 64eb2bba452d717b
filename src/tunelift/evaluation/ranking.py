"""Labels as completions, ranked by log-likelihood.

The labels of one prompt share their first tokens, so they are laid out as a tree behind the prompt: each token attends
to the prompt and to the tokens that lead to it, and prompt and shared tokens are computed once. A label's
log-likelihood only falls as its tokens are added, so of many labels those are never finished whose beginning is less
likely already than the best label is (branch and bound: exact for the best label and for the reference, the rest are
left out). `Plain` is the slow twin: one row per prompt and label.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from tunelift.core.progress import Advance
from tunelift.evaluation.batching import by_length, padded
from tunelift.evaluation.likelihood import log_likelihoods
from tunelift.fast.targets import TargetModel, TargetOnly

Prompt = Sequence[int]
Labels = Sequence[Sequence[int]]
"""The token ids of each label as it follows one prompt, closed by EOS, which tells a label from one that it begins."""


Needed = Sequence[int | None]
"""For each prompt the index of the label that must be finished whatever its rank (the reference), if there is one."""

FEW_LABELS = 16
"""So many labels are all finished."""


class Ranker(Protocol):
    def rank(
        self, prompts: Sequence[Prompt], labels: Sequence[Labels], needed: Needed | None, advance: Advance
    ) -> list[list[float | None]]:
        """Return the summed log-likelihood (nats) of the labels behind each prompt, in their order.

        With `needed`, None stands for a label that was shown to be less likely than the best before it was finished.
        """
        ...


def ranker(
    model: Any, view: TargetModel, device: torch.device, rows_at_once: int, sample: tuple[Prompt, Labels]
) -> tuple[Ranker, str]:
    """Return the fastest ranker that agrees with the plain one on a sample, and "on" or "off: reason"."""
    plain = Plain(view, device, rows_at_once)
    if not isinstance(view, TargetOnly):
        return plain, "off: the model's whole logits are needed"
    window = _shortest_window(model)
    tree = Tree(view, device, window)
    few = (sample[0], sample[1][:3])
    longest = len(few[0]) + max(map(len, few[1]))
    if longest > window:
        return plain, f"off: the prompts are longer than the sliding window ({window})"
    try:
        ours, theirs = (r.rank([few[0]], [few[1]], None, _silent)[0] for r in (tree, plain))
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        return plain, f"off: the model takes no tree of tokens ({type(error).__name__})"
    tolerance = 1e-3 if next(model.parameters()).dtype == torch.float32 else 0.2
    agrees = all(
        abs((a or 0) - (b or 0)) <= tolerance * max(1.0, abs(b or 0)) for a, b in zip(ours, theirs, strict=True)
    )
    return (tree, "on") if agrees else (plain, "off: a tree of tokens changes the scores of this model")


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
    """All labels of a prompt in one row."""

    def __init__(self, view: TargetOnly, device: torch.device, window: int) -> None:
        self.view, self.device, self.window = view, device, window
        self.plain = Plain(view, device, rows_at_once=16)

    def rank(
        self, prompts: Sequence[Prompt], labels: Sequence[Labels], needed: Needed | None, advance: Advance
    ) -> list[list[float | None]]:
        layouts: dict[tuple[tuple[int, ...], ...], _Layout] = {}
        keys = [tuple(tuple(choice) for choice in choices) for choices in labels]
        for key in set(keys):
            layouts[key] = _layout(key)
        trees = [layouts[key] for key in keys]
        lengths = [len(prompt) + len(tree.tokens) for prompt, tree in zip(prompts, trees, strict=True)]
        scores: list[list[float | None]] = [[]] * len(prompts)
        for group in by_length(lengths, rows_at_once=64, tokens_at_once=2048):
            if lengths[group[0]] > self.window:  # the tree's mask knows no window
                found = self.plain.rank([prompts[i] for i in group], [labels[i] for i in group], None, _silent)
            else:
                searches = [_Search(trees[i], needed is None, None if needed is None else needed[i]) for i in group]
                found = self._group([prompts[i] for i in group], searches)
            for i, row in zip(group, found, strict=True):
                scores[i] = row
            advance(len(group))
        return scores

    @torch.no_grad()
    def _group(self, prompts: Sequence[Prompt], searches: Sequence[_Search]) -> list[list[float | None]]:
        hidden = self.view.hidden(self._inputs(prompts, [search.tree for search in searches]))  # (B, T, D)
        while any(wanted := [search.wanted() for search in searches]):
            # Row 0 of an item follows the prompt's last token, row 1 + n follows node n.
            at = [(i, len(prompts[i]) - 1 + row) for i, rows in enumerate(wanted) for row in rows]
            rows = hidden[[i for i, _ in at], [position for _, position in at]]
            edges = [(n, t) for n, (search, row) in enumerate(_pairs(searches, wanted)) for t in search.tree.after[row]]
            where, tokens = (torch.tensor(part, device=self.device) for part in zip(*edges, strict=True))
            found = iter(self.view.log_probabilities(rows, where, tokens).double().tolist())
            for search, row in _pairs(searches, wanted):
                search.expand(row, [next(found) for _ in search.tree.after[row]])
        return [search.scores() for search in searches]

    def _inputs(self, prompts: Sequence[Prompt], trees: Sequence[_Layout]) -> Mapping[str, Tensor]:
        ids = padded([[*p, *t.tokens] for p, t in zip(prompts, trees, strict=True)], 0, self.device)
        positions = padded(
            [[*range(len(p)), *(len(p) + d for d in t.depths)] for p, t in zip(prompts, trees, strict=True)],
            0,
            self.device,
        )
        batch, width = ids.shape
        # Padding attends to itself, since a row of the mask that allows nothing gives NaN.
        allowed = torch.eye(width, dtype=torch.bool).repeat(batch, 1, 1)  # (B, T, T)
        for i, (prompt, tree) in enumerate(zip(prompts, trees, strict=True)):
            start, end = len(prompt), len(prompt) + len(tree.tokens)
            allowed[i, :end, :start] = torch.ones(end, start, dtype=torch.bool).tril()
            allowed[i, start:end, start:end] = tree.sees
        dtype = next(self.view.decoder.parameters()).dtype
        mask = torch.zeros((batch, 1, width, width), dtype=dtype)
        mask.masked_fill_(~allowed[:, None], torch.finfo(dtype).min)
        return {"input_ids": ids, "position_ids": positions, "attention_mask": mask.to(self.device)}


class _Search:
    """Which rows of one item's tree are to be projected next, and what is known of its labels.

    Without `all_labels`, rows whose beginning is less likely than the best finished label are left alone, but for those
    that lead to the label `needed`.
    """

    def __init__(self, tree: _Layout, all_labels: bool, needed: int | None) -> None:
        self.tree = tree
        self.all_labels = all_labels or len(tree.paths) <= FEW_LABELS
        self.leading = set() if needed is None else set(tree.paths[needed])
        self.open: dict[int, float] = {0: 0.0}
        self.finished: dict[int, float] = {}

    def wanted(self) -> list[int]:
        """Return the rows to project now: all, or what leads to a first finished label, then what may be better."""
        if self.all_labels:
            return list(self.open)
        if self.finished:
            best = max(self.finished.values())
            return [row for row, score in self.open.items() if row in self.leading or score > best]
        deepest = max(self.open, key=lambda row: (self.tree.depth(row), self.open[row]))
        return [row for row in self.open if row in self.leading or row == deepest]

    def expand(self, row: int, log_probabilities: Sequence[float]) -> None:
        """Take the log-probabilities (nats) of the tokens that follow a row."""
        before = self.open.pop(row)
        for leads_to, log_probability in zip(self.tree.leads_to[row], log_probabilities, strict=True):
            label, node = leads_to
            if label is None:
                self.open[node] = before + log_probability
            else:
                self.finished[label] = before + log_probability

    def scores(self) -> list[float | None]:
        """Return the summed log-likelihoods (nats) in the labels' order."""
        return [self.finished.get(label) for label in range(len(self.tree.paths))]


@dataclass(frozen=True, slots=True)
class _Layout:
    """A tree of tokens: every proper beginning of a label is a node.

    Row 0 is the prompt's last token and row 1 + n is node n. `after` are the tokens that follow each row; `leads_to`
    says for each of them (label, 0) where it ends a label, else (None, row). `paths` are the rows before each label's
    tokens.
    """

    tokens: list[int]
    depths: list[int]
    sees: Tensor
    after: list[list[int]]
    leads_to: list[list[tuple[int | None, int]]]
    paths: list[list[int]]

    def depth(self, row: int) -> int:
        """Return how many of a label's tokens stand before a row."""
        return self.depths[row - 1] + 1 if row else 0


def _layout(labels: Sequence[Sequence[int]]) -> _Layout:
    """Lay out labels, of which each ends with a token that none has in its middle (EOS), and none are equal."""
    rows: dict[tuple[int, ...], int] = {(): 0}
    for label in labels:
        for end in range(1, len(label)):
            rows.setdefault(tuple(label[:end]), len(rows))
    after: list[list[int]] = [[] for _ in rows]
    leads_to: list[list[tuple[int | None, int]]] = [[] for _ in rows]
    for beginning, row in list(rows.items())[1:]:
        after[rows[beginning[:-1]]].append(beginning[-1])
        leads_to[rows[beginning[:-1]]].append((None, row))
    for number, label in enumerate(labels):
        after[rows[tuple(label[:-1])]].append(label[-1])
        leads_to[rows[tuple(label[:-1])]].append((number, 0))
    nodes = [beginning for beginning in rows if beginning]
    sees = torch.zeros((len(nodes), len(nodes)), dtype=torch.bool)
    for node, beginning in enumerate(nodes):
        sees[node, [rows[beginning[:end]] - 1 for end in range(1, len(beginning) + 1)]] = True
    return _Layout(
        tokens=[beginning[-1] for beginning in nodes],
        depths=[len(beginning) - 1 for beginning in nodes],
        sees=sees,
        after=after,
        leads_to=leads_to,
        paths=[[rows[tuple(label[:end])] for end in range(len(label))] for label in labels],
    )


def _pairs(searches: Sequence[_Search], wanted: Sequence[Sequence[int]]) -> Iterator[tuple[_Search, int]]:
    """Yield each wanted row with its search, item by item."""
    for search, rows in zip(searches, wanted, strict=True):
        for row in rows:
            yield search, row


def _shortest_window(model: Any) -> int:
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    return int(window) if window else int(getattr(config, "max_position_embeddings", 0) or 2**31)


def _silent(amount: int = 1, note: str = "") -> None:
    """Progress of a part that shows none of its own."""
