"""Loss and log-likelihood at the target tokens only: what a model offers that is seen so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

IGNORED = -100
"""Label of a position that is no target, as transformers has it."""

PATHS = ("target_only_head", "packing", "shared_prefix", "last_layer")
"""The fast paths that are tried on a causal language model."""


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

    def losses(self, inputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        """Return the differentiable negative log-likelihood of each target (targets,) in nats, row by row."""
        ...

    def log_likelihoods(self, inputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        """Return (targets,) log-likelihoods in nats, fp32, row by row in the order of the tokens."""
        ...


def targets_of(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return where (B, T-1) the next token is a target, and the targets (N,)."""
    shifted = labels[:, 1:]
    where = shifted != IGNORED
    return where, shifted[where]
