"""A LoRA or DoRA for mlx-lm, run there on its base before it is kept.

mlx-lm has one rank and one scale for all layers: the scale of each is in B, and smaller ranks are filled up with zeros.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tunelift.core import files, progress
from tunelift.core.errors import InputError
from tunelift.exporting import evidence, manifest, merging, mlx_runtime
from tunelift.exporting.checking import Asked, base_runs, compared
from tunelift.exporting.equality import equal, tolerance_of
from tunelift.exporting.lora_factors import check_plain, factors, floats
from tunelift.exporting.made import Made, Rows
from tunelift.model_facts.anatomy import base_of
from tunelift.models.architectures import Floats
from tunelift.models.mlx_names import names_of, to_mlx
from tunelift.run_files.layout import ADAPTER_CONFIG

CONFIG, WEIGHTS = ADAPTER_CONFIG, "adapters.safetensors"
"""mlx-lm's own names of the files of an adapter; peft has the same of its config."""

MERGED = "Export it with --to merged: mlx_lm.convert reads transformers' layout."
NO_RUNTIME = "mlx-lm is not installed here: pip install 'tunelift[mlx]'"
BASE_MAY = 1e-3
"""Nats: more than two implementations in 32 bits show (docs/exports.md), and less than any fault seen."""


def check_mlx(made: Made, kind: str) -> None:
    """Raise InputError for an adapter that mlx-lm has no place for."""
    if not made.adapted:
        raise InputError("All weights of the model were trained: there is no adapter.", fix=MERGED)
    if kind != "f32":
        raise InputError(f"An adapter is written in f32, not in {kind}.", fix="Leave --type out.")
    if not made.task.next_token:
        raise InputError(f"The task is {made.task.name}, whose head mlx-lm does not have.", fix=MERGED)
    names_of(base_of(made.model).config.model_type)
    check_plain(made.model, "mlx-lm", MERGED, dora=True)
    tensors(made.model)


def to_mlx_adapter(made: Made, rows: Rows, folder: Path, kind: str) -> None:
    """Write adapters.safetensors, its config and the proof; raise ExportFailed where it does not act as measured."""
    check_mlx(made, kind)
    scratch = folder / manifest.SCRATCH
    scratch.mkdir()
    layers, checks, items = write(folder, made.model), list[dict[str, Any]](), rows.asked.items
    right = made.scores(items)
    evidence.save(folder, evidence.MODEL, right, rows.about)
    if runs := mlx_runtime.is_there():
        base = made.base_scores(items)
        write_base(scratch, base_of(made.model), merging.base_parameters(made.model))
        answer = mlx_runtime.ask(scratch, items, folder)
        for side, scores in (
            (evidence.BASE, base),
            (evidence.BASE_THERE, answer["base"]),
            (evidence.EXPORTED, answer["scores"]),
        ):
            evidence.save(folder, side, scores, rows.about)
        alone = equal(base, answer["base"], BASE_MAY)
        checks = [base_runs(alone), *compared(Asked(items), answer, right, tolerance_of(alone))]
    facts = {**made.facts, "to": "mlx", "type": kind, "layers": layers, "verdict": None}
    manifest.close(folder, facts, checks, mlx_runtime.named() if runs else None, NO_RUNTIME)


def tensors(adapted: Any) -> dict[str, Floats]:
    """Return the tensors of an adapter by mlx-lm's names: A as (inputs, rank), B as (rank, outputs), magnitudes.

    Raises InputError for a layer that has no name there.
    """
    from peft.tuners.lora.layer import Embedding

    kind = base_of(adapted).config.model_type
    found = {to_mlx(path, kind): (path, a, b) for path, a, b in factors(adapted, MERGED)}
    rank = max(b.shape[1] for _, _, b in found.values())
    made: dict[str, Floats] = {}
    for name, (path, a, b) in found.items():
        layer = base_of(adapted).get_submodule(path)
        looked_up = isinstance(layer, Embedding)
        made[f"{name}.lora_a"] = _filled(a if looked_up else a.T, rank, 1)
        made[f"{name}.lora_b"] = _filled(b.T, rank, 0)
        if magnitude := dict(layer.lora_magnitude_vector.items()).get(adapted.active_adapter):
            if looked_up:
                raise InputError(f"{path} are embeddings with DoRA, which mlx-lm computes otherwise.", fix=MERGED)
            made[f"{name}.m"] = floats(magnitude.weight).reshape(-1)
    return made


def write(folder: Path, adapted: Any) -> int:
    """Write the active adapter; return how many layers it changes."""
    from safetensors.numpy import save_file

    made = tensors(adapted)
    names = sorted({name.rpartition(".")[0] for name in made})
    config = adapted.peft_config[adapted.active_adapter]
    value = {
        "fine_tune_type": "dora" if config.use_dora else "lora",
        "num_layers": base_of(adapted).config.num_hidden_layers,
        "lora_parameters": {
            "rank": made[f"{names[0]}.lora_b"].shape[0],
            "scale": 1.0,
            "dropout": 0.0,
            "keys": names,
        },
    }
    save_file(made, folder / WEIGHTS)
    files.write_json(folder / CONFIG, value)
    return len(names)


def _filled(factor: Floats, rank: int, axis: int) -> Floats:
    """Fill a factor up with zeros to a rank; what it stands for stays the same."""
    missing = [(0, rank - factor.shape[axis] if index == axis else 0) for index in range(2)]
    return np.ascontiguousarray(np.pad(factor, missing))


def write_base(folder: Path, model: Any, parameters: Mapping[str, Any]) -> None:
    """Write a base in transformers' layout as mlx-lm reads it, which is by the names that transformers 4 wrote.

    Of rotary settings by the names of transformers 5 mlx-lm takes defaults, in silence. It multiplies Gemma 3's
    embeddings by a root rounded to 16 bits, for which those that are written make up: an adapter is proved in 32 bits.
    """
    import torch
    from safetensors.torch import load_file, save_file

    kind, file = model.config.model_type, folder / "model.safetensors"
    with progress.silenced():
        model.save_pretrained(folder, state_dict=dict(parameters), max_shard_size="1000GB")
    names = names_of(kind)
    if names.ours != names.theirs:
        save_file({name.removeprefix(names.ours): one for name, one in load_file(file).items()}, file)
    if kind == "gemma3_text":
        held, exact = load_file(file), torch.tensor(model.config.hidden_size**0.5)
        held.setdefault("lm_head.weight", held[EMBEDDINGS])
        held[EMBEDDINGS] = held[EMBEDDINGS] * (exact / exact.bfloat16().float())
        save_file(held, file)
    value = files.read_object(folder / "config.json") | _as_before(model.config)
    files.write_json(folder / "config.json", value)


EMBEDDINGS = "model.embed_tokens.weight"


def _as_before(config: Any) -> dict[str, Any]:
    """Return what of a config has another name in transformers 5 than in mlx-lm."""
    names = {"n_ctx": "n_positions", "num_experts": "num_experts"}
    found = {theirs: getattr(config, ours) for theirs, ours in names.items() if hasattr(config, ours)}
    if not (rope := getattr(config, "rope_parameters", None)):
        return found
    whole = rope.get("full_attention", rope)
    found["rope_theta"] = whole["rope_theta"]
    if "sliding_attention" in rope:
        found["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
    if whole["rope_type"] != "default":
        found["rope_scaling"] = {key: value for key, value in whole.items() if key != "rope_theta"}
    if "partial_rotary_factor" in whole:
        found["partial_rotary_factor"] = whole["partial_rotary_factor"]
    return found
