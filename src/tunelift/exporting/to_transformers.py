"""The merged model in transformers' layout, read back by stock transformers in a process of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tunelift.core import progress
from tunelift.core.errors import InputError
from tunelift.exporting import evidence, manifest, merging, stock
from tunelift.exporting.checking import ExportFailed, check, compared
from tunelift.exporting.equality import FACTOR, FLOOR, Scores, equal
from tunelift.exporting.made import Made, Rows
from tunelift.exporting.processes import answer_of
from tunelift.model_facts.anatomy import base_of
from tunelift.models.saving import check_saves, save_model

MODEL = "model"


def check_merged(made: Made, kind: str) -> None:
    """Raise InputError for what cannot be merged, or not be written as transformers has it."""
    if kind != "f32":
        raise InputError(
            f"A merged model is written in f32, not in {kind}.", fix="Leave --type out; --to gguf has other types."
        )
    if made.adapted:
        merging.check_merges(made.model)
    check_saves(base_of(made.model))


def merge(made: Made, rows: Rows, folder: Path, right: Scores, checks: list[dict[str, Any]]) -> Scores:
    """Merge the adapter into the model; return its scores, and add to `checks` whether they are the `right` ones."""
    made.model = merging.merged(made.model)
    own = made.scores(rows.asked.items)
    evidence.save(folder, evidence.MERGED, own, rows.about)
    found = equal(right, own, manifest.MERGING)
    detail = f"{found.largest:.2g} apart at most, {found.tolerance:.2g} allowed"
    checks.append(check("merged, it has the same scores", found.holds, detail))
    return own


def to_merged(made: Made, rows: Rows, folder: Path, kind: str) -> None:
    """Write model/ and the proof; raise ExportFailed where another process does not give the same scores."""
    check_merged(made, kind)
    right, checks = made.scores(rows.asked.items), list[dict[str, Any]]()
    evidence.save(folder, evidence.MODEL, right, rows.about)
    if base := made.base_scores(rows.asked.items):  # none where every item has a token that the adapter brought
        evidence.save(folder, evidence.BASE, base, rows.about)
    if made.adapted:
        right = merge(made, rows, folder, right, checks)
    if made.task.next_token and made.ends:
        made.model.generation_config.eos_token_id = made.ends
    if not all(one["passed"] for one in checks):
        raise ExportFailed(checks)
    with progress.silenced():
        save_model(made.model, made.tokenizer, folder / MODEL, made.lineage)
    answer = ask(folder / MODEL, made, rows)
    evidence.save(folder, evidence.EXPORTED, answer["scores"], rows.about)
    checks += compared(rows.asked, answer, right, FACTOR * FLOOR)
    if not all(one["passed"] for one in checks):
        raise ExportFailed(checks)
    import transformers

    runtime = f"transformers {transformers.__version__}"
    facts = {**made.facts, "to": "merged", "type": kind, "runtime": runtime, "verdict": None}
    manifest.write(folder, facts, checks, manifest.too_alike(folder))


def ask(folder: Path, made: Made, rows: Rows) -> dict[str, Any]:
    """Let stock transformers answer, in a process that imports nothing of ours."""
    request = {
        "model": str(folder.resolve()),
        "auto_class": made.task.auto_class,
        "threads": torch.get_num_threads(),
        "items": [[one.name, list(one.ids), list(one.targets), _listed(one.segments)] for one in rows.asked.items],
        **rows.asked.request,
    }
    return answer_of([str(Path(stock.__file__))], request, f"Stock transformers does not read {folder}")


def _listed(segments: tuple[int, ...] | None) -> list[int] | None:
    return None if segments is None else list(segments)
