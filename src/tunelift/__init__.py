"""Measure a pre-trained model, fine-tune it with PEFT, measure it again, and know whether it got better."""

import importlib
from typing import TYPE_CHECKING, Any

from tunelift.core.version import __version__

# Imported when first asked for: `import tunelift` must not cost the seconds that torch takes.
_HOMES = {
    "load": "tunelift.pipeline.api",
    "evaluate": "tunelift.pipeline.api",
    "tune": "tunelift.pipeline.api",
    "generate": "tunelift.pipeline.api",
    "run": "tunelift.pipeline.api",
    "plan": "tunelift.pipeline.api",
    "compare": "tunelift.comparison",
    "leaderboard": "tunelift.comparison.leaderboard",
    "Comparison": "tunelift.comparison",
    "Scores": "tunelift.core.records",
    "Example": "tunelift.core.records",
    "TuneliftError": "tunelift.core.errors",
    "InputError": "tunelift.core.errors",
}

if TYPE_CHECKING:
    from tunelift.comparison import Comparison, compare
    from tunelift.comparison.leaderboard import leaderboard
    from tunelift.core.errors import InputError, TuneliftError
    from tunelift.core.records import Example, Scores
    from tunelift.pipeline.api import evaluate, generate, load, plan, run, tune

__all__ = [
    "Comparison",
    "Example",
    "InputError",
    "Scores",
    "TuneliftError",
    "__version__",
    "compare",
    "evaluate",
    "generate",
    "leaderboard",
    "load",
    "plan",
    "run",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name == "fast":  # the one room that is for others' loops: tunelift.fast.apply(model)
        return importlib.import_module("tunelift.fast")
    if name not in _HOMES:
        raise AttributeError(f"module 'tunelift' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
