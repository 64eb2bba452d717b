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

from tunelift.fast.attention import packed, packed_inputs
from tunelift.fast.head import ROWS_AT_ONCE, Asked, Head, at_least_float32, capped, over_vocabulary
from tunelift.fast.last_layer import last_layer, only_at, unsuited
from tunelift.fast.layout import SHARED_AT_LEAST, Layout, Past, pack, put_back
from tunelift.fast.undo import in_evaluation, without_cache

IGNORED = -100
"""Label of a position that is no target, as transformers has it."""

CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
"""What configs call the soft cap of the logits: Gemma, RecurrentGemma, xLSTM."""

PATHS = ("target_only_head", "packing", "shared_prefix", "last_layer")
"""The fast paths that are tried here."""


class TargetModel(Protocol):
    """A causal language model seen through its targets. `inputs` are forward's tensors, each (B, T).

    `fast_paths` says which are on, and why others are off.
    """

    name: str
    fast_paths: dict[str, str]

    def loss_sum(self, inputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        """Return the differentiable sum of negative log-likelihoods, in nats; labels (B, T), IGNORED elsewhere."""
        ...

    def log_likelihoods(self, inputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        """Return (targets,) log-likelihoods in nats, fp32, row by row in the order of the tokens."""
        ...


def target_model(model: Any) -> tuple[TargetModel, str]:
    """Return the fastest view of `model` that gives its own logits, and "on" or "off: reason" for the manifest.

    Each fast path is tried on a few tokens against the plain one, so that no architecture is taken on trust.
    """
    try:
        fast = TargetOnly(model)
    except _UnsupportedError as error:
        return _by_rows(WholeLogits(model, f"off: {error}"), model), f"off: {error}"
    try:
        worst = _largest_difference(fast, model)
    except Exception as error:  # whatever a decoder cannot do by itself, the model does
        reason = f"off: the decoder cannot be asked by itself ({error or type(error).__name__})"
        return _by_rows(WholeLogits(model, reason), model), reason
    if worst is None or worst > _rounding(model):
        reason = "off: the head's logits are not the model's own"
        return _by_rows(WholeLogits(model, reason), model), reason
    fast.try_packing()
    return (fast if fast.packs else _by_rows(fast, model)), "on"


class RowByRow:
    """Each row by itself, for models that read padding."""

    name = "row by row"

    def __init__(self, view: TargetModel) -> None:
        self.view, self.fast_paths = view, view.fast_paths

    def loss_sum(self, inputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        return torch.stack([self.view.loss_sum(*row) for row in _rows(inputs, labels)]).sum()

    def log_likelihoods(self, inputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        return torch.cat([self.view.log_likelihoods(*row) for row in _rows(inputs, labels)])


def _rows(inputs: Mapping[str, Tensor], labels: Tensor) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    """Yield each row of a batch, padded on the right, without its padding."""
    for i, length in enumerate(inputs["attention_mask"].sum(dim=1).tolist()):
        yield {name: value[i : i + 1, :length] for name, value in inputs.items()}, labels[i : i + 1, :length]


def _by_rows(view: TargetModel, model: Any) -> TargetModel:
    """Return the view, or one that takes rows by themselves where padding is seen to change what it says."""
    device = next(model.parameters()).device
    rows = [list(range(3, 14)), [7, 6, 5, 4]]
    ids = torch.tensor([rows[0], [*rows[1], *[0] * 7]], dtype=torch.long, device=device)
    mask = torch.tensor([[1] * 11, [1] * 4 + [0] * 7], dtype=torch.long, device=device)
    labels = ids.masked_fill(mask == 0, IGNORED)
    rowwise = RowByRow(view)
    with in_evaluation(model):
        together, alone = (
            v.log_likelihoods({"input_ids": ids, "attention_mask": mask}, labels) for v in (view, rowwise)
        )
    return view if _difference(together, alone) <= _tolerance(model) else rowwise


class WholeLogits:
    """The model's own logits at every position: correct for anything, slow."""

    name = "whole logits"

    def __init__(self, model: Any, reason: str = "off") -> None:
        self.model = model
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
        self.fast_paths = dict.fromkeys(PATHS, "off: not tried") | {"target_only_head": "on"}

    def try_packing(self) -> None:
        """Pack rows from now on if packed rows have the hidden states they have alone.

        Let the last layer compute no more than is asked for if that leaves these as they are too.
        """
        self.packs = self.shares = False
        self.last = None
        reason = _packing_fails(self)
        self.packs = self.shares = reason is None
        self.fast_paths |= dict.fromkeys(("packing", "shared_prefix"), "on" if reason is None else f"off: {reason}")
        if reason is None:
            self.last = last_layer(self.decoder)
            reason = _last_layer_fails(self)
            self.last = self.last if reason is None else None
        self.fast_paths["last_layer"] = "on" if reason is None else f"off: {reason}"

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


def _tolerance(model: Any) -> float:
    """Half precision rounds at every layer: two right ways may be some percent apart, a wrong one is far off."""
    return 1e-4 if next(model.parameters()).dtype in (torch.float32, torch.float64) else 0.15


def _rounding(model: Any) -> float:
    """Of one product more or less: the same hidden states through the same head."""
    return 1e-4 if next(model.parameters()).dtype in (torch.float32, torch.float64) else 1e-2


def _largest_difference(fast: TargetOnly, model: Any) -> float | None:
    """Return the largest relative difference of logits over four tokens; None where shapes differ."""
    ids = torch.arange(1, 5, dtype=torch.long, device=next(model.parameters()).device)[None]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with in_evaluation(model), torch.no_grad():
        own = model(**inputs, **without_cache(model)).logits.float()
        ours = fast.logits(fast.hidden(inputs)).float()
    if own.shape != ours.shape:
        return None
    return _difference(ours, own)


@torch.no_grad()
def _packing_fails(fast: TargetOnly) -> str | None:
    """Return why rows cannot be packed, or None; three rows, two of which begin alike, are tried."""
    n = SHARED_AT_LEAST + 2
    rows = [list(range(1, n + 4)), [*range(1, n + 1), 3, 2, 1, 5, 4], [7, 6, 5, 4, 3]]
    device = next(fast.model.parameters()).device
    try:
        with in_evaluation(fast.model):
            tensors = [torch.tensor([row], dtype=torch.long, device=device) for row in rows]
            alone = [fast.hidden({"input_ids": ids, "attention_mask": torch.ones_like(ids)})[0] for ids in tensors]
            layout = pack(rows, [n, n, 0])
            states = fast.packed_hidden(layout)
            worst = max(_difference(states[places], own) for places, own in zip(layout.rows, alone, strict=True))
            behind = pack([row[n:] for row in rows[:2]], [0, 0], past=fast.past(rows[0][:n]))
            states = fast.packed_hidden(behind)
            worst = max(worst, *(_difference(states[p], own[n:]) for p, own in zip(behind.rows, alone, strict=False)))
    except Exception as error:  # whatever an architecture cannot do with packed rows, it can do without
        return f"the model takes no packed rows ({error or type(error).__name__})"
    return None if worst <= _tolerance(fast.model) else "packed rows change this model's hidden states"


@torch.no_grad()
def _last_layer_fails(fast: TargetOnly) -> str | None:
    """Return why the last layer cannot leave tokens out, or None; rows as in packing are tried, behind others too."""
    if (reason := unsuited(fast.last)) is not None:
        return reason
    n = SHARED_AT_LEAST + 2
    rows = [[*range(1, n + 1), 2, 3], [*range(1, n + 1), 3, 2, 1], [7, 6, 5, 4, 3]]
    try:
        with in_evaluation(fast.model):
            layout = pack(rows, [n, n, 0])
            ends = [places[-1] for places in layout.rows]
            own = fast.packed_hidden(layout)[ends]
            layout.computed = 0
            worst = _difference(fast.packed_hidden(layout, ends)[ends], own)
            behind = pack([row[n - 2 :] for row in rows[:2]], [1, 1], past=fast.past(rows[0][: n - 2]))
            ends = [places[-1] for places in behind.rows]
            worst = max(worst, _difference(fast.packed_hidden(behind, ends)[ends], own[:2]))
    except Exception as error:  # as above
        return f"its last layer takes no tokens alone ({error or type(error).__name__})"
    return None if worst <= _tolerance(fast.model) else "tokens alone change this model's hidden states"


def _difference(ours: Tensor, own: Tensor) -> float:
    return float((ours - own).float().norm() / own.float().norm().clamp_min(1e-6))
