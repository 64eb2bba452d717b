"""A model that continues text as ONNX with a cache, written by the builder of ONNX Runtime GenAI and run by it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tunelift.core import progress
from tunelift.core.errors import InputError
from tunelift.exporting import evidence, genai_scores, manifest, merging
from tunelift.exporting.checking import base_runs, compared
from tunelift.exporting.equality import FACTOR, FLOOR, equal, tolerance_of
from tunelift.exporting.made import Made, Rows
from tunelift.exporting.manifest import SCRATCH
from tunelift.exporting.processes import answer_of
from tunelift.exporting.to_transformers import merge
from tunelift.model_facts.anatomy import base_of
from tunelift.models.saving import check_saves

MODEL, PACKAGE = "model", "onnxruntime_genai"
NEEDED = (PACKAGE, "onnx", "onnx_ir")
BASE_MAY = 10 * FACTOR * FLOOR
"""Nats: more than fused attention and norms in 32 bits were seen to be apart (docs/exports.md)."""


def check_genai(made: Made, kind: str) -> None:
    """Raise InputError for what is not exported, or where the packages are not there."""
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise InputError(
            f"An export of what continues text to ONNX needs {', '.join(missing)}, which is not installed here.",
            fix="pip install 'tunelift[onnx]'",
        )
    if kind != "f32":
        raise InputError(f"What continues text is written in f32, not in {kind}.", fix="Leave --type out.")
    if made.adapted:
        merging.check_merges(made.model)
    check_saves(base_of(made.model))


def to_genai(made: Made, rows: Rows, folder: Path) -> None:
    """Write model/ with model.onnx, genai_config.json and the tokenizer, and the proof.

    Raises ExportFailed where the proof fails.
    """
    scratch = folder / SCRATCH
    scratch.mkdir()
    checks, allowed = _base_there(made, rows, folder, scratch)
    right = made.scores(rows.asked.items)
    evidence.save(folder, evidence.MODEL, right, rows.about)
    if made.adapted:
        right = merge(made, rows, folder, right, checks)
    if made.ends:
        made.model.generation_config.eos_token_id = made.ends
    build(made, scratch, folder / MODEL)
    answer = ask(folder / MODEL, rows)
    evidence.save(folder, evidence.EXPORTED, answer["scores"], rows.about)
    checks += compared(rows.asked, answer, right, allowed)
    facts = {**made.facts, "to": "onnx", "type": "f32", "verdict": None}
    manifest.close(folder, facts, checks, f"onnxruntime-genai {version('onnxruntime-genai')}", "")


def _base_there(made: Made, rows: Rows, folder: Path, scratch: Path) -> tuple[list[dict[str, Any]], float]:
    """Let the base run there too: what it loses by that is the runtime's rounding, and no adapter's."""
    here = made.base_scores(rows.asked.items)
    build(made, scratch, scratch / "untuned")
    there = ask(scratch / "untuned", rows)["scores"]
    shutil.rmtree(scratch / "untuned")
    evidence.save(folder, evidence.BASE, here, rows.about)
    evidence.save(folder, evidence.BASE_THERE, there, rows.about)
    found = equal(here, there, BASE_MAY)
    return [base_runs(found)], tolerance_of(found)


def build(made: Made, scratch: Path, folder: Path) -> None:
    """Write the model as ONNX, without an adapter that is on, by way of transformers' layout.

    Raises InputError for one that the builder does not know. It is a script that imports from its own folder first, and
    it asks the Hub nothing.
    """
    whole, model = scratch / "whole", base_of(made.model)
    with progress.silenced():
        parameters = merging.base_parameters(made.model)
        model.save_pretrained(whole, state_dict=parameters, max_shard_size="1000GB")
    made.tokenizer.save_pretrained(whole)
    found = importlib.util.find_spec(PACKAGE)
    assert found is not None and found.origin is not None
    script = Path(found.origin).parent / "models" / "builder.py"
    places = ["-i", str(whole), "-o", str(folder), "-c", str(scratch / "cache")]
    done = subprocess.run(
        [sys.executable, str(script), *places, "-p", "fp32", "-e", "cpu"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    shutil.rmtree(whole)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["it says nothing"])[-1].replace(
            str(whole), model.config.model_type
        )
        raise InputError(
            f"The model builder of {PACKAGE} does not write this {type(model).__name__}: {said}",
            fix="Take it to llama.cpp by --to gguf, or to transformers by --to merged.",
        )


def ask(folder: Path, rows: Rows) -> dict[str, Any]:
    """Let ONNX Runtime GenAI score the items, cut texts and write conversations, in a process of its own."""
    request = {
        "model": str(folder.resolve()),
        "items": [[one.name, list(one.ids), list(one.targets)] for one in rows.asked.items],
        **rows.asked.request,
    }
    return answer_of([str(Path(genai_scores.__file__))], request, "ONNX Runtime GenAI does not run the model")
