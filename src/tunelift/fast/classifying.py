"""Logits of classification heads, asked for in padded batches where padding is seen to change nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from tunelift.core.errors import InputError
from tunelift.core.randomness import seeded
from tunelift.fast.rounding import asked_plainly
from tunelift.fast.trials import structure_of
from tunelift.fast.undo import in_evaluation, in_training, stock, without_cache

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

    def check_training(self, inputs: Inputs) -> None:
        """Raise InputError where the model fails on a batch in training, though it does not when it is asked."""
        with ExitStack() as stack:
            stack.enter_context(_its_own_failures(self.model, rows_in(inputs), "in training"))
            for context in (torch.no_grad(), stock(), in_training(self.model), seeded(0)):
                stack.enter_context(context)
            self(inputs)

    def _logits(self, inputs: Inputs) -> Tensor:
        return self.model(**inputs, **self.more).logits  # type: ignore[no-any-return]


@contextmanager
def _its_own_failures(model: Any, rows: Sequence[Sequence[int]], when: str) -> Iterator[None]:
    """Refuse rows that a model itself fails on."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # whatever it is, stock would fail there too
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        lengths = sorted(map(len, rows))
        raise InputError(
            f"{type(base).__name__} itself fails {when}, on rows of {lengths[0]} to {lengths[-1]} tokens: "
            f"{error or type(error).__name__}",
            fix="Some models take no text that is very short, or only one of a given length, or one with an end token: "
            "see the model's own documentation.",
        ) from error


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

    with _its_own_failures(model, rows, "when it is asked"):
        plain = asked_plainly(model, logits, rows)
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
    return together.shape[0] != 2 or not plain.agrees(list(torch.split(together, 1)))
