"""A head as an ONNX file, run by ONNX Runtime in a process of its own."""

from __future__ import annotations

import importlib.util
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from tunelift.core.errors import InputError
from tunelift.exporting import evidence, manifest, merging, onnx_model, onnx_scores
from tunelift.exporting.checking import ExportFailed, check, compared
from tunelift.exporting.equality import FACTOR, FLOOR, Scores, equal, tolerance_of
from tunelift.exporting.made import Made, Rows, values
from tunelift.exporting.manifest import SCRATCH
from tunelift.exporting.processes import answer_of
from tunelift.exporting.to_genai import check_genai, to_genai
from tunelift.exporting.to_transformers import merge
from tunelift.model_facts.anatomy import base_of, context_length, pad_id

MODEL, FILE = "model", "model.onnx"
TYPES = ("f32", "int8")
NEEDED = ("onnx", "onnxscript", "onnxruntime")
IN_A_BATCH, PADDED_BY = ", padded in a batch", 5
BASE_MAY = FACTOR * FLOOR
"""Of a head's numbers: more than the order of sums in 32 bits was seen to show (docs/exports.md)."""


def check_onnx(made: Made, kind: str) -> None:
    """Raise InputError for what is not exported, or where the packages are not there."""
    if made.task.next_token:
        check_genai(made, kind)
        return
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise InputError(
            f"An export to ONNX needs {', '.join(missing)}, which is not installed here.",
            fix="pip install 'tunelift[onnx]'",
        )
    if kind not in TYPES:
        raise InputError(f"ONNX is written in {' or '.join(TYPES)}, not in {kind}.", fix="Name one of them by --type.")
    if made.adapted:
        merging.check_merges(made.model)


def to_onnx(made: Made, rows: Rows, folder: Path, kind: str) -> None:
    """Write model/model.onnx with config and tokenizer, and the proof; raise ExportFailed where it fails.

    The graph is proved in 32 bits; where the weights are rounded, the rounded file is judged on the test items.
    """
    check_onnx(made, kind)
    if made.task.next_token:  # whose cache of keys and values a file of torch.onnx does not have
        to_genai(made, rows, folder)
        return
    scratch, place = folder / SCRATCH, folder / MODEL
    scratch.mkdir()
    place.mkdir()
    checks, allowed = _base_there(made, rows, folder, scratch)
    right = _numbers(made, rows)
    evidence.save(folder, evidence.MODEL, right, _about(rows))
    if made.adapted:
        merge(made, rows, folder, {one.name: right[one.name] for one in rows.asked.items}, checks)
        right = _numbers(made, rows)
        evidence.save(folder, evidence.MERGED, right, _about(rows))
    made.model.config.save_pretrained(place)
    made.tokenizer.save_pretrained(place)
    exact = (scratch if kind == "int8" else place) / FILE
    onnx_model.write(exact, base_of(made.model))
    answer = ask(exact, place, made, rows)
    evidence.save(folder, evidence.EXPORTED, answer["scores"], _about(rows))
    checks += compared(rows.asked, answer, right, allowed)
    if not all(one["passed"] for one in checks):
        raise ExportFailed(checks)
    verdict = None
    if kind == "int8":
        onnx_model.rounded(place / FILE, exact)
        for side, model in (
            (evidence.WHOLE, made.model),
            (evidence.ROUNDED, onnx_model.OnnxModel(place / FILE, made.model)),
        ):
            made.measured(model).save(folder / evidence.FOLDER / side)
        verdict = manifest.verdict(folder)
    shutil.rmtree(scratch)
    runtime = f"onnxruntime {version('onnxruntime')}"
    facts = {**made.facts, "to": "onnx", "type": kind, "runtime": runtime, "verdict": verdict}
    manifest.write(folder, facts, checks, manifest.too_alike(folder))


def _base_there(made: Made, rows: Rows, folder: Path, scratch: Path) -> tuple[list[dict[str, Any]], float]:
    """Let the base run there too: what it loses by that is the runtime's rounding, and no adapter's."""
    found: dict[str, Scores] = {}

    def both(base: Any) -> None:
        onnx_model.write(scratch / "base.onnx", base)
        made.tokenizer.save_pretrained(scratch)
        found["here"] = {**values(made.task, base, rows.asked.items), **_together(made, base, rows)}
        found["there"] = ask(scratch / "base.onnx", scratch, made, rows)["scores"]

    made.with_base(both)
    evidence.save(folder, evidence.BASE, found["here"], _about(rows))
    evidence.save(folder, evidence.BASE_THERE, found["there"], _about(rows))
    apart = equal(found["here"], found["there"], BASE_MAY)
    detail = f"{apart.largest:.2g} apart at most (item {apart.item}): the runtime's rounding, without what was tuned"
    return [check("the base runs there", apart.holds, detail)], tolerance_of(apart)


def _numbers(made: Made, rows: Rows) -> Scores:
    return {**made.scores(rows.asked.items), **_together(made, base_of(made.model), rows)}


def _together(made: Made, model: Any, rows: Rows) -> Scores:
    """Return the numbers of all items in one padded batch, by names of their own."""
    items = rows.asked.items
    ids, segments = [one.ids for one in items], [one.segments for one in items]
    pad = pad_id(model, made.tokenizer)
    found = onnx_model.in_a_batch(model, ids, segments, pad, _beyond(made, rows))
    return {f"{one.name}{IN_A_BATCH}": values for one, values in zip(items, found, strict=True)}


def _beyond(made: Made, rows: Rows) -> int:
    """Return how many tokens wider than its longest row a batch is: rows of one length would show nothing else."""
    longest = max(len(one.ids) for one in rows.asked.items)
    return max(0, min(PADDED_BY, context_length(base_of(made.model), made.tokenizer) - longest))


def _about(rows: Rows) -> dict[str, tuple[str, str]]:
    return {**rows.about, **{f"{name}{IN_A_BATCH}": said for name, said in rows.about.items()}}


def ask(file: Path, folder: Path, made: Made, rows: Rows) -> dict[str, Any]:
    """Let ONNX Runtime score the items, alone and in one padded batch, in a process of its own."""
    items = rows.asked.items
    request = {
        "model": str(file.resolve()),
        "folder": str(folder.resolve()),
        "threads": torch.get_num_threads(),
        "pad": pad_id(base_of(made.model), made.tokenizer),
        "beyond": _beyond(made, rows),
        "items": [[one.name, list(one.ids), None if one.segments is None else list(one.segments)] for one in items],
        "together": {one.name: f"{one.name}{IN_A_BATCH}" for one in items},
        "texts": [text for text, _ in rows.asked.texts],
    }
    return answer_of([str(Path(onnx_scores.__file__))], request, f"ONNX Runtime does not run {file.name}")
