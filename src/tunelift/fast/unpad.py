"""Stock models that compute padded batches without their padding.

`forward` of the decoder (or of an encoder's stack of layers) is given packed rows, and its hidden states are put back
into the padded batch, so that everything around it works as before.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from tunelift.core import garbage
from tunelift.fast import tried
from tunelift.fast.attention import packed, packed_inputs, registered
from tunelift.fast.classifying import said_of
from tunelift.fast.frozen import Ways, frozen_products
from tunelift.fast.fusing import fuse_passes
from tunelift.fast.kernels import SWITCH
from tunelift.fast.last_layer import computed_again, last_layer, only_at, unsuited
from tunelift.fast.lora import fuse
from tunelift.fast.packed_rows import PackedRow, pack, put_back
from tunelift.fast.rounding import Plain, asked_plainly
from tunelift.fast.target_only import acts_in_layers
from tunelift.fast.trials import structure_of
from tunelift.fast.undo import Undo, in_evaluation, named, without_cache
from tunelift.model_facts.anatomy import base_of, is_body, pad_id, tells_segments
from tunelift.model_facts.parameters import device_of

PLAIN = {"input_ids", "attention_mask", "labels", "use_cache", "return_dict", "token_type_ids"}
"""Arguments of a call that can be packed; others that are not None go to the model's own forward."""

ROWS = [list(range(1, 24)), [*range(1, 20), 4], [7, 6, 5]]
"""Rows that are tried."""

PAIRS = [list(range(1, 24)), [*range(1, 20), 4], list(range(5, 16))]
"""Those of two texts. A head may say two numbers of each token: of few tokens they are too few to tell rounding by."""


@contextmanager
def sped_up(model: Any, pack: Ways = "none") -> Iterator[dict[str, str]]:
    """Let a model's layers run fused for a while, and without padding where it has a classification head.

    `pack` says for which products frozen weights are packed, which must not be changed by their `.data` meanwhile.
    Yields each fast path by name with "on", or "off" and the reason, for the manifest. (A causal model leaves padding
    out by itself where its targets are known, see target_only.py.)
    """
    undo = Undo()
    states = {"fused_lora": fuse(model, undo), "fused_passes": fuse_passes(model, undo)}
    states["frozen_products"] = frozen_products(model, undo, pack)
    base = base_of(model)
    inner = getattr(base, base.base_model_prefix, base)
    registry = getattr(inner, "_supports_attention_backend", False)  # others ask for their attention by name
    if registry and computed_again(
        last_layer(inner)
    ):  # and its attention with it, when the call that packed the rows is over
        undo.attention.append((inner.config, inner.config._attn_implementation))
        inner.config._attn_implementation = registered(inner.config._attn_implementation)
    if base.get_output_embeddings() is None:
        states |= unpad(model, undo, always=True, alone=True, known=_Known(model, pack))
    try:
        with garbage.not_among_what_is():
            yield states
    finally:
        undo.all()


def unpad(model: Any, undo: Undo, *, always: bool, alone: bool = False, known: _Known | None = None) -> dict[str, str]:
    """Make a model compute without padding, if that is shown to change nothing; return "on" or "off: reason" by path.

    `always` also where a call might want the cache of keys and values, as a causal model's outside of training. With
    `alone` nobody reads the hidden states but the model's own head: of what it does not read, the last layer computes
    nothing. What is `known` of the model is not tried again.
    """
    base = base_of(model)
    inner = base if is_body(base) else getattr(base, base.base_model_prefix, None)
    if inner is None or not acts_in_layers(model):
        return {"unpadded": "off: no inner model that takes rows as they are"}
    mine, packs = Undo(), _Packs()
    stack = getattr(inner, "encoder", None) or getattr(inner, "transformer", None)
    if isinstance(stack, nn.Module):
        _unpad_encoder(inner, stack, mine, packs)
    else:
        mine.put(inner, partial(_decoder, inner, inner.forward, always, packs))
    shown = known.read() if known else None
    if shown is None:
        shown = _shown(model, inner, packs, alone=alone)
        if known:
            known.write(shown)
    if shown.states["unpadded"] != "on":
        mine.all()
        return shown.states
    packs.segments, packs.end, packs.last = shown.segments, shown.end, last_layer(inner) if alone else None
    undo.replaced += mine.replaced
    return shown.states


@dataclass(frozen=True, slots=True)
class _Shown:
    """What a trial came to: "on" or "off: reason" by path, and what of `_Packs` it chose."""

    states: dict[str, str]
    segments: bool = False
    end: int | None = None


class _Known:
    """What was seen of a model as it is now and by these products: earlier in this process, or kept in the cache."""

    _all: ClassVar[WeakKeyDictionary[Any, dict[int, _Shown]]] = WeakKeyDictionary()

    def __init__(self, model: Any, pack: Ways) -> None:
        self.model = model
        self.structure = (*structure_of(model), "unpad", pack, os.environ.get(SWITCH))
        self.here = self._all.setdefault(base_of(model), {})
        self.kept_as: str | None = None

    def read(self) -> _Shown | None:
        """Return what is known; None where nothing is."""
        if hash(self.structure) not in self.here:
            self.kept_as = tried.key_of(self.model, self.structure)
            if kept := tried.read(self.kept_as):
                self.here[hash(self.structure)] = _Shown(**kept)
        return self.here.get(hash(self.structure))

    def write(self, shown: _Shown) -> None:
        """Keep what a trial came to where packing changes nothing; a refusal may have been of that moment's memory."""
        if shown.states["unpadded"] == "on":
            self.here[hash(self.structure)] = shown
            tried.write(self.kept_as, asdict(shown))


def _shown(model: Any, inner: Any, packs: _Packs, *, alone: bool) -> _Shown:
    """Try a model into which the packing has been put."""
    options = without_cache(model)
    try:
        plain = _plain(model, options)
    except Exception as error:  # some take no row so short, or none without its end
        return _Shown(
            {"unpadded": f"off: the model does not take the rows that are tried ({error or type(error).__name__})"}
        )
    reason = _fails(model, options, plain)
    if reason is None and packs.packed_row is None:
        reason = "the model's calls carry arguments that are not known here"
    if reason is not None:
        return _Shown({"unpadded": f"off: {reason}"})
    states = {"unpadded": "on"}
    if tells_segments(model):
        packs.segments = True
        if (reason := _fails(model, options, _plain(model, options, segments=True), segments=True)) is not None:
            packs.segments = False
            states["unpadded_pairs"] = f"off: {reason}"
    if not alone:
        return _Shown(states, packs.segments)
    packs.last = last_layer(inner)
    reason = unsuited(packs.last)
    for end in () if reason else (0, -1):
        packs.end = end
        if _fails(model, options, plain) is None:
            return _Shown(states | {"last_layer": "on"}, packs.segments, end)
    off = f"off: {reason or 'the head is not seen to read one token of a row'}"
    return _Shown(states | {"last_layer": off}, packs.segments)


@dataclass(slots=True)
class _Packs:
    """The packed row of the last call; and the last layer with the end of each row that alone is read of it.

    `segments` says whether calls that tell two texts of a row apart are packed too.
    """

    packed_row: PackedRow | None = None
    last: nn.Module | None = None
    end: int | None = None
    segments: bool = False

    def rows(self, inputs: Mapping[str, Any]) -> list[list[int]] | None:
        """Return the rows of a call as `rows_of` does; None, too, for a call that carries what cannot be packed."""
        types = inputs.get("token_type_ids")
        if any(value is not None and name not in PLAIN for name, value in inputs.items()):
            return None
        if types is not None and not self.segments and bool(types.any()):
            return None
        return rows_of(inputs.get("input_ids"), inputs.get("attention_mask"))

    def alone(self, packed_row: PackedRow) -> AbstractContextManager[None]:
        """Let the last layer compute what is read, for the calls inside."""
        self.packed_row = packed_row
        return only_at(self.last, packed_row, None if self.end is None else [row[self.end] for row in packed_row.rows])


def rows_of(input_ids: Tensor | None, attention_mask: Tensor | None) -> list[list[int]] | None:
    """Return the rows' token ids without padding; None unless all padding is on the right and every row has a token."""
    if input_ids is None:
        return None
    if attention_mask is None:
        return [list(map(int, row)) for row in input_ids.tolist()]
    if attention_mask.dim() != 2:
        return None
    mask = attention_mask.bool()
    lengths = mask.sum(dim=1)
    right = torch.arange(mask.shape[1], dtype=torch.long, device=mask.device)[None] < lengths[:, None]
    if not bool((mask == right).all()) or int(lengths.min()) == 0:
        return None
    return [row.tolist() for row in torch.split(input_ids[mask], lengths.tolist())]


def _decoder(inner: Any, forward: Any, always: bool, packs: _Packs, *args: Any, **inputs: Any) -> Any:
    inputs = named(forward, args, inputs)
    ids = inputs.get("input_ids")
    caches = inputs.get("use_cache") or (inputs.get("use_cache") is None and not always and not inner.training)
    rows = None if caches else packs.rows(inputs)
    if ids is None or rows is None:
        return forward(**inputs)
    packed_row = pack(rows, [len(row) - 1 for row in rows])
    with packed(inner.config, packed_row), packs.alone(packed_row):
        output = forward(**packed_inputs(packed_row, ids.device))
    output.last_hidden_state = put_back(output.last_hidden_state[0], packed_row, ids.shape[1])
    return output


def _unpad_encoder(inner: Any, stack: Any, undo: Undo, packs: _Packs) -> None:
    """Pack between an encoder's embeddings and its layers, so that embeddings and pooler see padded batches."""
    current: list[PackedRow] = []

    def whole(forward: Any, *args: Any, **inputs: Any) -> Any:
        inputs = named(forward, args, inputs)
        rows = packs.rows(inputs)
        if rows is None:
            return forward(**inputs)
        packed_row = pack(rows, [0] * len(rows), share=False)
        current.append(packed_row)
        try:
            with packed(inner.config, packed_row), packs.alone(packed_row):
                return forward(**inputs)
        finally:
            current.pop()

    def layers(forward: Any, *args: Any, **inputs: Any) -> Any:
        if not current:
            return forward(*args, **inputs)
        inputs = named(forward, args, inputs)
        name, hidden = next((name, value) for name, value in inputs.items() if isinstance(value, Tensor))
        packed_row, width = current[-1], hidden.shape[1]
        flat = [i * width + place for i, row in enumerate(packed_row.rows) for place in range(len(row))]
        chosen = hidden.reshape(-1, hidden.shape[-1])[torch.tensor(flat, dtype=torch.long, device=hidden.device)]
        output = forward(**inputs | {name: chosen[None]})
        output.last_hidden_state = put_back(output.last_hidden_state[0], packed_row, width)
        return output

    undo.put(inner, partial(whole, inner.forward))
    undo.put(stack, partial(layers, stack.forward))


def _plain(model: Any, options: dict[str, Any], *, segments: bool = False) -> Plain:
    """Return what the model says of the rows that are tried; with `segments` each of them is of two texts."""

    def ask(ids: Tensor) -> Tensor:
        types = {"token_type_ids": _types([ids[0].tolist()], ids.shape[1], ids.device)} if segments else {}
        return said_of(model, {"input_ids": ids, **types}, **options)[0]

    return asked_plainly(model, ask, PAIRS if segments else ROWS)


def _types(rows: Sequence[Sequence[int]], width: int, device: torch.device) -> Tensor:
    """Return token types (B, width) by which the second half of each row is another text."""
    found = [[0] * (len(row) // 2) + [1] * (len(row) - len(row) // 2) + [0] * (width - len(row)) for row in rows]
    return torch.tensor(found, dtype=torch.long, device=device)


@torch.no_grad()
def _fails(model: Any, options: dict[str, Any], plain: Plain, *, segments: bool = False) -> str | None:
    """Return why the model's outputs are not what they were, or None; tried on three rows of different lengths."""
    device = device_of(model)
    pad = pad_id(model)
    rows = PAIRS if segments else ROWS
    width = max(map(len, rows))
    number = partial(torch.tensor, dtype=torch.long, device=device)
    ids = number([[*row, *[pad] * (width - len(row))] for row in rows])
    mask = number([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    types = {"token_type_ids": _types(rows, width, device)} if segments else {}
    try:
        with in_evaluation(model):
            ours = said_of(model, {"input_ids": ids, "attention_mask": mask, **types}, **options)
    except Exception as error:  # whatever an architecture cannot do with packed rows, it can do without
        return f"the model takes no packed rows ({error or type(error).__name__})"
    if len(ours) != len(rows):
        return "packed rows change this model's outputs"
    token_by_token = ours.dim() == 3  # what stands at padding means nothing
    found = [one[: len(row)] if token_by_token else one for one, row in zip(ours, rows, strict=True)]
    return None if plain.agrees(found) else "packed rows change this model's outputs"
