"""Listeners of the loop: the events file, and the progress a person sees."""

from __future__ import annotations

import json
from os import SEEK_END
from pathlib import Path
from typing import Any

from tunelift.core.progress import Advance, note
from tunelift.run_files.layout import FORMAT


class EventLog:
    """Writes each event as a line of events.jsonl as it happens; the first line names the format.

    A file that is there is gone on with: no event is ever taken out, but a line that was cut off is.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        begun = path.read_bytes() if path.is_file() else b""
        self.file = path.open("r+" if begun else "w", encoding="utf-8", buffering=1)
        self.file.truncate(begun.rfind(b"\n") + 1)
        self.file.seek(0, SEEK_END)
        if self.file.tell() == 0:
            self("start", format=FORMAT)

    def __call__(self, event: str, **figures: Any) -> None:
        self.file.write(json.dumps({"event": event, **figures}) + "\n")

    def close(self) -> None:
        self.file.close()


def show(advance: Advance, event: str, **figures: Any) -> None:
    """Move a bar one step at a time, with loss and tokens per second beside it."""
    if event == "train":
        advance(1, note=f"loss {figures['loss']:.3f}, {figures['tokens_per_second']:.0f} tokens/s")
    elif event == "validation":
        best = ", best so far" if figures["best"] else ""
        note(f"validation after step {figures['step']}: loss {figures['loss']:.4f}{best}")
    elif event == "resumed":
        advance(figures["step"])
        note(f"going on after step {figures['step']}")
    elif event == "fault":
        note(f"step {figures['step']}: {figures['what']}: {figures['done']}")
