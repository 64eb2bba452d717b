"""Whether a model that is asked for the next token sees the tokens behind it.

transformers' causal classes do not all hold that: XLNet's and CPM-Ant's see the whole row (5.23), as do BERT's kin
without `is_decoder`, XLM without `causal`, and Gemma 3 with `use_bidirectional_attention`. A likelihood is none there,
since the token that is to be likely is among what is read.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

import torch

from tunelift.core.errors import InputError
from tunelift.fast.undo import in_evaluation
from tunelift.model_facts.parameters import compute_dtype

ROW = 8
"""Tokens of the row that is asked about."""
APART = {torch.float32: 1e-3, torch.float64: 1e-3}
"""How far logits may be apart for rounding's sake, of the largest; in fewer bits HALF."""
HALF = 0.02

_seen: WeakSet[Any] = WeakSet()


def check_reads_forward(model: Any) -> None:
    """Raise InputError for a causal language model whose logits at a token depend on a later one.

    Two rows that differ in their last token are asked, once for each model in memory.
    """
    if model in _seen or any(parameter.is_meta for parameter in model.parameters()):
        return
    apart, size = _apart(model)
    if apart > APART.get(compute_dtype(model), HALF) * size:
        raise InputError(
            f"{type(model).__name__} sees the tokens behind the one that it is asked about: a likelihood or a training "
            "on the next token would be told the answer.",
            fix="Take a model that reads forward alone; some have a setting in their config.json that makes them do so "
            "(BERT and its kin is_decoder, XLM causal).",
        )
    _seen.add(model)


@torch.no_grad()
def _apart(model: Any) -> tuple[float, float]:
    """Return how far the logits before the last token move with it, and the largest of them.

    Nothing moves where the model refuses such rows: what it is asked later it will refuse too.
    """
    device, size = next(model.parameters()).device, model.config.get_text_config().vocab_size
    rows = torch.arange(ROW, device=device).repeat(2, 1) + min(5, max(0, size - ROW - 2))
    rows[1, -1] += 1
    try:
        with in_evaluation(model):
            logits = model(input_ids=rows, attention_mask=torch.ones_like(rows), use_cache=False).logits.float()
    except Exception:
        return 0.0, 1.0
    before = logits[:, : ROW - 1]
    return float((before[0] - before[1]).abs().max()), float(before.abs().max())
