"""A model whose own weights were trained, in transformers' layout, which stock `from_pretrained` loads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tunelift.core import files
from tunelift.core.errors import InputError
from tunelift.model_facts.anatomy import base_of, is_body
from tunelift.model_facts.pooling import pooling_of
from tunelift.models.loader import quiet
from tunelift.run_files.layout import LINEAGE, LINEAGE_FORMAT


def check_saves(model: Any) -> None:
    """Raise InputError where transformers refuses to write the configs that a model came with.

    Of a generation_config.json it reads more than it writes.
    """
    with TemporaryDirectory() as folder:
        try:
            model.config.save_pretrained(folder)
            if getattr(model, "generation_config", None) is not None:
                model.generation_config.save_pretrained(folder)
        except Exception as error:  # whatever a config's class makes of its own values
            raise InputError(
                f"transformers would not save this {type(model).__name__} again: {str(error).splitlines()[0]}",
                fix="Mend generation_config.json or config.json in the model's folder, or train an adapter.",
            ) from error


def save_model(model: Any, tokenizer: Any, folder: Path, lineage: Mapping[str, Any]) -> Path:
    """Write all weights, the configs and the tokenizer to `folder`, whole or not at all; no network is touched.

    `lineage` says what it was made of, as for an adapter.
    """

    def fill(staging: Path) -> None:
        with quiet():
            model.save_pretrained(staging)
        if tokenizer is not None:
            tokenizer.save_pretrained(staging)
        if is_body(model):
            pooling_of(model).save(staging, base_of(model).config)
        files.write_json(staging / LINEAGE, {"format": LINEAGE_FORMAT, **lineage})

    files.write_folder(folder, fill)
    return folder
