"""A causal language model seen through its target tokens only, over rows without padding.

Its head is its most expensive layer, and logits are needed only where a token is to be predicted: just those positions
are projected (see head.py), of rows that are packed where the model allows it (see packed_rows.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tunelift.fast import trained_head
from tunelift.fast.attention import packed, packed_inputs
from tunelift.fast.blocks import BlockLinear
from tunelift.fast.frozen import weight_of
from tunelift.fast.head import ROWS_AT_ONCE, Asked, Head, at_least_float32, capped, over_vocabulary
from tunelift.fast.last_layer import last_layer, only_at
from tunelift.fast.packed_rows import PackedRow, Past, pack, put_back
from tunelift.fast.targets import PATHS, targets_of
from tunelift.fast.trials import Found
from tunelift.fast.undo import in_evaluation
from tunelift.model_facts.anatomy import base_of, begins_by_its_ids
from tunelift.model_facts.parameters import device_of

CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
"""What configs call the soft cap of the logits: Gemma, RecurrentGemma, xLSTM."""

LINEAR = (nn.Linear, BlockLinear)


class UnsupportedError(Exception):
    """This model cannot be seen this way; the message says why."""


class TargetOnly:
    """The decoder's last hidden states, projected where there is a target. `packs` once packing has been tried."""

    name = "target-only head"

    def __init__(self, model: Any) -> None:
        base = base_of(model)
        if not acts_in_layers(model):
            raise UnsupportedError("the adapter does some of its work around the model's call")
        if getattr(base.config, "is_encoder_decoder", False):
            raise UnsupportedError("an encoder's ids are not the decoder's")
        head = base.get_output_embeddings() if hasattr(base, "get_output_embeddings") else None
        decoder = getattr(base, base.base_model_prefix, None)
        if head is None or decoder is None:
            raise UnsupportedError("the model has no separate decoder and head")
        self.model, self.decoder, self.head = model, decoder, head
        config = base.config.get_text_config()
        softcap = next((cap for name in CAPS if (cap := getattr(config, name, None))), None)
        scale: float = getattr(config, "logit_scale", None) or 1.0 / (getattr(config, "logits_scaling", None) or 1.0)
        own = getattr(head, "weight", torch.empty(0, dtype=torch.float32))
        weight = head.blocks if type(head) is BlockLinear else own
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
        return self.losses(inputs, labels).sum()

    def losses(self, inputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        hidden, targets, _ = self.at_targets(inputs, labels)
        return self.losses_of(hidden, targets)

    def losses_of(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Return the differentiable cross-entropies (N,) (nats) of the targets (N,) after hidden states (N, D)."""
        frozen = not any(p.requires_grad for p in self.head.parameters())
        if frozen and type(self.head) in LINEAR:
            self.frozen.eight = weight_of(self.head).tiles
            return self.frozen.losses(hidden, targets)
        if type(self.head) is nn.Linear:
            return trained_head.losses(self.frozen, hidden, targets)
        return F.cross_entropy(at_least_float32(self.logits(hidden)), targets, reduction="none")

    @torch.no_grad()
    def expect(self, inputs: Mapping[str, Tensor], labels: Tensor) -> None:
        """Learn from some rows which tokens are likely, so that little of the head's gradient need be computed.

        The base model is asked, so that a training that is resumed learns the same.
        """
        off = getattr(self.model, "disable_adapter", nullcontext)
        with in_evaluation(self.model), off():
            hidden, _, _ = self.at_targets(inputs, labels)
        if len(hidden) and type(self.head) in LINEAR and not any(p.requires_grad for p in self.head.parameters()):
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
        if type(self.head) in LINEAR:
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

    def packed_hidden(self, packed_row: PackedRow, at: Sequence[int] | None = None) -> Tensor:
        """Return the last hidden states of those tokens of a packed row that are not computed yet, (N, D).

        `at` names places of the packed row; of other tokens the states may be anything then.
        """
        inputs = packed_inputs(packed_row, device_of(self.decoder))
        places = None if at is None else [place - packed_row.computed for place in at]
        with packed(self.decoder.config, packed_row), only_at(self.last, packed_row, places):
            states: Tensor = self.decoder(**inputs).last_hidden_state[0]
        packed_row.computed = len(packed_row.ids)
        return states

    @torch.no_grad()
    def past(self, ids: Sequence[int]) -> Past:
        """Return the keys and values of a beginning, for rows that go on behind it."""
        packed_row = pack([ids], [0], share=False)
        packed_row.keep = Past(len(ids))
        self.packed_hidden(packed_row, [])
        return packed_row.keep

    def at_targets(
        self, inputs: Mapping[str, Tensor], labels: Tensor, *, whole: bool = False
    ) -> tuple[Tensor, Tensor, Callable[[], Tensor]]:
        """Return the hidden states (N, D) that the targets (N,) follow, and what makes all of them, (B, T, D).

        That may only be called where the states are asked for as a `whole`.
        """
        where, targets = targets_of(labels)
        if not self.packs:
            states = self.hidden(inputs)
            return states[:, :-1][where], targets, lambda: states
        mask = inputs["attention_mask"].bool()
        rows = [row.tolist() for row in torch.split(inputs["input_ids"][mask], mask.sum(dim=1).tolist())]
        at = [row.nonzero().squeeze(-1).tolist() for row in where]
        own_from = [places[0] if places else len(row) - 1 for places, row in zip(at, rows, strict=True)]
        packed_row = pack(rows, own_from, self.shares)
        predict = [packed_row.rows[i][place] for i, places in enumerate(at) for place in places]
        states = self.packed_hidden(packed_row, None if whole else predict)
        chosen = states[torch.tensor(predict, dtype=torch.long, device=labels.device)]
        return chosen, targets, lambda: put_back(states, packed_row, labels.shape[1])


def acts_in_layers(model: Any) -> bool:
    """Tell whether all that an adapter does is done by the layers that it changes, as peft's classes have it.

    Virtual tokens are not, nor what a method does around the call, nor an adapter that looks in the ids for where it
    begins to act (aLoRA).
    """
    configs = getattr(model, "peft_config", None)
    if not configs:
        return True
    from peft import AdaLoraModel
    from peft.tuners.tuners_utils import BaseTuner

    calls = BaseTuner.forward, AdaLoraModel.forward  # which adds to a loss, and we take none from it
    plain = isinstance(model.base_model, BaseTuner) and type(model.base_model).forward in calls
    return plain and not begins_by_its_ids(model)
