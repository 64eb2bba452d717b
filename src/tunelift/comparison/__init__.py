"""Is the tuned model better? Two files of rows become a verdict, with what it rests on."""

from tunelift.comparison.comparing import Comparison, compare

__all__ = ["Comparison", "compare"]
