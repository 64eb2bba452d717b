"""One file per kind of work, found by being here: what its rows mean, how they become tensors, what its loss is."""

from tunelift.core.registry import import_all
from tunelift.tasks.base import TASKS, Task

__all__ = ["DEFAULT", "TASKS", "Task"]

import_all(__name__, __path__)

DEFAULT = TASKS.get("causal-lm")
"""That of a model in memory whose class no task knows."""
