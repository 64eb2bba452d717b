"""One file per kind of work: how its rows become tensors, and what its loss is."""

from tunelift.tasks import causal_lm, sequence_classification

__all__ = ["causal_lm", "sequence_classification"]
