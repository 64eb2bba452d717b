"""What makes training and scoring fast on a stock transformers or peft model, usable without the rest of tunelift."""

from typing import Any

__all__ = ["apply", "restore"]


def __getattr__(name: str) -> Any:
    """Import on first use: rooms that need a part of this one must not load transformers."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tunelift.fast import applying

    return getattr(applying, name)
