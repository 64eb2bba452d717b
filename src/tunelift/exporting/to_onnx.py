"""A head as an ONNX file, run by ONNX Runtime in a process of its own."""

from __future__ import annotations

import importlib.util
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from tunelift.core.errors import InputError
from tunelift.exporting import evidence, manifest, merging, onnx_model, onnx_scores
from tunelift.exporting.checking import check, compared
from tunelift.exporting.equality import FACTOR, FLOOR, Scores, equal, tolerance_of
from tunelift.exporting.made import Made, Rows, values
from tunelift.exporting.manifest import SCRATCH
from tunelift.exporting.processes import answer_of
from tunelift.exporting.to_genai import TYPES as TEXT_TYPES
from tunelift.exporting.to_genai import check_genai, to_genai
from tunelift.exporting.to_transformers import merge
from tunelift.model_facts.anatomy import base_of, context_length, pad_id

MODEL, FILE = "model", "model.onnx"
HEAD_TYPES = ("f32", "int8")
TYPES = tuple(TEXT_TYPES)
KEEPS = "f32 (leave --type out)"
NEEDED = ("onnx", "onnxscript", "onnxruntime")
IN_A_BATCH, PADDED_BY = ", padded in a batch", 5
BASE_MAY = FACTOR * FLOOR
"""Of a head's numbers: more than the order of sums in 32 bits was seen to show (docs/exports.md)."""


def check_onnx(made: Made, kind: str) -> None:
    """Raise InputError for what is not exported, or where the packages are not there."""
    if made.task.next_token:
        check_genai(made)
        return
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise InputError(
            f"An export to ONNX needs {', '.join(missing)}, which is not installed here.",
            fix="pip install 'tunelift[onnx]'",
        )
    if kind not in HEAD_TYPES:
        raise InputError(
            f"A head is written in {' or '.join(HEAD_TYPES)}, not in {kind}.", fix="Name one of them by --type."
        )
    if made.adapted:
        merging.check_merges(made.model)


def to_onnx(made: Made, rows: Rows, folder: Path, kind: str) -> None:
    """Write model/model.onnx with config and tokenizer, and the proof; raise ExportFailed where it fails.

    The graph is proved in 32 bits; where the weights are rounded, the rounded file is judged on the test items.
    """
    check_onnx(made, kind)
    if made.task.next_token:  # whose cache of keys and values a file of torch.onnx does not have
        to_genai(made, rows, folder, kind)
        return
    scratch, place = folder / SCRATCH, folder / MODEL
    scratch.mkdir()
    place.mkdir()
    checks, allowed = _base_there(made, rows, folder, scratch, kind)
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
    verdict = None
    if kind == "int8":
        onnx_model.rounded(place / FILE, exact)
        evidence.save(folder, evidence.TUNED_ROUNDED, ask(place / FILE, place, made, rows)["scores"], _about(rows))
        checks += manifest.left(folder, KEEPS)
        verdict = _judged(made, folder) if all(one["passed"] for one in checks) else None
    facts = {**made.facts, "to": "onnx", "type": kind, **onnx_model.held(place), "verdict": verdict}
    manifest.close(folder, facts, checks, f"onnxruntime {version('onnxruntime')}", "")


def _judged(made: Made, folder: Path) -> dict[str, Any] | None:
    """Measure the test items with the rounded file in the model's place, as the run did, and compare."""
    exact, rounded = made.model, onnx_model.OnnxModel(folder / MODEL / FILE, made.model)
    for side, model in ((evidence.WHOLE, exact), (evidence.ROUNDED, rounded)):
        made.measured(model).save(folder / evidence.FOLDER / side)
    return manifest.verdict(folder)


def _base_there(made: Made, rows: Rows, folder: Path, scratch: Path, kind: str) -> tuple[list[dict[str, Any]], float]:
    """Let the base run there too: what it loses by that is the runtime's rounding, and no adapter's.

    Where weights are to be rounded the base's are too, so that it can be seen what rounding leaves of what was tuned.
    """
    found: dict[str, Scores] = {}

    def both(base: Any) -> None:
        exact, rounded = scratch / "base.onnx", scratch / "base-rounded.onnx"
        onnx_model.write(exact, base)
        made.tokenizer.save_pretrained(scratch)
        found[evidence.BASE] = {**values(made.task, base, rows.asked.items), **_together(made, base, rows)}
        found[evidence.BASE_THERE] = ask(exact, scratch, made, rows)["scores"]
        if kind == "int8":
            onnx_model.rounded(rounded, exact)
            found[evidence.BASE_ROUNDED] = ask(rounded, scratch, made, rows)["scores"]

    made.with_base(both)
    for side, scores in found.items():
        evidence.save(folder, side, scores, _about(rows))
    apart = equal(found[evidence.BASE], found[evidence.BASE_THERE], BASE_MAY)
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
