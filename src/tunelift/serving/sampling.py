"""From logits to a token: what is likeliest, or drawn as a request wants it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from tunelift.serving.grammars import Matcher
from tunelift.serving.requests import Sampling, Token


class Sampler:
    """Chooses the tokens of one request; draws are its own, whoever else is in the batch."""

    def __init__(self, sampling: Sampling, prompt: Sequence[int], matcher: Matcher | None = None) -> None:
        self.sampling, self.matcher = sampling, matcher
        self._said = Counter[int]()
        self._known = set(prompt) if sampling.repetition != 1 else set[int]()
        self._generator = torch.Generator()
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed % 2**63)
        changes = sampling.repetition != 1 or sampling.frequency or sampling.presence or sampling.bias
        self.plain = not (changes or sampling.temperature or matcher)
        """Whether the likeliest token is taken as it is."""

    def choose(self, logits: Tensor) -> int:
        """Return the next token by its logits (V,), which are changed; raise FormError where none keeps to the form."""
        logits = self._penalised(logits.float())
        if self.matcher is not None:
            self.matcher.mask(logits)
        chosen = self._drawn(logits)
        self.take(chosen)
        return chosen

    def take(self, token: int) -> None:
        """Know that a token was chosen."""
        if not self.plain:
            self._said[token] += 1
        if self.matcher is not None:
            self.matcher.take(token)

    @property
    def ended(self) -> bool:
        """Whether the answer's form is whole, and nothing can be added to it."""
        return self.matcher is not None and self.matcher.ended

    def _penalised(self, logits: Tensor) -> Tensor:
        sampling = self.sampling
        if sampling.repetition != 1:
            seen = torch.tensor(sorted(self._known | self._said.keys()), dtype=torch.long)
            own = logits[seen]
            logits[seen] = torch.where(own > 0, own / sampling.repetition, own * sampling.repetition)
        if self._said and (sampling.frequency or sampling.presence):
            tokens = torch.tensor(list(self._said), dtype=torch.long)
            counts = torch.tensor(list(self._said.values()), dtype=logits.dtype)
            logits[tokens] -= sampling.frequency * counts + sampling.presence
        for token, bias in sampling.bias.items():
            logits[token] += bias
        return logits

    def _drawn(self, logits: Tensor) -> int:
        sampling = self.sampling
        if not sampling.temperature:
            return likeliest(logits)
        # From the likeliest down: what is left out is a tail of the order, by each of the three rules.
        scaled, order = (logits.double() / sampling.temperature).sort(descending=True, stable=True)
        scaled = scaled[: sampling.top_k or len(scaled)]
        shares = torch.softmax(scaled, dim=-1)
        before = shares.cumsum(dim=-1) - shares
        shares = torch.where(before < sampling.top_p, shares, 0.0)
        shares = torch.where(shares >= sampling.min_p * shares[0], shares, 0.0)
        # One number from 0 to 1 and the place where the sum reaches it: the same draw for the same shares.
        reached = shares.cumsum(dim=-1)
        at = torch.rand((), generator=self._generator, dtype=torch.float64) * reached[-1]
        place = int(torch.searchsorted(reached, at, right=True))
        return int(order[min(place, int((shares > 0).sum()) - 1)])


def likeliest(logits: Tensor) -> int:
    """Return the first of the largest logits (V,), on the CPU; numpy finds it in a tenth of the time."""
    return int((logits if logits.dtype == torch.float32 else logits.float()).numpy().argmax())


def told(logits: Tensor, token: int, top: int | None) -> Token:
    """Return a token with its log-probability by logits (V,), and the `top` likeliest with theirs."""
    if top is None:
        return Token(token)
    logits = logits.float()
    mass = torch.logsumexp(logits, dim=-1)
    values, ids = logits.topk(min(top, len(logits))) if top else (logits[:0], logits[:0].long())
    likely = zip(ids.tolist(), (values - mass).tolist(), strict=True)
    return Token(token, float(logits[token] - mass), tuple(likely))
