"""Fast paths of a causal model, each tried against the plain one before it is taken.

They are tried in the dtype in use and at the length of the data's own rows. What is found holds for a model as long as
its modules, adapters and dtype are the same, and no longer rows come.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from tunelift.fast import tried
from tunelift.fast.last_layer import last_layer, unsuited
from tunelift.fast.packed_rows import SHARED_AT_LEAST, pack
from tunelift.fast.rounding import ROUNDINGS, Plain, apart, asked_plainly
from tunelift.fast.undo import acting, in_evaluation, stock, without_cache
from tunelift.model_facts.anatomy import base_of, own_pad_id, positions, vocabulary
from tunelift.model_facts.parameters import device_of, is_wide, stored_dtypes

LONGEST = 512
"""Tokens of the longest row that is tried: passes over it in float32 are to take seconds."""

FEW = 48
"""Tokens at which logits are looked at: over a large vocabulary they take long in float32."""

ONE_PRODUCT = {True: 1e-4, False: 1e-2}
"""How far the same states through the same head may be apart, by whether numbers are wide."""

TELLING = 128
"""Tokens of a row from which on what its rounding comes to is not chance."""

NATS = {True: 1e-3, False: 0.2}
"""How far two right scores of a token may be apart where rounding is not measured, by whether numbers are wide."""

Rows = Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True)
class Found:
    """Which fast paths a model takes, "on" or "off: reason", and whether each row has to be `alone`.

    `nats` is how far two right scores of a token may be apart; `length` the tokens of the longest row tried.
    """

    head: str
    packing: str
    last_layer: str
    alone: bool
    nats: float
    length: int


_known: WeakKeyDictionary[Any, dict[int, Found]] = WeakKeyDictionary()


def found(model: Any, fast: Any, rows: Rows = ()) -> Found:
    """Return which paths of `fast`, a TargetOnly or None, give the model's own numbers; `rows` are some of the data."""
    base = base_of(model)
    structure, three = structure_of(model), _three(model, rows)
    known, key = _known.setdefault(base, {}), hash(structure)
    if key not in known or known[key].length < len(three[0]):
        kept_as = tried.key_of(model, structure)
        kept = tried.read(kept_as)
        if kept and kept["length"] >= len(three[0]):
            known[key] = Found(**kept)
        else:
            with acting(model):
                known[key] = _tried(model, fast, three)
        tried.write(kept_as, asdict(known[key]))
    return known[key]


def structure_of(model: Any) -> tuple[Any, ...]:
    """Return what changes with a model's modules, what is put in their place, its adapters, its mode and its dtype."""
    config = model.config
    modules = [
        (
            type(m),
            "forward" in vars(m),
            bool(m._forward_hooks or m._forward_pre_hooks),
            *(str(getattr(m, name, "")) for name in ("disable_adapters", "active_adapters", "gradient_checkpointing")),
        )
        for m in model.modules()
    ]
    dtypes = map(str, stored_dtypes(model))
    adapters = [
        sorted((key, str(sorted(value) if isinstance(value, set) else value)) for key, value in one.to_dict().items())
        for one in getattr(model, "peft_config", {}).values()
    ]
    return (*modules, *sorted(dtypes), str(config), str(getattr(config, "_attn_implementation", "")), str(adapters))


def _three(model: Any, rows: Rows) -> list[list[int]]:
    """Return three rows, the first two of which begin alike, as long as the longest of `rows`, or long enough to tell.

    What rounding does is seen in many tokens only.
    """
    longest: list[int] = max(map(list, rows), key=len, default=[])[:LONGEST]
    first = longest if len(longest) > SHARED_AT_LEAST + 4 else []
    first += some_ids(model, len(first), TELLING)
    n = _alike(first)
    return [first, [*first[:n], *first[n - 1 :: -1][: len(first) - n]], first[-5:]]


def some_ids(model: Any, start: int, stop: int) -> list[int]:
    """Return ids for places of a row that a model has positions for, none of which means padding."""
    most, pad = positions(model), own_pad_id(model)
    places = stop if most is None else min(stop, most - 2)
    ids = [i for i in range(3, min(1000, vocabulary(model) or 1000)) if i != pad]
    first = getattr(model.config.get_text_config(), "bos_token_id", None)
    begin = [first] if start == 0 and isinstance(first, int) else []
    return [*begin, *(ids[(7 * place + place**2 // 5) % len(ids)] for place in range(start + len(begin), places))]


def _alike(first: Sequence[int]) -> int:
    return max(len(first) // 2, min(SHARED_AT_LEAST + 2, len(first) - 2))


def _tried(model: Any, fast: Any, rows: Rows) -> Found:
    head, packing, last, nats = "off: not tried", "", "", _usual(model)
    if fast is not None:
        head = _said(_head_fails(fast, rows[0][:FEW]))
    if head == "on":
        packing, last, nats = _on_rows(fast, rows)
    else:
        packing = last = head
    alone = packing != "on" and _reads_padding(model, [rows[0][:FEW], rows[2]])
    return Found(head, packing, last, alone, nats, len(rows[0]))


def _usual(model: Any) -> float:
    return NATS[is_wide(model)]


def _said(reason: str | None) -> str:
    return "on" if reason is None else f"off: {reason}"


@torch.no_grad()
def _head_fails(fast: Any, row: Sequence[int]) -> str | None:
    """Return why the head's logits of the decoder's own states are not the model's, or None."""
    inputs = _inputs(fast.model, row)
    with stock(), in_evaluation(fast.model):
        own = fast.model(**inputs, **without_cache(fast.model)).logits.float()
        try:
            ours = fast.logits(fast.hidden(inputs)).float()
        except Exception as error:  # whatever a decoder cannot do by itself, the model does
            return f"the decoder cannot be asked by itself ({error or type(error).__name__})"
    allowed = ONE_PRODUCT[is_wide(fast.model)]
    return (
        None if own.shape == ours.shape and apart(ours, own) <= allowed else "the head's logits are not the model's own"
    )


def _hidden(fast: Any, rows: Rows) -> Plain:
    return asked_plainly(fast.model, lambda ids: fast.hidden(_inputs(fast.model, ids[0].tolist()))[0], rows)


def _on_rows(fast: Any, rows: Rows) -> tuple[str, str, float]:
    """Return what becomes of packing and of the last layer on rows of the data's length, and the rounding in nats."""
    try:
        plain = _hidden(fast, rows)
    except Exception as error:  # as some do with rows of such a length in half precision
        return (
            (reason := _said(f"the model fails on its own ({error or type(error).__name__})")),
            reason,
            _usual(fast.model),
        )
    packing = last = _said(_packing_fails(fast, rows, plain))
    if packing != "on" and plain.exact is not None:
        # A mixture's router may choose otherwise by a rounding, which is chance; what is wrong is wrong again.
        rows = [[*row[:1], *row[:0:-1]] for row in rows]
        rows[1] = [*rows[0][: _alike(rows[0])], *rows[1][_alike(rows[0]) :]]
        plain = _hidden(fast, rows)
        packing = last = _said(_packing_fails(fast, rows, plain))
    if packing == "on":
        fast.last = last_layer(fast.decoder)
        last = _said(unsuited(fast.last) or _last_layer_fails(fast, rows, plain))
        fast.last = None
    return packing, last, _nats(fast, rows[0], plain)


@torch.no_grad()
def _nats(fast: Any, row: Sequence[int], plain: Plain) -> float:
    """Return how far two right scores of a token may be apart: the plain path's largest error, or what is usual."""
    if plain.exact is None:
        return _usual(fast.model)
    some = list(range(0, len(row) - 1, -(-len(row) // FEW)))
    following = torch.tensor([[row[place + 1]] for place in some], dtype=torch.long, device=plain.own[0].device)
    own, exact = (
        fast.logits(states[0][some].to(plain.own[0].dtype)).float().log_softmax(dim=-1).gather(1, following)
        for states in (plain.own, plain.exact)
    )
    return ROUNDINGS * float((own - exact).abs().max())


@torch.no_grad()
def _packing_fails(fast: Any, rows: Rows, plain: Plain) -> str | None:
    """Return why rows cannot be packed, or None: together, and behind what two of them begin with."""
    n = _alike(rows[0])
    try:
        with in_evaluation(fast.model):
            packed_row = pack(rows, [n, n, 0])
            states = fast.packed_hidden(packed_row)
            together = [states[places] for places in packed_row.rows]
            behind = pack([row[n:] for row in rows[:2]], [0, 0], past=fast.past(rows[0][:n]))
            states = fast.packed_hidden(behind)
            after = [states[places] for places in behind.rows]
    except Exception as error:  # whatever an architecture cannot do with packed rows, it can do without
        return f"the model takes no packed rows ({error or type(error).__name__})"
    right = plain.agrees(together) and plain.agrees([*after, together[2]], [slice(n, None)] * 2 + [slice(None)])
    return None if right else "packed rows change this model's hidden states"


@torch.no_grad()
def _last_layer_fails(fast: Any, rows: Rows, plain: Plain) -> str | None:
    """Return why the last layer cannot leave tokens out, or None; it is asked for ends of rows, behind others too."""
    n = _alike(rows[0])
    counts = [(len(row) - n) // 2 or 1 for row in rows[:2]] + [1]
    try:
        with in_evaluation(fast.model):
            packed_row = pack(rows, [n, n, 0])
            ends = [places[-count:] for places, count in zip(packed_row.rows, counts, strict=True)]
            states = fast.packed_hidden(packed_row, sorted(place for end in ends for place in end))
            together = [states[end] for end in ends]
            behind = pack([row[n - 2 :] for row in rows[:2]], [1, 1], past=fast.past(rows[0][: n - 2]))
            ends = [places[-count:] for places, count in zip(behind.rows, counts, strict=False)]
            states = fast.packed_hidden(behind, sorted(place for end in ends for place in end))
            after = [states[end] for end in ends]
    except Exception as error:  # as above
        return f"its last layer takes no tokens alone ({error or type(error).__name__})"
    parts = [slice(-count, None) for count in counts]
    right = plain.agrees(together, parts) and plain.agrees([*after, together[2]], parts)
    return None if right else "tokens alone change this model's hidden states"


def _reads_padding(model: Any, rows: Rows) -> bool:
    """Tell whether padding behind a row changes what the model says of it."""
    width, device, more = max(map(len, rows)), device_of(model), without_cache(model)

    def logits(ids: Tensor) -> Tensor:
        return model(input_ids=ids, attention_mask=torch.ones_like(ids), **more).logits[0, -ids.shape[1] :]  # type: ignore[no-any-return]

    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], dtype=torch.long, device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], dtype=torch.long, device=device)
    with torch.no_grad(), in_evaluation(model):
        padded = model(input_ids=ids, attention_mask=mask, **more).logits[:, -width:]
    plain = asked_plainly(model, logits, rows)
    return not plain.agrees([states[: len(row)] for states, row in zip(padded, rows, strict=True)])


def _inputs(model: Any, row: Sequence[int]) -> dict[str, Tensor]:
    ids = torch.tensor([list(row)], dtype=torch.long, device=device_of(model))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
