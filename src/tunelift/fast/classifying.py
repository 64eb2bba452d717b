"""Logits of classification heads, asked for in padded batches where padding is seen to change nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor

from tunelift.core.errors import InputError
from tunelift.core.randomness import seeded
from tunelift.fast import tried
from tunelift.fast.int8_trial import wide
from tunelift.fast.rounding import IN_FLOAT32, ROUNDINGS, UNKNOWN, Plain, apart, asked_plainly, in_float32
from tunelift.fast.trials import structure_of
from tunelift.fast.undo import in_evaluation, in_training, stock, without_cache
from tunelift.model_facts.anatomy import base_of, pad_id, tells_segments
from tunelift.model_facts.parameters import device_of

LEAST = 1e-5
"""How far right logits may be apart in float32, however little the model's own rounding is seen."""

Inputs = Mapping[str, Tensor]
Ask = Callable[[Tensor, Tensor], Tensor]

_Tried = tuple[int, int, int]
"""What a model is made of, and the most and the fewest tokens of the rows that it was tried with."""

_known: WeakKeyDictionary[Any, dict[_Tried, bool]] = WeakKeyDictionary()
"""By the model and what was tried: whether it reads padding."""


class ClassLogits:
    """A model's logits (B, C) for batches (B, T) that are padded on the right, or (B, T, C) where each token has some.

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
        found, width = [self._logits(row) for row in _each(inputs)], inputs["input_ids"].shape[1]
        return torch.cat([F.pad(row, (0, 0, 0, width - row.shape[1])) if row.dim() == 3 else row for row in found])

    def _try(self, rows: Sequence[Sequence[int]]) -> None:
        lengths, structure = [*map(len, rows)], structure_of(self.model)
        known = _known.setdefault(base_of(self.model), {})
        key = (hash(structure), max(lengths), min(lengths))
        found = next((reads for before, reads in known.items() if _covers(before, key)), None)
        self.alone = known[key] = self._reads(structure, rows) if found is None else found
        seen = [*key[1:], *self.lengths[:1], *self.lengths[-1:]]
        self.lengths = range(min(seen), max(seen) + 1)

    def _reads(self, structure: Sequence[Any], rows: Sequence[Sequence[int]]) -> bool:
        """Return whether padding beside the longest and the shortest row is read: tried now, or kept of these."""
        longest, shortest = max(rows, key=len), min(rows, key=len)
        two = [[*longest], [*shortest]]
        kept_as = tried.key_of(self.model, [*structure, "padding", two])
        kept = tried.read(kept_as)
        if kept is None:
            kept = {"reads": reads_padding(self.model, self._of_rows, two)}
            tried.write(kept_as, kept)
        return bool(kept["reads"])

    def check_training(self, inputs: Inputs) -> None:
        """Raise InputError where the model fails on a batch in training, though it does not when it is asked."""
        with ExitStack() as stack:
            stack.enter_context(_its_own_failures(self.model, rows_in(inputs), "in training"))
            for context in (torch.no_grad(), stock(), in_training(self.model), seeded(0)):
                stack.enter_context(context)
            self(inputs)

    def _of_rows(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return logits (B, C); of each token's their mean over the row, which padding must not change either."""
        logits = self._logits({"input_ids": ids, "attention_mask": mask})
        if logits.dim() == 2:
            return logits
        return (logits * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)

    def _logits(self, inputs: Inputs) -> Tensor:
        return said_of(self.model, inputs, **self.more)


def _covers(known: _Tried, asked: _Tried) -> bool:
    """Tell whether rows of these lengths lie between those that the same model was tried with."""
    return known[0] == asked[0] and known[1] >= asked[1] and known[2] <= asked[2]


def said_of(model: Any, inputs: Inputs, **more: Any) -> Tensor:
    """Return a model's logits for a batch, or (B, T, 2) where it says of each token how an answer begins, and ends.

    A model of multiple choice is asked for each row as an item with one option, and gives (B, 1); one without any head
    gives its last hidden states, (B, T, D).
    peft's forward for question answering takes token types and does not pass them on (0.21): there the model inside is
    asked, in whose layers the adapter is.
    """
    inputs = accepted(model, inputs)
    if type(base_of(model)).__name__.endswith("ForMultipleChoice"):
        inputs = with_one_option(inputs)
    swallowed = "token_type_ids" in inputs and type(model).__name__ == "PeftModelForQuestionAnswering"
    output = (base_of(model) if swallowed else model)(**inputs, **more)
    starts = getattr(output, "start_logits", None)
    if starts is not None:
        return torch.stack((starts, output.end_logits), dim=-1)
    logits: Tensor = output.logits if hasattr(output, "logits") else output.last_hidden_state
    return logits


def with_one_option(inputs: Inputs) -> Inputs:
    """Return the inputs of rows (B, T) as those of items with one option each, (B, 1, T)."""
    return {name: value[:, None] for name, value in inputs.items()}


def accepted(model: Any, inputs: Inputs) -> Inputs:
    """Return the inputs of a batch without token types where the model does not tell segments apart by them."""
    if "token_type_ids" not in inputs or tells_segments(model):
        return inputs
    return {name: value for name, value in inputs.items() if name != "token_type_ids"}


@contextmanager
def _its_own_failures(model: Any, rows: Sequence[Sequence[int]], when: str) -> Iterator[None]:
    """Refuse rows that a model itself fails on."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, InputError):
        raise
    except Exception as error:  # whatever it is, stock would fail there too
        base = base_of(model)
        lengths = sorted(map(len, rows))
        raise InputError(
            f"{type(base).__name__} itself fails {when}, on rows of {lengths[0]} to {lengths[-1]} tokens: "
            f"{error or type(error).__name__}",
            fix="Some models take no very short text, some only one length or rows with one end token, and some do not "
            "compute in half precision (model.dtype).",
        ) from error


def rows_in(inputs: Inputs) -> list[list[int]]:
    """Return the ids of a batch row by row, without padding."""
    return [row["input_ids"][0].tolist() for row in _each(inputs)]


def _each(inputs: Inputs) -> Iterator[dict[str, Tensor]]:
    for i, length in enumerate(inputs["attention_mask"].sum(dim=1).tolist()):
        yield {name: value[i : i + 1, :length] for name, value in inputs.items()}


@torch.no_grad()
def reads_padding(model: Any, ask: Ask, rows: Sequence[Sequence[int]]) -> bool:
    """Tell whether padding behind the shortest row, or the longest beside it, changes what a model says of a row.

    `ask` takes ids and mask (B, T) and returns (B, ...). In half precision a few logits tell little: the model is then
    tried in float32, and less strictly as it is, and never with products in eight bits, whose rounding is no padding.
    Raises InputError where the model itself fails on one of the two rows.
    """
    with wide(model):
        return _reads_padding(model, ask, rows)


def _reads_padding(model: Any, ask: Ask, rows: Sequence[Sequence[int]]) -> bool:
    longest, shortest = max(rows, key=len), min(rows, key=len)
    with _its_own_failures(model, [longest, shortest], "when it is asked"):
        plain = asked_plainly(model, lambda ids: ask(ids, torch.ones_like(ids)), [longest, shortest])
    pad = pad_id(model)
    width, device = len(longest), device_of(model)
    ids = _padded([longest, shortest], pad, width, device)
    mask = _padded([[1] * width, [1] * len(shortest)], 0, width, device)
    try:
        with in_evaluation(model):
            as_it_is, same = ask(ids, mask), ids[1:, : len(shortest)].repeat(2, 1)
            with _wide(model, plain):
                together, twice = ask(ids, mask), ask(same, torch.ones_like(same))
    except Exception:  # what a model cannot do with several rows, it does one by one
        return True
    if not len(together) == len(twice) == len(as_it_is) == 2:
        return True
    alone = torch.cat(plain.exact or plain.own)
    usual = max(UNKNOWN, ROUNDINGS * apart(torch.cat(plain.own), alone))
    return apart(as_it_is, alone) > usual or not _held(plain, twice).agrees(list(torch.split(together, 1)))


@contextmanager
def _wide(model: Any, plain: Plain) -> Iterator[None]:
    """Let a model compute in float32 for a while, where it is not in it and can be."""
    if plain.exact is None:
        yield
    else:
        with stock(), in_float32(model):
            yield


def _held(plain: Plain, twice: Tensor) -> Plain:
    """Return what a model says in float32, held to what the same row twice, without padding, is apart from it alone."""
    own = plain.exact or plain.own
    if plain.allowed == UNKNOWN:
        return plain
    rounding = apart(twice, own[1].expand_as(twice))
    return Plain(own, None, min(IN_FLOAT32, max(LEAST, ROUNDINGS * rounding)))


def _padded(rows: Sequence[Sequence[int]], fill: int, width: int, device: torch.device) -> Tensor:
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows], dtype=torch.long, device=device)
