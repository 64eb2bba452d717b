"""What a person reads after a run: one self-contained HTML page, the same as Markdown, and the model card."""

from __future__ import annotations

from tunelift.reporting.card import write_card
from tunelift.reporting.markdown import write_markdown
from tunelift.reporting.page import write_report

__all__ = ["write_card", "write_markdown", "write_report"]
