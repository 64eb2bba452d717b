"""Executes the notebooks of examples/ and keeps their output in them: make notebooks, or with names of some of them."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

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
        begun = time.perf_counter()
        with tempfile.TemporaryDirectory() as place:
            for name in ("CACHE", "STATE"):
                os.environ[f"TUNELIFT_{name}"] = str(Path(place, name.lower()))
            os.environ["HF_HUB_OFFLINE"] = "1"
            Path(place, "news.py").write_bytes((EXAMPLES / "news.py").read_bytes())
            notebook = nbformat.read(path, as_version=4)
            how: dict[str, Any] = {"kernel_name": "python3", "resources": {"metadata": {"path": place}}}
            NotebookClient(notebook, timeout=3600, record_timing=False, **how).execute()
        nbformat.write(without_progress(notebook), path)
        took = time.perf_counter() - begun
        print(f"{path.name}: {took:.0f} s (aim: {MOST_SECONDS} on two cores)", flush=True)


def without_progress(notebook: Any) -> Any:
    """Leave out what was written to stderr: progress and notes, which are of this machine and this hour."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return notebook


if __name__ == "__main__":
    main(sys.argv[1:])
