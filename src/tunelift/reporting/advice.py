"""What the manifest says of the advice before the tuning, and what a judge said afterwards, for page and Markdown."""

from __future__ import annotations

from typing import Any

from tunelift.comparison.judged import lines
from tunelift.core.errors import InputError
from tunelift.reporting.run_contents import RunContents
from tunelift.run_files.layout import RunPaths


def advice_of(run: RunContents) -> dict[str, Any]:
    """Return the advice as {"text", "findings": [{"question", "text", "shown"}]}; empty where none was given.

    Questions of which nothing was known are left out.
    """
    noted = run.noted("advice")
    findings = noted.get("findings")
    if not isinstance(findings, dict) or not noted.get("text"):
        return {}
    known = [(name, found) for name, found in findings.items() if isinstance(found, dict)]
    shown = [
        {
            "question": name,
            "text": str(found.get("text") or ""),
            "shown": [str(line) for line in found.get("shown") or []],
        }
        for name, found in known
        if found.get("word") not in ("unknown", "nothing")
    ]
    return {"text": str(noted["text"]), "findings": shown}


def judged_lines(run: RunContents) -> list[str]:
    """Return what the judged answers showed; raise InputError for a file that is not as it was written."""
    try:
        return lines(run.judged) if run.judged else []
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise InputError(
            f"{RunPaths(run.folder).judged} is not what tunelift judge writes.", fix="Judge again, or remove it."
        ) from error
