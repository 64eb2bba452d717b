"""Logits of classification heads, asked for in padded batches where padding is seen to change nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from tunelift.core.errors import InputError
from tunelift.fast.rounding import asked_plainly
from tunelift.fast.trials import structure_of
from tunelift.fast.undo import in_evaluation, without_cache

Inputs = Mapping[str, Tensor]

_known: WeakKeyDictionary[Any, dict[tuple[int, int, int], bool]] = WeakKeyDictionary()
"""By the model, what it is made of and the lengths of the rows tried: whether it reads padding."""


class ClassLogits:
    """A model's logits (B, C) for batches (B, T) that are padded on the right.

    Some models read padding: they mix all tokens, pool over them, or take the last one for the end. These are asked
    for each row by itself (`alone`), as are those that cannot be asked for several rows at once.
    """

    def __init__(self, model: Any, rows: Sequence[Sequence[int]] = ()) -> None:
        """Try the longest and the shortest of `rows`; raise InputError where the model itself fails on one of them."""
        self.model, self.more = model, without_cache(model)
        self.alone, self.lengths = False, range(0)
        if rows:
            self._try(rows)

    def __call__(self, inputs: Inputs) -> Tensor:
        """Return the logits of a batch; rows longer or shorter than those tried are tried first."""
        counts = inputs["attention_mask"].sum(dim=1).tolist()
        if not self.alone and not (min(counts) in self.lengths and max(counts) in self.lengths):
            self._try(rows_in(inputs))
        if not self.alone:
            return self._logits(inputs)
        return torch.cat([self._logits(row) for row in _each(inputs)])

    def _try(self, rows: Sequence[Sequence[int]]) -> None:
        longest, shortest = max(rows, key=len), min(rows, key=len)
        self.alone = _reads_padding(self.model, longest, shortest)
        seen = [len(longest), len(shortest), *self.lengths[:1], *self.lengths[-1:]]
        self.lengths = range(min(seen), max(seen) + 1)

    def _logits(self, inputs: Inputs) -> Tensor:
        return self.model(**inputs, **self.more).logits  # type: ignore[no-any-return]


def rows_in(inputs: Inputs) -> list[list[int]]:
    """Return the ids of a batch row by row, without padding."""
    return [row["input_ids"][0].tolist() for row in _each(inputs)]


def _each(inputs: Inputs) -> Iterator[dict[str, Tensor]]:
    for i, length in enumerate(inputs["attention_mask"].sum(dim=1).tolist()):
        yield {name: value[i : i + 1, :length] for name, value in inputs.items()}


def _reads_padding(model: Any, longest: Sequence[int], shortest: Sequence[int]) -> bool:
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    known = _known.setdefault(base, {})
    key = (hash(structure_of(model)), len(longest), len(shortest))
    if key not in known:
        known[key] = _tried(model, longest, shortest)
    return known[key]


def _tried(model: Any, longest: Sequence[int], shortest: Sequence[int]) -> bool:
    """Tell whether padding behind the shortest row, or the other row, changes what the model says of a row."""
    more, rows = without_cache(model), [longest, shortest]

    def logits(ids: Tensor) -> Tensor:
        return model(input_ids=ids, attention_mask=torch.ones_like(ids), **more).logits  # type: ignore[no-any-return]

    try:
        plain = asked_plainly(model, logits, rows)
    except Exception as error:
        raise InputError(
            f"{type(model).__name__} itself fails on the data's rows, the shortest of which has {len(shortest)} tokens "
            f"and the longest {len(longest)}: {error or type(error).__name__}",
            fix="Give each text more tokens where the model pools over several, and its tokenizer's special tokens.",
        ) from error
    pad = getattr(model.config.get_text_config(), "pad_token_id", None) or 0
    padding = len(longest) - len(shortest)
    device = next(model.parameters()).device
    ids = torch.tensor([longest, [*shortest, *[pad] * padding]], dtype=torch.long, device=device)
    mask = torch.ones_like(ids)
    mask[1, len(shortest) :] = 0
    try:
        with torch.no_grad(), in_evaluation(model):
            together: Tensor = model(input_ids=ids, attention_mask=mask, **more).logits
    except Exception:  # what a model cannot do with several rows, it does one by one
        return True
    return together.shape[0] != 2 or not plain.agrees(list(together.split(1)))
