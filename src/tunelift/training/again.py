"""Layers computed again on the way back, as transformers' models know it, instead of kept since the way forward."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tunelift.core.errors import InputError
from tunelift.model_facts.anatomy import base_of


def refuse_again(model: Any, asked: bool) -> None:
    """Raise InputError where a model's layers cannot be computed again, and that is asked for."""
    if asked and not getattr(base_of(model), "supports_gradient_checkpointing", False):
        raise InputError(
            f"train.gradient_checkpointing: {type(base_of(model)).__name__} cannot compute its layers again.",
            fix="Leave it out; a lower train.micro_batch_tokens takes less memory too.",
        )


@contextmanager
def computed_again(model: Any, asked: bool) -> Iterator[None]:
    """Let a model compute its layers again for a while, if that is asked for; one that did so before goes on."""
    base = base_of(model)
    if not asked or any(getattr(module, "gradient_checkpointing", False) for module in base.modules()):
        yield
        return
    refuse_again(model, asked)
    newer = hasattr(base, "activation_checkpointing_enable")  # transformers 5.23 calls it so
    name = "activation_checkpointing" if newer else "gradient_checkpointing"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # among transformers' own functions
        getattr(base, f"{name}_enable")({"use_reentrant": False})
    try:
        yield
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            getattr(base, f"{name}_disable")()
