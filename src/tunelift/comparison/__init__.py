"""Is the tuned model better? Two files of rows become a verdict, with what it rests on."""

from tunelift.comparison.comparing import compare
from tunelift.comparison.results import Comparison

__all__ = ["Comparison", "compare"]
