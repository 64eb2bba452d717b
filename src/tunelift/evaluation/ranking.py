"""Labels as completions, ranked by log-likelihood: as a tree where the model allows it, else `Plain`, the slow twin.

`Plain` has one row per prompt and label.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tunelift.core.progress import Advance
from tunelift.evaluation.likelihood import log_likelihoods
from tunelift.evaluation.tree_ranking import Labels, Needed, Prompt, Tree
from tunelift.fast.target_only import TargetOnly
from tunelift.fast.targets import TargetModel
from tunelift.fast.undo import without_cache


def ranker(
    view: TargetModel, device: torch.device, rows_at_once: int, sample: tuple[Prompt, Labels]
) -> tuple[Plain | Tree, str]:
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
        """Return what `Tree.rank` does, with every label finished."""
        scores: list[list[float | None]] = []
        for prompt, choices in zip(prompts, labels, strict=True):
            pairs = [(list(prompt), list(choice)) for choice in choices]
            found = log_likelihoods(self.view, pairs, self.device, self.rows_at_once, _silent)
            scores.append([total for total, _ in found])
            advance(1)
        return scores


def _silent(amount: int = 1, note: str = "") -> None:
    """Progress of a part that shows none of its own."""
