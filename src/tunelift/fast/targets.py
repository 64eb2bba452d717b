"""Loss and log-likelihood at the target tokens only, over rows without padding.

A causal language model's head is its most expensive layer, and logits are needed only where a token is to be
predicted: `TargetOnly` projects just those positions (see head.py) of rows that are packed where the model allows it
(see layout.py). `WholeLogits` is the slow twin for models whose logits cannot be had that way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tunelift.fast import trials
from tunelift.fast.attention import packed, packed_inputs
from tunelift.fast.head import ROWS_AT_ONCE, Asked, Head, at_least_float32, capped, over_vocabulary
from tunelift.fast.last_layer import last_layer, only_at
from tunelift.fast.layout import Layout, Past, pack, put_back
from tunelift.fast.trials import Found
from tunelift.fast.undo import in_evaluation, without_cache

IGNORED = -100
"""Label of a position that is no target, as transformers has it."""

CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
"""What configs call the soft cap of the logits: Gemma, RecurrentGemma, xLSTM."""

PATHS = ("target_only_head", "packing", "shared_prefix", "last_layer")
"""The fast paths that are tried here."""


class TargetModel(Protocol):
    """A causal language model seen through its targets. `inputs` are forward's tensors, each (B, T).

    `fast_paths` says which are on, and why others are off; `nats` how far two right scores of a token may be apart.
    """

    name: str
    fast_paths: dict[str, str]
    nats: float

    def loss_sum(self, inputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        """Return the differentiable sum of negative log-likelihoods, in nats; labels (B, T), IGNORED elsewhere."""
        ...

    def log_likelihoods(self, inputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        """Return (targets,) log-likelihoods in nats, fp32, row by row in the order of the tokens."""
        ...


def target_model(model: Any, rows: Sequence[Sequence[int]] = ()) -> tuple[TargetModel, str]:
    """Return the fastest view of `model` that gives its own logits, and "on" or "off: reason" for the manifest.

    Each fast path is tried against the plain one, so that no architecture is taken on trust: where `rows` of ids are
    given, at the length of the longest (see trials.py). A model of which all this is known is not tried again.
    """
    fast, reason = None, "on"
    try:
        fast = TargetOnly(model)
    except _UnsupportedError as error:
        reason = f"off: {error}"
    found = trials.found(model, fast, rows)
    view: TargetModel
    if fast is None or found.head != "on":
        reason = reason if fast is None else found.head
        view = WholeLogits(model, reason)
    else:
        view = fast
        fast.take(found)
    view.nats = found.nats
    return (RowByRow(view) if found.alone else view), reason


class RowByRow:
    """Each row by itself, for models that read padding."""

    name = "row by row"

    def __init__(self, view: TargetModel) -> None:
        self.view, self.fast_paths, self.nats = view, view.fast_paths, view.nats

    def loss_sum(self, inputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        return torch.stack([self.view.loss_sum(*row) for row in _rows(inputs, labels)]).sum()

    def log_likelihoods(self, inputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        return torch.cat([self.view.log_likelihoods(*row) for row in _rows(inputs, labels)])


def _rows(inputs: Mapping[str, Tensor], labels: Tensor) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    """Yield each row of a batch, padded on the right, without its padding."""
    for i, length in enumerate(inputs["attention_mask"].sum(dim=1).tolist()):
        yield {name: value[i : i + 1, :length] for name, value in inputs.items()}, labels[i : i + 1, :length]


class WholeLogits:
    """The model's own logits at every position: correct for anything, slow."""

    name = "whole logits"

    def __init__(self, model: Any, reason: str = "off") -> None:
        self.model, self.nats = model, 0.0
        self.fast_paths = dict.fromkeys(PATHS, reason)

    def loss_sum(self, inputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        logits, targets = self._at_targets(inputs, labels)
        return F.cross_entropy(at_least_float32(logits), targets, reduction="sum")

    def log_likelihoods(self, inputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        with torch.no_grad():
            logits, targets = self._at_targets(inputs, labels)
            return -F.cross_entropy(at_least_float32(logits), targets, reduction="none")

    def _at_targets(self, inputs: Mapping[str, Tensor], labels: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.model(
            **inputs, **without_cache(self.model)
        ).logits  # (B, V' + T, V): virtual tokens of prompt methods come first
        logits = logits[:, logits.shape[1] - labels.shape[1] :]
        where, targets = _targets(labels)
        return logits[:, :-1][where], targets


class TargetOnly:
    """The decoder's last hidden states, projected where there is a target. `packs` once packing has been tried."""

    name = "target-only head"

    def __init__(self, model: Any) -> None:
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        if not acts_in_layers(model):
            raise _UnsupportedError("the adapter does some of its work around the model's call")
        if getattr(base.config, "is_encoder_decoder", False):
            raise _UnsupportedError("an encoder's ids are not the decoder's")
        head = base.get_output_embeddings() if hasattr(base, "get_output_embeddings") else None
        decoder = getattr(base, base.base_model_prefix, None)
        if head is None or decoder is None:
            raise _UnsupportedError("the model has no separate decoder and head")
        self.model, self.decoder, self.head = model, decoder, head
        config = base.config.get_text_config()
        softcap = next((cap for name in CAPS if (cap := getattr(config, name, None))), None)
        scale: float = getattr(config, "logit_scale", None) or 1.0 / (getattr(config, "logits_scaling", None) or 1.0)
        weight = getattr(head, "weight", torch.empty(0, dtype=torch.float32))
        self.frozen = Head(weight, getattr(head, "bias", None), scale, softcap)
        self.packs = self.shares = False
        self.last: nn.Module | None = None
        self.nats = 0.0
        self.fast_paths = dict.fromkeys(PATHS, "off: not tried") | {"target_only_head": "on"}

    def take(self, found: Found) -> None:
        """Pack rows from now on, and let the last layer compute no more than is asked for, as trials allow it."""
        self.packs = self.shares = found.packing == "on"
        self.last = last_layer(self.decoder) if found.last_layer == "on" else None
        self.fast_paths |= dict.fromkeys(("packing", "shared_prefix"), found.packing) | {"last_layer": found.last_layer}

    def loss_sum(self, inputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        hidden, targets, _ = self.at_targets(inputs, labels)
        return self.loss_of(hidden, targets)

    def loss_of(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Return the differentiable sum of cross-entropies (nats) of the targets (N,) after hidden states (N, D)."""
        frozen = not any(p.requires_grad for p in self.head.parameters())
        if frozen and type(self.head) is nn.Linear:
            return self.frozen.loss_sum(hidden, targets)
        return F.cross_entropy(at_least_float32(self.logits(hidden)), targets, reduction="sum")

    @torch.no_grad()
    def expect(self, inputs: Mapping[str, Tensor], labels: Tensor) -> None:
        """Learn from some rows which tokens are likely, so that little of the head's gradient need be computed.

        The base model is asked, so that a training that is resumed learns the same.
        """
        off = getattr(self.model, "disable_adapter", nullcontext)
        with in_evaluation(self.model), off():
            hidden, _, _ = self.at_targets(inputs, labels)
        if len(hidden) and type(self.head) is nn.Linear:
            self.frozen.order_by(hidden)

    @torch.no_grad()
    def log_likelihoods(self, inputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        hidden, targets, _ = self.at_targets(inputs, labels)
        rows = torch.arange(len(hidden), dtype=torch.long, device=hidden.device)
        return self.log_probabilities(hidden, rows, targets)

    @torch.no_grad()
    def log_probabilities(self, hidden: Tensor, rows: Tensor, tokens: Tensor) -> Tensor:
        """Return (E,) log-probabilities of `tokens` (E,), each after the row of `hidden` (R, D) in `rows` (E,)."""
        return self.scored(hidden, rows, tokens)[0]

    @torch.no_grad()
    def scored(self, hidden: Tensor, rows: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return `log_probabilities`, and for each of them whether its token is the likeliest one, (E,) bool."""
        if not len(rows):
            return hidden.new_zeros(0), torch.zeros(0, dtype=torch.bool)
        if type(self.head) is nn.Linear:
            own, parts = hidden.new_zeros(len(rows), dtype=at_least_float32(hidden[:0]).dtype), []
            for start in range(0, len(hidden), ROWS_AT_ONCE):
                where = ((rows >= start) & (rows < start + ROWS_AT_ONCE)).nonzero().squeeze(-1)
                asked = Asked(rows[where] - start, tokens[where])
                parts.append(over_vocabulary(self.frozen, hidden[start : start + ROWS_AT_ONCE], asked=asked)[:2])
                own[where] = self.frozen.of_plain(asked.plain).to(own.dtype)
            mass, highest = (torch.cat(part)[rows] for part in zip(*parts, strict=True))
            return own - mass, own >= highest - 1e-5 * highest.abs().clamp_min(1)
        logits = at_least_float32(self.logits(hidden))
        own = logits[rows, tokens]
        return own - torch.logsumexp(logits, dim=-1)[rows], own >= logits.amax(dim=-1)[rows]

    def logits(self, hidden: Tensor) -> Tensor:
        """Project hidden states (..., D) to logits (..., V), scaled and soft-capped as the model does."""
        scale = self.frozen.scale
        return capped(self.head(hidden) * scale if scale != 1.0 else self.head(hidden), self.frozen.softcap)

    def hidden(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the decoder's last hidden states, (B, T, D)."""
        states: Tensor = self.decoder(**inputs, use_cache=False).last_hidden_state
        return states

    def packed_hidden(self, layout: Layout, at: Sequence[int] | None = None) -> Tensor:
        """Return the last hidden states of those tokens of a packed row that are not computed yet, (N, D).

        `at` names places of the packed row; of other tokens the states may be anything then.
        """
        inputs = packed_inputs(layout, next(self.decoder.parameters()).device)
        places = None if at is None else [place - layout.computed for place in at]
        with packed(self.decoder.config, layout), only_at(self.last, layout, places):
            states: Tensor = self.decoder(**inputs).last_hidden_state[0]
        layout.computed = len(layout.ids)
        return states

    @torch.no_grad()
    def past(self, ids: Sequence[int]) -> Past:
        """Return the keys and values of a beginning, for rows that go on behind it."""
        layout = pack([ids], [0], share=False)
        layout.keep = Past(len(ids))
        self.packed_hidden(layout, [])
        return layout.keep

    def at_targets(
        self, inputs: Mapping[str, Tensor], labels: Tensor, *, whole: bool = False
    ) -> tuple[Tensor, Tensor, Callable[[], Tensor]]:
        """Return the hidden states (N, D) that the targets (N,) follow, and what makes all of them, (B, T, D).

        That may only be called where the states are asked for as a `whole`.
        """
        where, targets = _targets(labels)
        if not self.packs:
            states = self.hidden(inputs)
            return states[:, :-1][where], targets, lambda: states
        mask = inputs["attention_mask"].bool()
        rows = [row.tolist() for row in torch.split(inputs["input_ids"][mask], mask.sum(dim=1).tolist())]
        at = [row.nonzero().squeeze(-1).tolist() for row in where]
        own_from = [places[0] if places else len(row) - 1 for places, row in zip(at, rows, strict=True)]
        layout = pack(rows, own_from, self.shares)
        predict = [layout.rows[i][place] for i, places in enumerate(at) for place in places]
        states = self.packed_hidden(layout, None if whole else predict)
        chosen = states[torch.tensor(predict, dtype=torch.long, device=labels.device)]
        return chosen, targets, lambda: put_back(states, layout, labels.shape[1])


IN_LAYERS = {
    *("LORA", "ADALORA", "IA3", "LOHA", "LOKR", "OFT", "BOFT", "VERA", "FOURIERFT", "HRA", "LN_TUNING", "VBLORA"),
    *("RANDLORA", "C3A", "MISS", "SHIRA", "ROAD", "TRAINABLE_TOKENS"),
}
"""Methods of peft that change layers and nothing of the call: the decoder may be called by itself."""


def acts_in_layers(model: Any) -> bool:
    """Tell whether all that an adapter does is done by the layers that it changes.

    Virtual tokens are not, nor is an adapter that looks in the ids for where it begins to act (aLoRA).
    """
    configs = (getattr(model, "peft_config", None) or {}).values()
    return all(c.peft_type in IN_LAYERS and not getattr(c, "alora_invocation_tokens", None) for c in configs)


class _UnsupportedError(Exception):
    """This model cannot be seen this way; the message says why."""


def _targets(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return where (B, T-1) the next token is a target, and the targets (N,)."""
    shifted = labels[:, 1:]
    where = shifted != IGNORED
    return where, shifted[where]
