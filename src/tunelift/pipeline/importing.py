"""An adapter of another program made one in stock peft's layout, and compared with what that program makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunelift.adapters.store import save_adapter
from tunelift.core import files, progress
from tunelift.core.errors import InputError
from tunelift.data.sources import read_rows
from tunelift.exporting import importing
from tunelift.exporting.equality import Item
from tunelift.exporting.foreign import kind_of, read_foreign
from tunelift.exporting.manifest import EXPORT_FORMAT, IMPORT, PROVED, UNPROVED, hashes
from tunelift.exporting.space import alone, check_space
from tunelift.models import load
from tunelift.tasks import DEFAULT

TEXTS, TOKENS = 4, 48
"""Texts that an import is proved on, and tokens of each."""


def import_stage(adapter: str | Path, model: str, output: str | Path, revision: str | None = None) -> dict[str, Any]:
    """Write an adapter of mlx-lm or llama.cpp for stock peft; return what import.json, beside it, says.

    Raises InputError for what is no LoRA on that base, before anything is written, and ExportFailed where what was
    written acts otherwise than the adapter does in its own program; then nothing is kept.
    """
    source, folder = Path(adapter), Path(output)
    kind = kind_of(source)
    with alone(folder):
        loaded = load(model, dtype="float32", device="cpu", revision=revision)
        foreign = read_foreign(source, loaded.model)
        adapted = importing.put_on(loaded.model, foreign)
        runtime, missing = importing.runtime_of(foreign)
        base = sum(4 * parameter.numel() for parameter in loaded.model.parameters())
        check_space(folder, 2 * base if runtime else base // 10)  # the base, as the other program has it, is there too
        said: dict[str, Any] = {
            "format": EXPORT_FORMAT,
            "of": kind,
            "layers": len(foreign.factors),
            "made_of": {"model": loaded.identity.to_dict()},
            "source": {file.name: files.sha256(file) for file in _files(source)},
            "status": PROVED if runtime else UNPROVED,
            **({"runtime": runtime} if runtime else {"reason": missing}),
            "proofs": [],
        }
        lineage = {"base": loaded.identity.to_dict(), "task": DEFAULT.name, "labels": []}

        def fill(staging: Path) -> None:
            made = save_adapter(adapted, None, staging / "peft", lineage)
            base = adapted.unload()
            if runtime:
                progress.note(f"import: compared in {runtime}")
                said["proofs"] = importing.prove(
                    source, foreign, base, loaded.tokenizer, _items(loaded.tokenizer), made
                )
            for file in made.iterdir():
                file.rename(staging / file.name)
            made.rmdir()
            said["files"] = hashes(staging)
            files.write_json(staging / IMPORT, said)

        files.write_folder(folder, fill)
    return said


def _files(source: Path) -> list[Path]:
    return sorted(source.glob("adapter*")) if source.is_dir() else [source]


def _items(tokenizer: Any) -> list[Item]:
    """Return the beginnings of texts that come with the package, as token ids."""
    found = []
    for row in read_rows("general-text").rows[:TEXTS]:
        ids = tuple(tokenizer(row["text"]).input_ids[:TOKENS])
        found.append(Item(str(row["id"]), ids, tuple(range(1, len(ids)))))
    if not all(item.targets for item in found):
        raise InputError("The tokenizer makes no tokens of English text, so that no import can be proved.")
    return found
