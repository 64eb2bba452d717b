"""Writes tests/formats/N, a small run as this version writes it, but for weights and pages: python tests/make_format.py

Once a version with format N is released its folder stays as it is. Until then it is made anew when comparison.json
changes, and `test_formats.py` says when that is.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

import tiny_models
import tunelift
from small_rows import write_rows
from tunelift.core import files
from tunelift.run_files.layout import FORMAT, RunPaths

FORMATS = Path(__file__).parent / "formats"


def main() -> None:
    """Run, and keep the small text files."""
    kept = FORMATS / str(FORMAT)
    shutil.rmtree(kept, ignore_errors=True)
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        made = made_run()
        for file in sorted(made.rglob("*")):
            name = file.relative_to(made)
            if file.suffix in (".json", ".jsonl", ".yaml") and "adapter" not in name.parts:
                (kept / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, kept / name)
    for folder in (kept, *(paths.folder for paths in RunPaths(kept).seeds())):
        manifest = files.read_manifest(RunPaths(folder).manifest)
        manifest["command"], manifest["machine"]["platform"] = "tunelift run config.yaml", "Linux"
        files.write_json(RunPaths(folder).manifest, manifest)


def made_run() -> Path:
    """Return a run's folder with two baselines, a set for forgetting, slices and two seeds."""
    tiny_models.causal("llama").save_pretrained("model")
    tiny_models.tokenizer().save_pretrained("model")
    write_rows(Path("train.csv"), 40)
    write_rows(Path("test.csv"), 12, 100)
    other = [{"text": f"row {i} of other text"} for i in range(6)]
    Path("other.jsonl").write_text("".join(json.dumps(row) + "\n" for row in other), encoding="utf-8")
    tunelift.run(
        model="model",
        data={"train": "train.csv", "test": "test.csv"},
        train={"steps": 3, "learning_rate": 0.01, "seeds": [0, 1]},
        evaluate={"baselines": ["majority", "tf-idf"], "forgetting": ["other.jsonl"], "slices": ["label"]},
        dtype="float32",
        output="run",
    )
    return Path("run")


if __name__ == "__main__":
    main()
