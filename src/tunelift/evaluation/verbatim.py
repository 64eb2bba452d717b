"""Does the base continue a test item word for word? A sign that it has seen the item in pre-training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tunelift.adapters.build import switched_off
from tunelift.core import progress, randomness
from tunelift.core.records import Example
from tunelift.data.render import Renderer
from tunelift.evaluation.ranking import continuations
from tunelift.fast.target_model import target_model
from tunelift.fast.undo import in_evaluation
from tunelift.model_facts.anatomy import context_length

SHORTEST_PREFIX = 20
"""Tokens that must come before: from fewer, nobody could know which text it is."""


@dataclass(frozen=True, slots=True)
class Verbatim:
    """How many items were looked at, the ids of those continued exactly over `tokens` tokens, and those too short."""

    items: int
    found: tuple[str, ...]
    tokens: int
    too_short: int = 0


@dataclass(frozen=True, slots=True)
class _Half:
    """An item's first half and the `tokens` tokens after it: ids (T,), of which the last are to be guessed."""

    id: str
    ids: list[int]


def continues_verbatim(
    model: Any, tokenizer: Any, examples: Sequence[Example], *, tokens: int = 25, items: int = 20, seed: int = 0
) -> Verbatim:
    """Look for items that the base of a causal language model continues, greedily, with exactly their own next tokens.

    Given the first half of an item's text (prompt and completion, at least 20 tokens), the most likely next token is
    compared with the item's own at `tokens` positions in turn. All of them agree exactly where greedy decoding would
    write the item's own text, so one forward pass tells. At most `items` items are looked at, drawn by `seed` from
    those long enough; an adapter that is on is switched off.

    It is a note, not a proof, either way: predictable text (lists, tables, boilerplate, well-known law) is continued
    exactly by models that never saw the item, and a model can know an item without reciting it.
    """
    halves = _halves(model, tokenizer, examples, tokens)
    too_short = len(examples) - len(halves)
    halves = randomness.sample(halves, items, f"{seed} verbatim")
    with in_evaluation(model), switched_off(model):
        found = _recited(model, halves, tokens)
    return Verbatim(len(halves), tuple(half.id for half in halves if half.id in found), tokens, too_short)


def _halves(model: Any, tokenizer: Any, examples: Sequence[Example], tokens: int) -> list[_Half]:
    """Return the items that are long enough, each cut behind the tokens to be guessed and to the model's context."""
    context = context_length(model, tokenizer)
    renderer = Renderer(tokenizer, context)
    begin = len(renderer.prompt_ids(Example("", "", "")))
    halves = []
    for example in examples:
        whole = replace(example, prompt=example.prompt + example.completion, completion="", given=None)
        ids = renderer.prompt_ids(whole)
        length = len(ids) - begin
        prefix = min(length // 2, context - begin - tokens)
        if prefix >= SHORTEST_PREFIX and length - prefix >= tokens:
            halves.append(_Half(example.id, ids[: begin + prefix + tokens]))
    return halves


def _recited(model: Any, halves: Sequence[_Half], tokens: int) -> set[str]:
    """Return the ids of the items whose last `tokens` tokens are each the most likely one after those before it."""
    view, _ = target_model(model)
    prompts, own = [half.ids[:-tokens] for half in halves], [[half.ids[-tokens:]] for half in halves]
    with progress.bar("verbatim", len(halves)) as advance:
        found = continuations(view, prompts, own, model.device, advance) if halves else []
    return {half.id for half, ((_, greedy),) in zip(halves, found, strict=True) if greedy}
