"""A prediction and its reference become numbers, one per item; each metric says which direction is better."""

from tunelift.metrics.registry import Answer, Metric, aggregate, direction, resolve

__all__ = ["Answer", "Metric", "aggregate", "direction", "resolve"]
