"""Labels as completions, ranked by log-likelihood.

The labels of one prompt share their first tokens, so they are laid out as a tree behind the prompt: each token attends
to the prompt and to the tokens that lead to it, and prompt and shared tokens are computed once. `Plain` is the slow
twin: one row per prompt and label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


class Ranker(Protocol):
    def rank(self, prompts: Sequence[Prompt], labels: Sequence[Labels], advance: Advance) -> list[list[float]]:
        """Return the summed log-likelihood (nats) of every label behind every prompt, in their order."""
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
        ours, theirs = (r.rank([few[0]], [few[1]], _silent)[0] for r in (tree, plain))
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        return plain, f"off: the model takes no tree of tokens ({type(error).__name__})"
    tolerance = 1e-3 if next(model.parameters()).dtype == torch.float32 else 0.2
    agrees = all(abs(a - b) <= tolerance * max(1.0, abs(b)) for a, b in zip(ours, theirs, strict=True))
    return (tree, "on") if agrees else (plain, "off: a tree of tokens changes the scores of this model")


class Plain:
    """Every label in a row of its own."""

    def __init__(self, view: TargetModel, device: torch.device, rows_at_once: int) -> None:
        self.view, self.device, self.rows_at_once = view, device, rows_at_once

    def rank(self, prompts: Sequence[Prompt], labels: Sequence[Labels], advance: Advance) -> list[list[float]]:
        scores = []
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

    def rank(self, prompts: Sequence[Prompt], labels: Sequence[Labels], advance: Advance) -> list[list[float]]:
        layouts: dict[tuple[tuple[int, ...], ...], _Layout] = {}
        keys = [tuple(tuple(choice) for choice in choices) for choices in labels]
        trees = [layouts.setdefault(key, _layout(key)) for key in keys]
        lengths = [len(prompt) + len(tree.tokens) for prompt, tree in zip(prompts, trees, strict=True)]
        scores: list[list[float]] = [[]] * len(prompts)
        for group in by_length(lengths, rows_at_once=64, tokens_at_once=2048):
            if lengths[group[0]] > self.window:  # the tree's mask knows no window
                found = self.plain.rank([prompts[i] for i in group], [labels[i] for i in group], _silent)
            else:
                found = self._group([prompts[i] for i in group], [trees[i] for i in group])
            for i, row in zip(group, found, strict=True):
                scores[i] = row
            advance(len(group))
        return scores

    @torch.no_grad()
    def _group(self, prompts: Sequence[Prompt], trees: Sequence[_Layout]) -> list[list[float]]:
        hidden = self.view.hidden(self._inputs(prompts, trees))  # (B, T, D)
        # Row 0 of an item's logits follows the prompt, row 1 + n follows node n.
        spans = [(len(p) - 1, len(p) + len(t.tokens)) for p, t in zip(prompts, trees, strict=True)]
        rows = torch.cat([hidden[i, start:end] for i, (start, end) in enumerate(spans)])
        starts = torch.tensor([0, *(1 + len(t.tokens) for t in trees)]).cumsum(0)[:-1].tolist()
        at = torch.tensor([start + row for start, t in zip(starts, trees, strict=True) for row in t.edge_rows])
        tokens = torch.tensor([token for t in trees for token in t.edge_tokens])
        edges = self.view.log_probabilities(rows, at.to(self.device), tokens.to(self.device)).double().cpu()
        scores, done = [], 0
        for tree in trees:
            own = edges[done : done + len(tree.edge_tokens)]
            done += len(tree.edge_tokens)
            scores.append([float(own[list(path)].sum()) for path in tree.paths])
        return scores

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


@dataclass(frozen=True, slots=True)
class _Layout:
    """A tree of tokens: every proper beginning of a label is a node, every token of a label an edge.

    `edge_rows` is 0 for the prompt's last token and 1 + n for node n; `paths` are the edges of each label.
    """

    tokens: list[int]
    depths: list[int]
    sees: Tensor
    edge_rows: list[int]
    edge_tokens: list[int]
    paths: list[list[int]]


def _layout(labels: Sequence[Sequence[int]]) -> _Layout:
    nodes: dict[tuple[int, ...], int] = {}
    edges: dict[tuple[int, ...], int] = {}
    for label in labels:
        for end in range(1, len(label) + 1):
            edges.setdefault(tuple(label[:end]), len(edges))
            if end < len(label):
                nodes.setdefault(tuple(label[:end]), len(nodes))
    sees = torch.zeros((len(nodes), len(nodes)), dtype=torch.bool)
    for beginning, node in nodes.items():
        for end in range(1, len(beginning) + 1):
            sees[node, nodes[beginning[:end]]] = True
    return _Layout(
        tokens=[beginning[-1] for beginning in nodes],
        depths=[len(beginning) - 1 for beginning in nodes],
        sees=sees,
        edge_rows=[0 if len(edge) == 1 else 1 + nodes[edge[:-1]] for edge in edges],
        edge_tokens=[edge[-1] for edge in edges],
        paths=[[edges[tuple(label[:end])] for end in range(1, len(label) + 1)] for label in labels],
    )


def _shortest_window(model: Any) -> int:
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    return int(window) if window else int(getattr(config, "max_position_embeddings", 0) or 2**31)


def _silent(amount: int = 1, note: str = "") -> None:
    """Progress of a part that shows none of its own."""
