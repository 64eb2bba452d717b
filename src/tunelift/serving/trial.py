"""Whether a model gives its own answers by pages, before anybody is answered so."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch

from tunelift.core.progress import note_once
from tunelift.core.records import Example
from tunelift.data.render import Renderer
from tunelift.fast.undo import in_evaluation, without_cache
from tunelift.model_facts.anatomy import begins_by_its_ids, virtual_tokens
from tunelift.model_facts.parameters import device_of, is_wide
from tunelift.serving.engine import Engine, Limits, answered
from tunelift.serving.lora import InTurns
from tunelift.serving.requests import Request, Sampling, Stop

TEXTS = (
    "The capital of France is Paris, and the capital of Germany is",
    "The capital of France is",
    " ".join(f"{number} and {number} are {2 * number}." for number in range(1, 13)),
)
"""What is continued for a trial; two begin alike, and one takes more than a page.

Of ids that are no text a model in half precision makes far more of its rounding.
"""

TOKENS = 3


def why_alone(model: Any, tokenizer: Any, nats: float) -> str | None:
    """Return why requests have to be computed each by itself, None where all are in one batch.

    The base continues TEXTS, and each adapter the first, in one batch: each token told must have, but for rounding, the
    score that a pass over its row alone gives. `nats` is how far two right scores may be apart.
    """
    if begins_by_its_ids(model):
        return _said("an adapter looks in a row for where it begins to act")
    configs = getattr(model, "peft_config", None) or {}
    if any(getattr(config, "is_prompt_learning", False) for config in configs.values()):
        return _said("an adapter puts tokens before each row")
    assert not virtual_tokens(model)
    try:
        with Engine(model, tokenizer, Limits(rows=16, queue=2**31, tokens=8192, chunk=24)) as engine:
            most = max(2, engine.context - TOKENS)
            renderer = Renderer(deepcopy(tokenizer), most)
            rows = [renderer.prompt_ids(Example(text, text, ""))[:most] for text in TEXTS]
            asked = [*((row, None) for row in rows), *((rows[0], adapter) for adapter in configs)]
            requests = [
                Request(row, Sampling(logprobs=1), adapter, Stop(max_new_tokens=TOKENS), scored_from=1)
                for row, adapter in asked
            ]
            found = answered(engine, requests)
        with in_evaluation(model):
            right = [_is_own(model, request, found[request.number], nats) for request in requests]
    except Exception as error:  # whatever a model's attention cannot do, the model does without
        return _said(f"the model takes no pages ({error or type(error).__name__})")
    # In half precision one may be off by chance.
    wrong = right.count(False)
    return None if wrong <= (0 if is_wide(model) else len(right) // 4) else _said("answers by pages are not its own")


def _said(reason: str) -> str:
    note_once(f"engine: {reason}; each request is computed by itself, without a cache")
    return reason


@torch.no_grad()
def _is_own(model: Any, request: Request, deltas: Sequence[Any], nats: float) -> bool:
    """Tell whether the scores told of a request, prompt and answer, are those of a pass over the row alone."""
    if any(delta.finish == "error" for delta in deltas):
        raise RuntimeError(next(delta.reason for delta in deltas if delta.reason))
    told = [token for delta in deltas for token in (*delta.prompt, *delta.tokens)]
    ids = [request.ids[0], *(token.id for token in told)]
    row = torch.tensor([ids], dtype=torch.long, device=device_of(model))
    with InTurns(model).of([request.adapter]):
        logits = model(input_ids=row, attention_mask=torch.ones_like(row), **without_cache(model)).logits[0]
    likely = logits.float().log_softmax(dim=-1).cpu()
    wanted = [float(likely[place, token.id]) for place, token in enumerate(told)]
    best = [float(likely[place].max()) for place in range(len(told))]
    near = zip(told, wanted, best, strict=True)
    return all(
        abs((token.logprob or 0) - own) <= 2 * nats and abs(token.top[0][1] - most) <= 2 * nats
        for token, own, most in near
    )
