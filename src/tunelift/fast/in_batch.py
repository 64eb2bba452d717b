"""Losses in which the rows of a step are told apart from each other, exact however the step is split.

A micro-batch alone would know its own rows only. So all rows of a step are embedded once without gradients, the loss of
all of them gives the gradient at each vector, and each micro-batch is embedded again and takes its part of that back
(GradCache: Gao et al. 2021, arXiv 2101.06983). What is drawn, such as dropout, is drawn alike both times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

ANCHOR, POSITIVE, NEGATIVE = 0, 1, 2
"""What a text is to its row."""

SCALE = 20.0
"""What cosines are multiplied by, as sentence-transformers has it by default."""

OfRows = Callable[[Tensor, Tensor], Tensor]
"""From vectors (texts, D) and labels (texts, ...) to losses (rows,) in nats."""


class InBatchLoss:
    """The summed loss of a batch by itself; `over` gives that of batches that are one step together.

    `embed` makes vectors (texts, D) of a batch, of which `labels` (texts, ...) say what they are: a text that is an
    ANCHOR, in their first column, begins a row.
    """

    def __init__(self, embed: Callable[[Any], Tensor], of_rows: OfRows) -> None:
        self.embed, self.of_rows = embed, of_rows

    def __call__(self, batch: Any) -> Tensor:
        return self.of_rows(self.embed(batch), batch.labels).sum()

    def over(self, batches: Sequence[Any]) -> Callable[[Any], Tensor]:
        """Return the loss of each of these batches, whose values and gradients add up to those of all rows at once."""
        if len(batches) < 2:
            return self
        states, vectors = list[list[Tensor]](), list[Tensor]()
        for batch in batches:
            states.append(_random_states(batch.labels.device))
            with torch.no_grad():
                vectors.append(self.embed(batch))
        sizes, labels = [len(some) for some in vectors], torch.cat([batch.labels for batch in batches])
        every = torch.cat(vectors).requires_grad_()
        with torch.enable_grad():
            losses = self.of_rows(every, labels)
            (gradient,) = torch.autograd.grad(losses.sum(), every)
        values = torch.split(losses.detach(), [int((batch.labels[:, 0] == ANCHOR).sum()) for batch in batches])
        parts = list(zip(batches, states, torch.split(gradient, sizes), values, strict=True))

        def loss(batch: Any) -> Tensor:
            own, drawn, wanted, value = next(part for part in parts if part[0] is batch)
            if not torch.is_grad_enabled():
                return value.sum()
            with _drawn_again(drawn, batch.labels.device):
                toward = (self.embed(own) * wanted).sum()
            return toward + (value.sum() - toward).detach()

        return loss


class With:
    """A loss of batches to which another of each batch by itself is added."""

    def __init__(self, loss: Callable[[Any], Tensor], further: Callable[[Any], Tensor]) -> None:
        self.loss, self.further = loss, further

    def __call__(self, batch: Any) -> Tensor:
        return self.loss(batch) + self.further(batch)

    def over(self, batches: Sequence[Any]) -> Callable[[Any], Tensor]:
        """Return the loss of each of batches that are one step together."""
        return With(over_rows(self.loss, batches), self.further)


def over_rows(loss: Callable[[Any], Tensor], batches: Sequence[Any]) -> Callable[[Any], Tensor]:
    """Return the loss of each of some batches as a part of that of all of them, where it depends on the others."""
    over = getattr(loss, "over", None)
    return loss if over is None else over(batches)


def in_turn(loss: Callable[[Any], Tensor], batches: Iterable[Any]) -> Iterator[tuple[Any, Tensor]]:
    """Yield batches with their part of the loss of all; held together only where it depends on the others."""
    if not hasattr(loss, "over"):
        yield from ((batch, loss(batch)) for batch in batches)
        return
    together = list(batches)
    own = over_rows(loss, together)
    yield from ((batch, own(batch)) for batch in together)


def ranked(vectors: Tensor, labels: Tensor) -> Tensor:
    """Return for each row how unlikely its positive is among the texts that are no anchors: (rows,), in nats.

    `labels` (texts, 3) are what each text is, a number for what it says, and one for what its row is of. Texts that say
    what a row's positive or anchor says, and positives of rows that are of the same, count in neither way: they are no
    wrong answers. The likelihood is a softmax of cosines times SCALE (Henderson et al. 2017, arXiv 1705.00652).
    """
    role, key, group = labels.unbind(dim=1)
    unit = F.normalize(vectors, dim=1)
    anchors, others = (role == ANCHOR).nonzero()[:, 0], (role != ANCHOR).nonzero()[:, 0]
    own = anchors + 1  # a row is its anchor, its positive, and its negatives
    scores = SCALE * unit[anchors] @ unit[others].T
    same = (key[others] == key[own][:, None]) | (key[others] == key[anchors][:, None])
    same |= (role[others] == POSITIVE) & (group[others] == group[anchors][:, None])
    right = others == own[:, None]
    scores = scores.masked_fill(same & ~right, float("-inf"))
    return F.cross_entropy(scores, right.long().argmax(dim=1), reduction="none")


def ordered(vectors: Tensor, labels: Tensor) -> Tensor:
    """Return CoSENT's loss of pairs (Su 2022), the same for each row: (rows,), in nats.

    `labels` (texts, 2) are what each text is and the score of its pair. The loss is log(1 + sum exp(SCALE (c_i - c_j)))
    over all pairs i, j of rows of which j has the higher score, c being their cosines.
    """
    anchors = (labels[:, 0] == ANCHOR).nonzero()[:, 0]
    unit, scores = F.normalize(vectors, dim=1), labels[anchors, 1]
    cosines = SCALE * (unit[anchors] * unit[anchors + 1]).sum(dim=1)
    wrong = (cosines[:, None] - cosines[None])[scores[:, None] < scores[None]]
    loss = torch.cat([cosines.new_zeros(1), wrong]).logsumexp(dim=0) + 0 * cosines.sum()  # of one row too
    return loss.expand(len(anchors))


def _random_states(device: torch.device) -> list[Tensor]:
    more = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return [torch.get_rng_state(), *more]


@contextmanager
def _drawn_again(states: Sequence[Tensor], device: torch.device) -> Iterator[None]:
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.set_rng_state(states[0])
        if cuda:
            torch.cuda.set_rng_state(states[1], device)
        yield
