"""Executes the notebooks of examples/ and keeps their output in them: make notebooks, or with names of some of them."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[1] / "examples"
MOST_SECONDS = 300
"""Of one notebook, on two cores that do nothing else."""


def main(names: list[str]) -> None:
    """Execute the notebooks in a folder of their own, with no scores and no looks at test sets of before."""
    for path in sorted(EXAMPLES.glob("*.ipynb")):
        if names and path.stem not in names:
            continue
        with tempfile.TemporaryDirectory() as place:
            for name in ("CACHE", "STATE"):
                os.environ[f"TUNELIFT_{name}"] = str(Path(place, name.lower()))
            os.environ["HF_HUB_OFFLINE"] = "1"
            Path(place, "news.py").write_bytes((EXAMPLES / "news.py").read_bytes())
            notebook, begun = nbformat.read(path, as_version=4), time.perf_counter()
            where = {"metadata": {"path": place}}
            NotebookClient(
                notebook, timeout=3600, kernel_name="python3", resources=where, record_timing=False
            ).execute()
        nbformat.write(notebook, path)
        took = time.perf_counter() - begun
        print(f"{path.name}: {took:.0f} s (aim: {MOST_SECONDS} on two cores)", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
