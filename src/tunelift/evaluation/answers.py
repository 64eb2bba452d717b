"""Greedy answers that are a model's own: in batches with a cache where that is shown to give them, else without either.

Recurrent models read padding, some classes number positions in their own way, and adapters with virtual tokens are not
told where a row begins; none of them says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tunelift.core.progress import Advance, note_once
from tunelift.evaluation.generation import Choice, Continuation, Decoding, Ending, Rows, continue_greedily
from tunelift.fast.undo import in_evaluation, without_cache
from tunelift.model_facts.anatomy import begins_by_its_ids
from tunelift.model_facts.parameters import device_of, is_wide

Generate = Callable[[Sequence[Sequence[int]], Decoding, int, Advance], list[Continuation]]
"""(prompts, decoding, rows at once, advance) to the answers."""

SHORT = [5, 4, 3]
LONG = range(3, 12)
LONGEST = 512
TOKENS = 4


def greedy(model: Any, tokenizer: Any, nats: float, prompts: Sequence[Sequence[int]] = ()) -> tuple[Generate, str]:
    """Return what answers prompts greedily, and "on" or "off: reason" for the manifest.

    Two prompts of different lengths, the longest of `prompts` and its beginning, are tried for a few tokens: each must
    have, but for rounding, the score that a pass over its row alone without a cache gives it. `nats` is how far two
    right scores may be apart. In half precision what is off by chance is tried once more in other prompts.
    """
    if begins_by_its_ids(model):
        return partial(_one_by_one, model, tokenizer), "off: the adapter looks in a row for where it begins to act"
    longest = max(map(list, prompts), key=len, default=list[int]())[:LONGEST]
    # What a model makes of rows that begin as none of its own do rounds far more.
    pairs = [[longest, longest[: len(longest) // 3]]] if len(longest) > len(LONG) else []
    try:
        with in_evaluation(model):
            enough = all if is_wide(model) else any
            right = enough(_is_own(model, pair, nats) for pair in [*pairs, [list(LONG), SHORT]])
            reason = None if right else "answers in batches are not those of each prompt alone"
    except Exception as error:  # whatever a model's cache cannot do, the model does without
        reason = f"the model cannot answer in batches ({error or type(error).__name__})"
    if reason is None:
        return partial(continue_greedily, model, tokenizer), "on"
    note_once(f"generation: {reason}; each prompt is answered by itself, without a cache")
    return partial(_one_by_one, model, tokenizer), f"off: {reason}"


def _is_own(model: Any, prompts: Sequence[Sequence[int]], nats: float) -> bool:
    """Tell whether each token that is chosen in a batch has the score that it has the plain way, as the likeliest does.

    The first row leaves half-way, as one does whose answer ends.
    """
    rows = Rows(model, prompts)
    for number in range(TOKENS):
        chosen = rows.step()
        likely = rows.logits.float().log_softmax(dim=-1)
        rows.new_tokens(chosen)
        for place, row in enumerate(rows.running):
            plain = _plain(model, [*prompts[row], *rows.answers[row][:-1]])[-1].log_softmax(dim=-1)
            both = [int(chosen[place]), int(plain.argmax())]
            if bool(((likely[place] - plain)[both].abs() > 2 * nats).any()):  # each may be so far off
                return False
        rows.leave([number == TOKENS // 2 - 1 and row == 0 for row in rows.running])
    return True


@torch.no_grad()
def _plain(model: Any, ids: Sequence[int]) -> Tensor:
    """Return the logits (T, V) of one row by itself, those of virtual tokens before it left out."""
    row = torch.tensor([list(ids)], dtype=torch.long, device=device_of(model))
    logits: Tensor = model(input_ids=row, attention_mask=torch.ones_like(row), **without_cache(model)).logits
    return logits[0, -len(ids) :].float()


def _one_by_one(
    model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], decoding: Decoding, _rows: int, advance: Advance
) -> list[Continuation]:
    """Answer each prompt by itself, with a pass over the whole row for each token."""
    answers, choice = [], Choice(decoding.seed)
    for number, prompt in enumerate(prompts):
        tokens, end = list[int](), Ending(tokenizer, decoding)
        while not tokens or not end.reached([tokens], [len(prompt)])[0]:
            tokens.append(int(choice.of(_plain(model, [*prompt, *tokens])[-1:], [number])))
        answers.append(end.continuation(tokens))
        advance(1)
    return answers
