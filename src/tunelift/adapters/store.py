"""An adapter on disk: the stock PEFT layout, the tokenizer beside it, and what it was made on in a file of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunelift.core import files, untrusted
from tunelift.core.errors import InputError, listed
from tunelift.models import trusted

LINEAGE = "tunelift.json"
"""Our own file beside adapter_config.json, since peft warns about keys it does not know."""


def save_adapter(model: Any, tokenizer: Any, folder: Path, lineage: Mapping[str, Any]) -> Path:
    """Write the adapter, and nothing of the base's weights, to `folder`, whole or not at all; no network is touched.

    The active adapter is saved. `lineage` says what it was made on: "base" (name, kind, path, revision,
    weights_sha256), "task" and "labels".
    """
    name, base = model.active_adapter, lineage["base"]
    config = model.peft_config[name]
    config.base_model_name_or_path = base["path"]
    if base.get("kind") == "hub":
        config.revision = base.get("revision")

    def fill(staging: Path) -> None:
        model.save_pretrained(staging, selected_adapters=[name], save_embedding_layers=_embeddings_targeted(config))
        if (staging / name).is_dir():  # where peft puts an adapter that is not called "default"
            for file in (staging / name).iterdir():
                file.rename(staging / file.name)
            (staging / name).rmdir()
        # peft's card is a form to fill in; ours is written with results
        (staging / "README.md").unlink(missing_ok=True)
        _sort_names(staging / "adapter_config.json", config)
        if tokenizer is not None:
            tokenizer.save_pretrained(staging)
        files.write_json(staging / LINEAGE, {"format": 1, **lineage})

    files.write_folder(folder, fill)
    return folder


def _sort_names(file: Path, config: Any) -> None:
    """Write names that peft holds as a set in their order: in each process a set has another."""
    written = files.read_json(file)
    unordered = [key for key in written if isinstance(getattr(config, key, None), (set, frozenset))]
    files.write_json(file, written | {key: sorted(written[key]) for key in unordered})


def read_adapter_config(folder: str | Path) -> dict[str, Any]:
    """Return adapter_config.json of a folder; raise InputError where it is no adapter."""
    folder = Path(folder)
    file = folder / "adapter_config.json"
    if not file.is_file():
        inside = adapters_inside(folder)
        hint = "Give a folder that peft's save_pretrained wrote."
        if inside:
            hint = f"Did you mean {folder / inside[0]}?" if len(inside) == 1 else f"It holds several: {listed(inside)}."
        raise InputError(f"{folder} is not an adapter: it has no adapter_config.json.", fix=hint)
    trusted.check(folder, trusted.ADAPTER)
    config = untrusted.read_object(file)
    if "peft_type" not in config:
        raise InputError(f"{file} is no adapter's config: it has no peft_type.")
    if not (folder / "adapter_model.safetensors").is_file():
        raise InputError(
            f"{folder} has no adapter_model.safetensors.",
            fix="Weights are read from safetensors only: other formats can run code when they are opened.",
        )
    return config


def adapters_inside(folder: Path) -> list[str]:
    """Return the names of folders in a folder that hold adapters, as peft saves each but one called "default"."""
    return sorted(file.parent.name for file in folder.glob("*/adapter_config.json"))


def read_lineage(folder: str | Path) -> dict[str, Any]:
    """Return what the adapter was made on, or an empty mapping for a stock adapter, which does not say.

    Raises InputError for a file that is not as `save_adapter` writes it.
    """
    file = Path(folder) / LINEAGE
    lineage = untrusted.read_object(file) if file.is_file() else {}
    base, labels = lineage.get("base", {}), lineage.get("labels", [])
    sound = isinstance(base, dict) and isinstance(labels, list)
    if not sound or any(not isinstance(text, str | None) for text in [*base.values(), *labels, lineage.get("task")]):
        raise InputError(f"{file} does not say what the adapter was made on: base, task and labels are no texts.")
    return lineage


def adapter_hash(folder: str | Path) -> str:
    """Return the SHA-256 of the adapter's weights and config, in hex."""
    folder = Path(folder)
    both = files.sha256(folder / "adapter_model.safetensors") + files.sha256(folder / "adapter_config.json")
    return hashlib.sha256(both.encode()).hexdigest()


def _embeddings_targeted(config: Any) -> bool:
    """Say it ourselves: peft's own "auto" asks the Hub whether the vocabulary was resized."""
    from peft.utils.constants import EMBEDDING_LAYER_NAMES

    targets = getattr(config, "target_modules", None) or []
    return any(name in ([targets] if isinstance(targets, str) else targets) for name in EMBEDDING_LAYER_NAMES)
