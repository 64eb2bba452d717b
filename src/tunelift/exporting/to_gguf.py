"""Exports for llama.cpp: the merged model, or the adapter alone, each run there before it is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunelift.core import files
from tunelift.core.errors import InputError
from tunelift.exporting import evidence, gguf_file, gguf_lora, k_quants, llama_cpp, manifest, merging, ollama
from tunelift.exporting.checking import FILE, base_runs, check, compared
from tunelift.exporting.equality import FLOOR, Item, Scores, equal, tolerance_of
from tunelift.exporting.gguf_weights import TYPES, Layout
from tunelift.exporting.made import Made, Rows
from tunelift.exporting.rounding import looked_at
from tunelift.exporting.to_transformers import merge
from tunelift.model_facts.anatomy import base_of
from tunelift.untrusted.gguf import read

MODEL, ADAPTER, MODELFILE = "model.gguf", "adapter.gguf", "Modelfile"
GGUF_TYPES = (*TYPES, *k_quants.K_QUANTS)
NO_RUNTIME = "llama.cpp is not installed here: pip install 'tunelift[llama-cpp]'"


def check_gguf(made: Made, kind: str) -> dict[str, Any]:
    """Raise InputError for what llama.cpp would compute otherwise, or has no name for; return the file's metadata."""
    found, model = _metadata(made, kind), base_of(made.model)
    layout, head = Layout.of(model.config), model.get_output_embeddings()
    for name, parameter in merging.base_parameters(made.model).items():
        list(layout.placed(name, tuple(parameter.shape)))
    if made.adapted and merging.untied_bytes(made.model):  # merged, the head has a weight of its own
        layout.name(next(name for name, layer in model.named_modules() if layer is head))
    return found


def _metadata(made: Made, kind: str) -> dict[str, Any]:
    if kind in k_quants.K_QUANTS:
        k_quants.need_quantiser()
    gguf_file.need_package()
    _next_tokens(made)
    if made.adapted:
        merging.check_merges(made.model)
    model = base_of(made.model)
    Layout.of(model.config)
    return gguf_file.model_metadata(model.config, made.tokenizer, made.ends, made.name, kind)


def check_lora_gguf(made: Made, kind: str) -> None:
    """Raise InputError for an adapter that llama.cpp has no place for, or a base that it computes otherwise."""
    if not made.adapted:
        raise InputError("All weights of the model were trained: there is no adapter.", fix="Export it with --to gguf.")
    if kind != "f32":
        raise InputError(
            f"An adapter is written in f32, not in {kind}: it is small, and rounding it would change what it does.",
            fix="Leave --type out.",
        )
    _metadata(made, "f32")
    gguf_lora.check_lora(made.model)


def _next_tokens(made: Made) -> None:
    if not made.task.next_token:
        raise InputError(
            f"The task is {made.task.name}, whose head llama.cpp does not have.", fix="Export it with --to merged."
        )


def to_gguf(made: Made, rows: Rows, folder: Path, kind: str) -> None:
    """Write model.gguf, a Modelfile and the proof; raise ExportFailed where it does not do what was measured."""
    values, scratch = check_gguf(made, kind), folder / manifest.SCRATCH
    scratch.mkdir()
    runs = llama_cpp.is_there()
    checks, allowed = _base_there(made, rows, folder, scratch, kind) if runs else ([], FLOOR)
    right = made.scores(rows.asked.items)
    evidence.save(folder, evidence.MODEL, right, rows.about)
    if made.adapted:
        right = merge(made, rows, folder, right, checks)
    exact = scratch / "exact.gguf" if kind != "f32" else folder / MODEL
    facts = _write(made, values, kind, folder / MODEL, exact)
    files.write_text(folder / MODELFILE, ollama.modelfile(f"./{MODEL}", made.tokenizer, made.ends, chats=made.chats))
    checks.append(says(folder / MODEL, made))
    verdict = None
    if runs:
        if not exact.exists():  # names, turns and tokens are proved in 32 bits, and the rounding is judged
            gguf_file.write_model(exact, made.model, values | EXACT, "f32")
        answer = llama_cpp.ask(exact, rows.asked.items, **rows.asked.request)
        evidence.save(folder, evidence.EXPORTED, answer["scores"], rows.about)
        checks += compared(rows.asked, answer, right, allowed)
        if kind != "f32":
            exact.unlink()
            found, verdict = looked_at(made, rows, folder, lambda some: _scores(folder / MODEL, some), KEEPS)
            checks += found
    facts = {**made.facts, "to": "gguf", "type": kind, **facts, "verdict": verdict}
    manifest.close(folder, facts, checks, llama_cpp.named() if runs else None, NO_RUNTIME)


EXACT = {"general.file_type": 0}
KEEPS = "a wider type, or the adapter alone (--to lora-gguf),"


def _scores(file: Path, items: Sequence[Item]) -> Scores:
    found: Scores = llama_cpp.ask(file, items)["scores"]
    return found


def _write(made: Made, values: Mapping[str, Any], kind: str, file: Path, exact: Path) -> dict[str, Any]:
    """Write the file, by way of the `exact` one where llama.cpp rounds it; return which types its tensors have."""
    if kind not in k_quants.K_QUANTS:
        return {"tensors": gguf_file.write_model(file, made.model, values, kind)}
    gguf_file.write_model(exact, made.model, {**values, **EXACT}, "f32")
    k_quants.quantise(exact, file, kind)
    types, by_width = k_quants.types_of(file)
    return {"tensors": types, "fell_back": by_width, "quantiser": k_quants.named()}


def to_lora_gguf(made: Made, rows: Rows, folder: Path, kind: str) -> None:
    """Write adapter.gguf and the proof, on a file of the base in 32 bits; raise as `to_gguf` does."""
    check_lora_gguf(made, kind)
    scratch = folder / manifest.SCRATCH
    scratch.mkdir()
    runs = llama_cpp.is_there()
    checks, allowed = _base_there(made, rows, folder, scratch) if runs else ([], FLOOR)
    layers = gguf_lora.write_lora(folder / ADAPTER, made.model, made.name, kind)
    right = made.scores(rows.asked.items)
    evidence.save(folder, evidence.MODEL, right, rows.about)
    text = ollama.modelfile("BASE.gguf", made.tokenizer, made.ends, f"./{ADAPTER}", made.chats)
    files.write_text(folder / MODELFILE, text)
    if runs:
        answer = llama_cpp.ask(scratch / "base.gguf", rows.asked.items, lora=folder / ADAPTER, **rows.asked.request)
        evidence.save(folder, evidence.EXPORTED, answer["scores"], rows.about)
        checks += compared(rows.asked, answer, right, allowed)
    facts = {**made.facts, "to": "lora-gguf", "type": kind, "layers": layers, "verdict": None}
    manifest.close(folder, facts, checks, llama_cpp.named() if runs else None, NO_RUNTIME)


def _base_there(
    made: Made, rows: Rows, folder: Path, scratch: Path, kind: str = "f32"
) -> tuple[list[dict[str, Any]], float]:
    """Let the base run there too: what it loses by that is the runtime's rounding, and no adapter's.

    Where weights are to be rounded the base's are too, so that it can be seen what rounding leaves of what was tuned.
    """
    file, items = scratch / "base.gguf", rows.asked.items
    here = made.base_scores(items)
    values = _metadata(made, "f32")
    layout, own = Layout.of(base_of(made.model).config), merging.base_parameters(made.model)
    gguf_file.write(file, values, lambda: layout.tensors(own), "f32")
    there = _scores(file, items)
    evidence.save(folder, evidence.BASE, here, rows.about)
    evidence.save(folder, evidence.BASE_THERE, there, rows.about)
    if kind != "f32":
        rounded = scratch / "base-rounded.gguf"
        if kind in k_quants.K_QUANTS:
            k_quants.quantise(file, rounded, kind)
        else:
            gguf_file.write(rounded, _metadata(made, kind), lambda: layout.tensors(own), kind)
        evidence.save(folder, evidence.BASE_ROUNDED, _scores(rounded, items), rows.about)
        rounded.unlink()
    found = equal(here, there, BASE_MAY)
    return [base_runs(found)], tolerance_of(found)


BASE_MAY = 5e-3
"""Nats: more than llama.cpp's rounding of GELU to 16 bits shows (docs/exports.md), and less than any fault seen."""


def says(file: Path, made: Made) -> dict[str, Any]:
    """Read the file back: a runtime that lacks a template or an end takes one of its own, in silence."""
    said, tokenizer = read(file).metadata, made.tokenizer
    wrong = [
        f"{key} is {said.get(f'tokenizer.{key}')!r:.80}, not {value!r:.80}"
        for key, value in {
            "chat_template": tokenizer.chat_template or None,
            "ggml.eos_token_id": tokenizer.eos_token_id,
            "ggml.bos_token_id": tokenizer.bos_token_id,
        }.items()
        if said.get(f"tokenizer.{key}") != value
    ]
    return check(FILE, not wrong, "; ".join(wrong) or "end, beginning and chat template")
