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

TOKENS = 25
"""To be continued word for word."""
SHORTEST_PREFIX = 20
"""Tokens that must come before: from fewer, nobody could know which text it is."""


@dataclass(frozen=True, slots=True)
class Verbatim:
    """How many items were looked at, the ids of those continued exactly over `tokens` tokens, and those too short."""

    items: int
    found: tuple[str, ...]
    tokens: int
    too_short: int = 0


def continues_verbatim(
    model: Any, tokenizer: Any, examples: Sequence[Example], *, items: int = 20, seed: int = 0
) -> Verbatim:
    """Look for items that the base of a causal language model continues, greedily, with exactly their own next tokens.

    Given the first half of an item's text (prompt and completion, at least 20 tokens), the most likely next token is
    compared with the item's own at 25 positions in turn. All of them agree exactly where greedy decoding would
    write the item's own text, so one forward pass tells. At most `items` items are looked at, drawn by `seed` from
    those long enough; an adapter that is on is switched off.

    It is a note, not a proof, either way: predictable text (lists, tables, boilerplate, well-known law) is continued
    exactly by models that never saw the item, and a model can know an item without reciting it.
    """
    halves = _halves(model, tokenizer, examples)
    too_short = len(examples) - len(halves)
    halves = randomness.sample(halves, items, f"{seed} verbatim")
    with in_evaluation(model), switched_off(model):
        view, _ = target_model(model)
        prompts, own = [ids[:-TOKENS] for _, ids in halves], [[ids[-TOKENS:]] for _, ids in halves]
        with progress.bar("verbatim", len(halves)) as advance:
            found = continuations(view, prompts, own, model.device, advance) if halves else []
    # Each token of such an item is the most likely one after those before it.
    recited = tuple(name for (name, _), ((_, greedy),) in zip(halves, found, strict=True) if greedy)
    return Verbatim(len(halves), recited, TOKENS, too_short)


def _halves(model: Any, tokenizer: Any, examples: Sequence[Example]) -> list[tuple[str, list[int]]]:
    """Return id and tokens of the items that are long enough, each cut behind what is to be guessed and to the context.

    Of the tokens (T,) the last 25 are to be guessed.
    """
    context = context_length(model, tokenizer)
    renderer = Renderer(tokenizer, context)
    begin = len(renderer.prompt_ids(Example("", "", "")))
    halves = []
    for example in examples:
        whole = replace(example, prompt=example.prompt + example.completion, completion="", given=None)
        ids = renderer.prompt_ids(whole)
        length = len(ids) - begin
        prefix = min(length // 2, context - begin - TOKENS)
        if prefix >= SHORTEST_PREFIX and length - prefix >= TOKENS:
            halves.append((example.id, ids[: begin + prefix + TOKENS]))
    return halves
