"""A model whose own weights are tuned: what it takes, and how one that was saved is read again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunelift.adapters.build import check_keys
from tunelift.adapters.methods import trains_whole
from tunelift.adapters.store import adapter_hash
from tunelift.config.schema import ModelSection
from tunelift.core import progress
from tunelift.core.errors import InputError, listed
from tunelift.model_facts.parameters import compute_dtype, device_of, dtype_name
from tunelift.models import is_model, weights
from tunelift.models import load as load_model
from tunelift.models.loader import read_config, was_saved_for
from tunelift.models.saving import check_saves
from tunelift.models.sources import resolve
from tunelift.tasks import Task
from tunelift.training.state import Footprint, size_of


def asks_for_whole(keys: Mapping[str, Any] | Any) -> bool:
    """Tell whether the adapter section's keys, or a ready config, ask for the model's own weights to be trained."""
    return isinstance(keys, Mapping) and trains_whole(str(keys.get("method")))


def check_trainable(model: Any, keys: Mapping[str, Any], optimiser: str = "adamw") -> Footprint:
    """Return what training a model's own weights takes.

    Raises InputError for keys of the adapter section that do nothing here, for weights that are no numbers with a
    point, and for a model that could not be saved again.
    """
    if problems := check_keys({key: value for key, value in keys.items() if value is not None}):
        raise InputError(*problems)
    parameters = dict(model.named_parameters())
    if rounded := [name for name, p in parameters.items() if not p.is_floating_point()]:
        raise InputError(
            f"The model's weights are quantised ({rounded[0]}), and cannot be trained themselves.",
            fix="Train an adapter: leave adapter.method out.",
        )
    if still := [name for name, p in parameters.items() if not p.requires_grad]:
        count = f"{len(still)} of {len(parameters)}"
        progress.note(f"{count} parameters of the model are frozen, and stay so: {listed(still)}")
    check_saves(model)
    moved = (p for p in parameters.values() if p.requires_grad)
    return Footprint.of(moved, size_of(parameters.values()), optimiser)


def loaded_again(section: ModelSection, **how: Any) -> Any:
    """Return a model from files that were loaded before: what there was to be said of them was."""
    with progress.silenced():
        return load_model(section, **how).model


def saved_model(folder: str | Path, like: Any, task: Task) -> Any:
    """Return the model that a folder holds, in the precision and on the device of another."""
    kind, device = dtype_name(compute_dtype(like)), str(device_of(like))
    with progress.silenced():
        loaded = load_model(folder, task=task, dtype=kind, device=device)
    if loaded.fresh:
        raise InputError(f"The model in {folder} lacks {listed(loaded.fresh)}, which would be drawn at random.")
    return loaded.model


def check_same_kind(folder: str | Path, base: Any, task: Task) -> None:
    """Raise InputError where the model in a folder is none that tuning all weights of `base` could have made."""
    found = read_config(*resolve(str(folder)))
    differs = ""
    if found.model_type != base.config.model_type:
        differs = f"is a {found.model_type}, and the base a {base.config.model_type}"
    elif not was_saved_for(found, task):
        differs = f"was saved as {listed(found.architectures or ['nothing'])}, and the task is {task.name}"
    elif task.has_head and found.id2label != base.config.id2label:
        own, others = (listed(config.id2label.values()) for config in (found, base.config))
        differs = f"has a head for {own}, and the base for {others}"
    if differs:
        raise InputError(
            f"The model in {folder} {differs}.",
            fix="Name the model that it was tuned from, or measure both by themselves (tunelift evaluate).",
        )


def tuned_hash(folder: str | Path) -> str:
    """Return the SHA-256 of what was tuned, in hex: of an adapter, or of a whole model's weights."""
    return weights.sha256(Path(folder)) if is_model(Path(folder)) else adapter_hash(folder)
