"""Small files of rows."""

from __future__ import annotations

import csv
from pathlib import Path

WORDS = {"sports": ["ball", "match", "goal"], "tech": ["code", "chip", "data"]}


def write_rows(path: Path, count: int, start: int = 0) -> Path:
    """Write a csv of `count` different rows: text, label."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for i in range(start, start + count):
            label = ["sports", "tech"][i % 2]
            writer.writerow([f"{WORDS[label][i % 3]} {i} {WORDS[label][i % 2]}", label])
    return path
