"""Loss and log-likelihood at the target tokens only.

A causal language model's head is its most expensive layer, and logits are needed only where a token is to be
predicted. `TargetOnly` projects just those positions, a few at a time; with a frozen head the gradient is known in the
forward pass, d loss / d hidden = softmax(hidden Wᵀ) W - W[target], so that logits are never kept (the idea of Cut
Cross-Entropy, arXiv 2411.09009). `WholeLogits` is the slow twin for models whose logits cannot be had that way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IGNORED = -100
"""Label of a position that is no target, as transformers has it."""

LOGITS_BYTES = 128 * 2**20
"""Logits held at once, in bytes: large enough for full-speed products, small beside the model."""


ROWS_AT_ONCE, TILE = 512, 8192
"""Rows and vocabulary entries scored at once: 16 MB of logits."""


class TargetModel(Protocol):
    """A causal language model seen through its targets. `inputs` are forward's tensors, each (B, T)."""

    name: str

    def loss_sum(self, inputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        """Return the differentiable sum of negative log-likelihoods, in nats; labels (B, T), IGNORED elsewhere."""
        ...

    def log_likelihoods(self, inputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        """Return (targets,) log-likelihoods in nats, fp32, row by row in the order of the tokens."""
        ...


def target_model(model: Any) -> tuple[TargetModel, str]:
    """Return the fastest view of `model` that gives its own logits, and "on" or "off: reason" for the manifest.

    The fast view is tried on four tokens against the model's own logits, so that no architecture is taken on trust.
    """
    try:
        fast = TargetOnly(model)
    except _UnsupportedError as error:
        return WholeLogits(model), f"off: {error}"
    worst = _largest_difference(fast, model)
    if worst is None or worst > (1e-4 if next(model.parameters()).dtype == torch.float32 else 5e-2):
        return WholeLogits(model), "off: the head's logits are not the model's own"
    return fast, "on"


class WholeLogits:
    """The model's own logits at every position: correct for anything, slow."""

    name = "whole logits"

    def __init__(self, model: Any) -> None:
        self.model = model

    def loss_sum(self, inputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        logits, targets = self._at_targets(inputs, labels)
        return F.cross_entropy(_at_least_float32(logits), targets, reduction="sum")

    def log_likelihoods(self, inputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        with torch.no_grad():
            logits, targets = self._at_targets(inputs, labels)
            return -F.cross_entropy(_at_least_float32(logits), targets, reduction="none")

    def _at_targets(self, inputs: Mapping[str, Tensor], labels: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.model(**inputs).logits  # (B, V' + T, V): virtual tokens of prompt methods come first
        logits = logits[:, logits.shape[1] - labels.shape[1] :]
        where, targets = _targets(labels)
        return logits[:, :-1][where], targets


class TargetOnly:
    """The decoder's last hidden states, projected where there is a target."""

    name = "target-only head"

    def __init__(self, model: Any) -> None:
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        if getattr(model, "peft_config", None) and any(c.is_prompt_learning for c in model.peft_config.values()):
            raise _UnsupportedError("the adapter adds virtual tokens")
        head = base.get_output_embeddings() if hasattr(base, "get_output_embeddings") else None
        decoder = getattr(base, base.base_model_prefix, None)
        if head is None or decoder is None:
            raise _UnsupportedError("the model has no separate decoder and head")
        self.decoder, self.head = decoder, head
        config = base.config.get_text_config()
        self.softcap: float | None = getattr(config, "final_logit_softcapping", None)
        self.scale: float = getattr(config, "logit_scale", None) or 1.0 / (
            getattr(config, "logits_scaling", None) or 1.0
        )

    def loss_sum(self, inputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        hidden, targets = self._hidden_at_targets(inputs, labels)
        if self._frozen_linear():
            loss: Tensor = _FrozenHeadLoss.apply(  # type: ignore[no-untyped-call]
                hidden, self.head.weight, self.head.bias, targets, self.scale, self.softcap
            )
            return loss
        return F.cross_entropy(_at_least_float32(self.logits(hidden)), targets, reduction="sum")

    @torch.no_grad()
    def log_likelihoods(self, inputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        hidden, targets = self._hidden_at_targets(inputs, labels)
        return self.log_probabilities(hidden, torch.arange(len(hidden), device=hidden.device), targets)

    @torch.no_grad()
    def log_probabilities(self, hidden: Tensor, rows: Tensor, tokens: Tensor) -> Tensor:
        """Return (E,) log-probabilities of `tokens` (E,), each after the row of `hidden` (R, D) in `rows` (E,)."""
        if not len(rows):
            return hidden.new_zeros(0)
        if type(self.head) is nn.Linear:
            parts = [self._log_mass(some) for some in torch.split(hidden, ROWS_AT_ONCE)]
            bias = 0.0 if self.head.bias is None else self.head.bias[tokens]
            own = _at_least_float32((hidden[rows] * self.head.weight[tokens]).sum(dim=-1) + bias)
            return _capped(own * self.scale, self.softcap) - torch.cat(parts)[rows]
        logits = _at_least_float32(self.logits(hidden))
        return logits[rows, tokens] - torch.logsumexp(logits, dim=-1)[rows]

    def _log_mass(self, hidden: Tensor) -> Tensor:
        """Return log Σ exp(logits) of each row (R,), over tiles of the vocabulary that stay in the cache."""
        tiles = torch.split(self.head.weight, TILE)
        biases = [None] * len(tiles) if self.head.bias is None else torch.split(self.head.bias, TILE)
        highest = hidden.new_full((len(hidden), 1), -torch.inf, dtype=_at_least_float32(hidden[:0]).dtype)
        mass = torch.zeros_like(highest)
        for weight, bias in zip(tiles, biases, strict=True):
            logits = _at_least_float32(F.linear(hidden, weight, bias))
            logits = _capped(logits if self.scale == 1.0 else logits.mul_(self.scale), self.softcap)
            top = torch.maximum(highest, logits.amax(dim=-1, keepdim=True))
            mass = mass * (highest - top).exp_() + logits.sub_(top).exp_().sum(dim=-1, keepdim=True)
            highest = top
        return (highest + mass.log()).squeeze(-1)

    def logits(self, hidden: Tensor) -> Tensor:
        """Project hidden states (..., D) to logits (..., V), scaled and soft-capped as the model does."""
        return _capped(self.head(hidden) * self.scale if self.scale != 1.0 else self.head(hidden), self.softcap)

    def hidden(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the decoder's last hidden states, (B, T, D)."""
        states: Tensor = self.decoder(**inputs, use_cache=False).last_hidden_state
        return states

    def _hidden_at_targets(self, inputs: Mapping[str, Tensor], labels: Tensor) -> tuple[Tensor, Tensor]:
        where, targets = _targets(labels)
        return self.hidden(inputs)[:, :-1][where], targets

    def _frozen_linear(self) -> bool:
        parameters = list(self.head.parameters())
        return type(self.head) is nn.Linear and not any(p.requires_grad for p in parameters)


class _FrozenHeadLoss(torch.autograd.Function):
    """Sum of cross-entropies over targets, with the gradient to `hidden` (N, D) made in the forward pass."""

    @staticmethod
    def forward(  # noqa: PLR0917  torch passes arguments by position
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        scale: float,
        softcap: float | None,
    ) -> Tensor:
        total = torch.zeros((), dtype=_at_least_float32(hidden[:0]).dtype, device=hidden.device)
        gradient = torch.empty_like(hidden)
        step = max(1, LOGITS_BYTES // (4 * weight.shape[0]))
        for start in range(0, len(hidden), step):
            rows = slice(start, start + step)
            logits = _at_least_float32(F.linear(hidden[rows], weight, bias))
            logits = logits if scale == 1.0 else logits.mul_(scale)
            logits = _capped(logits, softcap)
            at = targets[rows, None]
            total -= logits.gather(1, at).sum()
            # d capped / d logits, taken before the buffer is turned into probabilities, in place as all that follows
            slope = None if softcap is None else (1 - (logits / softcap) ** 2).mul_(scale)
            highest = logits.amax(dim=-1, keepdim=True)
            share = logits.sub_(highest).exp_()
            mass = share.sum(dim=-1, keepdim=True)
            total += (mass.log() + highest).sum()
            if ctx.needs_input_grad[0]:
                share.div_(mass).scatter_add_(1, at, torch.full_like(at, -1, dtype=share.dtype))
                share = share.mul_(slope) if slope is not None else share if scale == 1.0 else share.mul_(scale)
                torch.mm(share.to(weight.dtype), weight, out=gradient[rows])
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        (gradient,) = ctx.saved_tensors
        return gradient * grad_outputs[0].to(gradient.dtype), None, None, None, None, None


class _UnsupportedError(Exception):
    """This model cannot be seen this way; the message says why."""


def _targets(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return where (B, T-1) the next token is a target, and the targets (N,)."""
    shifted = labels[:, 1:]
    where = shifted != IGNORED
    return where, shifted[where]


def _capped(logits: Tensor, softcap: float | None) -> Tensor:
    return logits if softcap is None else torch.tanh(logits / softcap) * softcap


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _largest_difference(fast: TargetOnly, model: Any) -> float | None:
    """Return the largest relative difference of logits over four tokens; None where shapes differ."""
    training = model.training
    model.eval()
    try:
        ids = torch.arange(1, 5, device=next(model.parameters()).device)[None]
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        with torch.no_grad():
            own = model(**inputs).logits.float()
            ours = fast.logits(fast.hidden(inputs)).float()
    finally:
        model.train(training)
    if own.shape != ours.shape:
        return None
    return float((own - ours).abs().max() / own.abs().max().clamp_min(1e-6))
