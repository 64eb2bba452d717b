"""What a person reads after a run: one self-contained HTML page, and the model card."""

from __future__ import annotations

from tunelift.reporting.card import write_card
from tunelift.reporting.page import write_report

__all__ = ["write_card", "write_report"]
