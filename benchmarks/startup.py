"""Seconds until a command answers: ours, and what importing or asking the peers for help takes.

    python benchmarks/startup.py [--quick] [--out FILE.json]

Wall-clock of whole processes, in turns, after one run of each that fills the caches.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import side_by_side
from side_by_side import Result

ROWS = 1000


def main() -> None:
    options = side_by_side.arguments(__doc__)
    peers = Path(side_by_side.peers_python(options.peers_env))
    figures: Result = side_by_side.facts(str(peers))
    side_by_side.print_facts(figures)
    with tempfile.TemporaryDirectory() as scratch:
        files = [str(write_scores(Path(scratch) / f"{name}.jsonl", right)) for name, right in (("a", 0.5), ("b", 0.6))]
        ours = [sys.executable, "-m", "tunelift"]
        commands = {
            "tunelift --help": [*ours, "--help"],
            f"tunelift compare, {ROWS} rows": [*ours, "compare", *files],
            "import transformers": [str(peers), "-c", "import transformers"],
            "trl --help": [str(peers.parent / "trl"), "--help"],
            "lm_eval --help": [str(peers.parent / "lm_eval"), "--help"],
        }
        figures["seconds"] = in_turns(commands, options.rounds or (2 if options.quick else 10))
    table = [
        {
            "command": name,
            "median": f"{statistics.median(found):.2f} s",
            "from .. to": f"{min(found):.2f} .. {max(found):.2f}",
        }
        for name, found in figures["seconds"].items()
    ]
    side_by_side.print_table("Start-up", table)
    side_by_side.finish(options.out, figures)


def in_turns(commands: dict[str, list[str]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of every run but the first of each command."""
    found: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(rounds + 1):
        for name, command in commands.items():
            taken = seconds(command)
            found[name] += [taken] if number else []
    return found


def seconds(command: Sequence[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, env=os.environ | side_by_side.OFFLINE, capture_output=True, check=True)
    return time.perf_counter() - began


def write_scores(file: Path, right: float) -> Path:
    """Write a scores file of ROWS answers, so many of them right."""
    own = random.Random(right)
    rows = [
        {"id": str(i), "input": f"question {i}", "metrics": {"accuracy": int(own.random() < right)}}
        for i in range(ROWS)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


if __name__ == "__main__":
    main()
