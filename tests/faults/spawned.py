"""Work handed to processes that begin anew, as on Windows and macOS: python spawned.py FOLDER"""

from __future__ import annotations

import multiprocessing
import sys
from pathlib import Path

import tunelift

ROWS = [{"text": f"row {i}", "label": "ab"[i % 2]} for i in range(8)]


def measured(folder: str) -> tunelift.Scores:
    """Measure a model in whatever process this is."""
    model, tokenizer = tunelift.load(folder, dtype="float32")
    return tunelift.evaluate(model, tokenizer, data=ROWS, metrics=["accuracy", "loss"], cache=False)


def main(folder: str) -> None:
    """Measure here and there; what comes back through the pipe must be the same, and be compared here."""
    multiprocessing.set_start_method("spawn")
    with multiprocessing.Pool(1) as pool:
        there = pool.apply(measured, (folder,))
        compared = pool.apply(tunelift.compare, (there, there))
    here = measured(folder)
    assert [row["metrics"] for row in here.rows] == [row["metrics"] for row in there.rows]
    assert isinstance(compared, tunelift.Comparison)
    assert compared.to_dict() == {**tunelift.compare(here, there).to_dict(), "looks": compared.to_dict()["looks"]}
    print(compared.verdict)


if __name__ == "__main__":
    main(str(Path(sys.argv[1])))
