"""What a metric sees of one item."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Answer:
    """One item answered: the model's text or label, the reference, and the reference's log-likelihood.

    `log_likelihood` is the sum over the reference's `tokens` target tokens, in nats, and None where it was not
    computed; `row` holds the columns the item came from.
    """

    prediction: str
    reference: str
    log_likelihood: float | None = None
    tokens: int = 0
    row: Mapping[str, Any] = field(default_factory=dict)
