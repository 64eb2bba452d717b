"""A model that continues text as ONNX with a cache, written by the builder of ONNX Runtime GenAI and run by it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tunelift.core import progress
from tunelift.core.errors import InputError
from tunelift.exporting import evidence, genai_scores, manifest, merging, onnx_model
from tunelift.exporting.checking import base_runs, check, compared
from tunelift.exporting.equality import FACTOR, FLOOR, Item, Scores, equal, tolerance_of
from tunelift.exporting.made import Made, Rows
from tunelift.exporting.manifest import SCRATCH
from tunelift.exporting.processes import answer_of
from tunelift.exporting.rounding import looked_at
from tunelift.exporting.to_transformers import merge
from tunelift.model_facts.anatomy import base_of
from tunelift.models.saving import check_saves

MODEL, PACKAGE = "model", "onnxruntime_genai"
NEEDED = (PACKAGE, "onnx", "onnx_ir")
TYPES = {"f32": "fp32", "int8": "int8", "int4": "int4"}
"""What the builder writes for a CPU, with its own names; 16 bits it writes for GPUs alone."""

KEEPS = "a wider type"
BASE_MAY = 10 * FACTOR * FLOOR
"""Nats: more than fused attention and norms in 32 bits were seen to be apart (docs/exports.md)."""


def check_genai(made: Made) -> None:
    """Raise InputError for what is not exported, or where the packages are not there."""
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise InputError(
            f"An export of what continues text to ONNX needs {', '.join(missing)}, which is not installed here.",
            fix="pip install 'tunelift[onnx]'",
        )
    if made.adapted:
        merging.check_merges(made.model)
    check_saves(base_of(made.model))


def to_genai(made: Made, rows: Rows, folder: Path, kind: str) -> None:
    """Write model/ with model.onnx, genai_config.json and the tokenizer, and the proof.

    Names and tokens are proved in 32 bits; where the weights are rounded, the rounded model is judged on the test
    items. Raises ExportFailed where the proof fails.
    """
    scratch = folder / SCRATCH
    scratch.mkdir()
    checks, allowed = _base_there(made, rows, folder, scratch, kind)
    right = made.scores(rows.asked.items)
    evidence.save(folder, evidence.MODEL, right, rows.about)
    if made.adapted:
        right = merge(made, rows, folder, right, checks)
    if made.ends:
        made.model.generation_config.eos_token_id = made.ends
    exact = (folder if kind == "f32" else scratch) / MODEL
    build(made, scratch, exact)
    answer = ask(exact, rows.asked.items, **rows.asked.request)
    evidence.save(folder, evidence.EXPORTED, answer["scores"], rows.about)
    checks += compared(rows.asked, answer, right, allowed)
    verdict = None
    if kind != "f32":
        build(made, scratch, folder / MODEL, kind)
        checks.append(_alike(exact, folder / MODEL))
        found, verdict = looked_at(made, rows, folder, lambda some: _scores(folder / MODEL, some), KEEPS)
        checks += found
    facts = {**made.facts, "to": "onnx", "type": kind, **onnx_model.held(folder / MODEL), "verdict": verdict}
    manifest.close(folder, facts, checks, f"onnxruntime-genai {version('onnxruntime-genai')}", "")


def _base_there(made: Made, rows: Rows, folder: Path, scratch: Path, kind: str) -> tuple[list[dict[str, Any]], float]:
    """Let the base run there too: what it loses by that is the runtime's rounding, and no adapter's.

    Where weights are to be rounded the base's are too, so that it can be seen what rounding leaves of what was tuned.
    """
    items, asked = rows.asked.items, {evidence.BASE_THERE: "f32"}
    sides = {evidence.BASE: made.base_scores(items)}
    if kind != "f32":
        asked[evidence.BASE_ROUNDED] = kind
    for side, type_ in asked.items():
        build(made, scratch, scratch / "untuned", type_)
        sides[side] = _scores(scratch / "untuned", items)
        shutil.rmtree(scratch / "untuned")
    for side, scores in sides.items():
        evidence.save(folder, side, scores, rows.about)
    found = equal(sides[evidence.BASE], sides[evidence.BASE_THERE], BASE_MAY)
    return [base_runs(found)], tolerance_of(found)


def _alike(exact: Path, rounded: Path) -> dict[str, Any]:
    """Return the check that a rounded folder differs from the one that was proved by its model's file alone."""
    one, other = ({name: sha for name, sha in manifest.hashes(folder).items() if not name.startswith(WEIGHTS)}
                  for folder in (exact, rounded))  # fmt: skip
    apart = sorted(name for name in {*one, *other} if one.get(name) != other.get(name))
    return check("rounded, it is told the same", not apart, ", ".join(apart) or f"{len(one)} files beside the weights")


WEIGHTS = "model.onnx"


def build(made: Made, scratch: Path, folder: Path, kind: str = "f32") -> None:
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
        [sys.executable, str(script), *places, "-p", TYPES[kind], "-e", "cpu"],
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


def ask(folder: Path, items: Sequence[Item], texts: Sequence[str] = (), messages: Sequence[Any] = ()) -> dict[str, Any]:
    """Let ONNX Runtime GenAI score items, cut texts and write conversations, in a process of its own."""
    request = {
        "model": str(folder.resolve()),
        "items": [[one.name, list(one.ids), list(one.targets)] for one in items],
        "texts": list(texts),
        "messages": list(messages),
    }
    return answer_of([str(Path(genai_scores.__file__))], request, "ONNX Runtime GenAI does not run the model")


def _scores(folder: Path, items: Sequence[Item]) -> Scores:
    found: Scores = ask(folder, items)["scores"]
    return found
