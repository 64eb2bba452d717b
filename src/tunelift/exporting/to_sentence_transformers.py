"""The merged sentence model with all that sentence-transformers reads, run there in a process of its own."""

from __future__ import annotations

import importlib.util
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from tunelift.core import progress
from tunelift.core.errors import InputError
from tunelift.exporting import evidence, manifest, sentence_vectors
from tunelift.exporting.checking import ExportFailed, compared
from tunelift.exporting.equality import FACTOR, FLOOR
from tunelift.exporting.made import Made, Rows
from tunelift.exporting.processes import answer_of
from tunelift.exporting.to_transformers import MODEL, check_merged, merge
from tunelift.model_facts.pooling import pooling_of
from tunelift.models.saving import save_model

PACKAGE = "sentence_transformers"
NO_RUNTIME = "sentence-transformers is not installed here: pip install 'tunelift[embeddings]'"


def check_sentence(made: Made, kind: str) -> None:
    """Raise InputError for a model that makes no vectors, and for what cannot be merged."""
    if not made.task.reads_states:
        raise InputError(
            f"The task is {made.task.name}: its models make no vector of a text, as sentence-transformers wants it.",
            fix="Export it with --to merged.",
        )
    check_merged(made, kind)


def to_sentence_transformers(made: Made, rows: Rows, folder: Path, kind: str) -> None:
    """Write model/ and the proof; raise ExportFailed where the vectors of sentence-transformers are others.

    Texts are cut there to as many tokens as they were when the run was measured.
    """
    check_sentence(made, kind)
    right, checks = made.scores(rows.asked.items), list[dict[str, Any]]()
    evidence.save(folder, evidence.MODEL, right, rows.about)
    evidence.save(folder, evidence.BASE, made.base_scores(rows.asked.items), rows.about)
    pooling = pooling_of(made.model).cut_to(rows.longest)
    if made.adapted:
        base = made.facts["made_of"]["model"]["name"]
        progress.note(f"sentence-transformers reads {made.folder} as it lies too, where its base is ({base})")
        right = merge(made, rows, folder, right, checks)
    with progress.silenced():
        save_model(made.model, made.tokenizer, folder / MODEL, made.lineage)
    pooling.save(folder / MODEL, made.model.config)
    runs = importlib.util.find_spec(PACKAGE) is not None
    facts = {**made.facts, "to": "sentence-transformers", "type": kind, "verdict": None, "max_length": rows.longest}
    if runs:
        facts["runtime"] = f"sentence-transformers {version('sentence-transformers')}"
        answer = ask(folder / MODEL, rows)
        evidence.save(folder, evidence.EXPORTED, answer["scores"], rows.about)
        checks += compared(rows.asked, answer, right, FACTOR * FLOOR)
    if not all(one["passed"] for one in checks):
        raise ExportFailed(checks)
    manifest.write(folder, facts, checks, manifest.too_alike(folder) if runs else NO_RUNTIME)


def ask(folder: Path, rows: Rows) -> dict[str, Any]:
    """Let sentence-transformers make the vectors, in a process that imports nothing of ours."""
    request = {
        "model": str(folder.resolve()),
        "threads": torch.get_num_threads(),
        "items": [[one.name, rows.about[one.name][0]] for one in rows.asked.items],
        "texts": [text for text, _ in rows.asked.texts],
    }
    program = [str(Path(sentence_vectors.__file__))]
    return answer_of(program, request, f"sentence-transformers does not read {folder}")
