"""Another program in a process of its own: what it crashes of is told, and nothing of this one is in it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunelift.core.errors import TuneliftError

LONGEST = 6 * 3600
"""Seconds that a program may take."""

TELLING = re.compile(r"\bE \w|[Ee]rror")
"""What lines have that say why a program ended, out of hundreds: llama.cpp marks them with E."""


def answer_of(program: Sequence[str], request: Mapping[str, Any], lost: str) -> dict[str, Any]:
    """Run Python with these arguments and the names of two JSON files, the request and the answer; return the answer.

    Raises TuneliftError, which begins with `lost`, where there is none.
    """
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder) / "request.json", Path(folder) / "answer.json"
        asked.write_text(json.dumps(request), encoding="utf-8")
        found = os.pathsep.join(str(Path(part).resolve()) for part in sys.path if part)
        done = subprocess.run(
            [sys.executable, *program, str(asked), str(answered)],
            capture_output=True,
            env={**os.environ, "PYTHONPATH": found},
            timeout=LONGEST,
            check=False,
            cwd=folder,
        )
        if done.returncode or not answered.exists():
            raise TuneliftError(f"{lost}: {_why(done.stderr, done.returncode)}")
        answer: dict[str, Any] = json.loads(answered.read_text(encoding="utf-8"))
    return answer


def _why(stderr: bytes, code: int) -> str:
    lines = [line.strip() for line in stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    telling = [line for line in lines if TELLING.search(line)]
    told = telling or lines  # the first says what was wrong, the last what came of it
    return " ... ".join(dict.fromkeys([*told[:1], *told[-1:]]))[:600] or f"it ended with code {code} and says nothing"
